"""How factors reach an optimizer.

The schedule owns ``group["lr"]``, TempBalance owns factors per parameter, and the two meet only inside ``step``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .optimizer_kinds import is_deepspeed, is_of_deepspeed, keeps_state_by_parameter, levels_of


Group = dict[str, Any]
Factors = Mapping[str, float]  # key of a parameter group, such as "lr" -> number that its value is multiplied with
SCALABLE = ("lr", "weight_decay")  # the keys that may have a factor


class VirtualGroups:
    """Lets ``optimizer.step()`` see each group split by layer, with values such as ``lr`` times the layer's factors.

    While ``step`` runs, ``param_groups`` holds split copies of the groups; afterwards, whatever happened, the
    originals, with what the optimizer wrote into the copies (timm's LAMB counts its steps there). Schedules,
    checkpoints and logs therefore never meet a multiplied value.

    Args:
        optimizer: a torch optimizer, or a wrapper with ``param_groups`` and ``step`` such as Accelerate's. Of a
            DeepSpeed optimizer, whose own step runs inside ``backward``, the torch optimizer in it is wrapped.
        layer_of: parameter -> name of the layer whose multiplier it takes, or None. Must not change between steps:
            some optimizers look their state up by a group's position. A group that `LayerGroups` made has its layer
            in it, and DeepSpeed ZeRO keeps flat parts of parameters in such groups.
        factors_of: layer name or None -> `Factors`, Python floats.
        before_step: called at the beginning of every step; of DeepSpeed ZeRO's, which steps the torch optimizer once
            for each group, also of those that it skips because a gradient overflowed.
        takes_part: whether the factors count now. Where it says no, ``step`` is the plain one, and another object of
            this class may take this one's place.

    Raises:
        RuntimeError: the optimizer has such groups already, and they take part.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        layer_of: Callable[[Tensor], str | None],
        factors_of: Callable[[str | None], Factors],
        before_step: Callable[[], None] = lambda: None,
        takes_part: Callable[[], bool] = lambda: True,
    ) -> None:
        levels = levels_of(optimizer)
        for level in levels:
            other = getattr(level.step, "tempbalance", None)
            if isinstance(other, VirtualGroups):
                if other.takes_part():
                    raise RuntimeError(
                        "This optimizer is balanced already, and multipliers would apply twice. Use one of "
                        "TempBalanceCallback, TempBalanceTrainer and TempBalancer, or call detach() on the first."
                    )
                other.detach()  # left behind by a training that was interrupted
        self.optimizer: Any = levels[-1] if is_deepspeed(optimizer) else optimizer
        self._zero: Any = next(filter(is_of_deepspeed, levels[:-1]), None)
        self.layer_of = layer_of
        self.factors_of = factors_of
        self.before_step = before_step
        self.takes_part: Callable[[], bool] = takes_part
        self._step: Any = None
        self._remembered: dict[tuple[int, ...], list[tuple[str | None, list[Tensor]]]] = {}
        # torch's own optimizers keep their state by parameter, so groups of one rate can be one group and one launch.
        self._merges = keeps_state_by_parameter(levels[-1])
        self._attach()

    def _attach(self) -> None:
        inner_step = self.optimizer.step
        self._own_step = vars(self.optimizer).get("step")  # what a schedule has put there, to be put back

        @functools.wraps(inner_step)
        def step(*args: Any, **kwargs: Any) -> Any:
            # torch's schedules mark `step` to see whether it ran; ours stands in for their mark.
            self.optimizer._opt_called = True
            # Detached while somebody else's wrapper still holds this function, or left behind.
            if self._step is None or not self.takes_part():
                return inner_step(*args, **kwargs)
            return self._split_step(inner_step, *args, **kwargs)

        wrapped: Any = step
        wrapped._wrapped_by_lr_sched = True
        wrapped.tempbalance = self
        self._step = self.optimizer.step = wrapped
        if self._zero is not None:
            zero_step = self._zero.step

            @functools.wraps(zero_step)
            def announced(*args: Any, **kwargs: Any) -> Any:
                if self._step is not None and self.takes_part():
                    self.before_step()
                return zero_step(*args, **kwargs)

            self._announced = self._zero.step = announced

    def detach(self) -> None:
        """Take the wrapper off again. Harmless when it is off already."""
        if self._step is not None and vars(self.optimizer).get("step") is self._step:
            if self._own_step is None:
                del self.optimizer.step
            else:
                self.optimizer.step = self._own_step
        if self._zero is not None and vars(self._zero).get("step") is self._announced:
            del self._zero.step
        self._step = None

    def forget(self) -> None:
        """Ask ``layer_of`` again: parameters have come or gone."""
        self._remembered.clear()

    def _split_step(self, inner_step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._zero is None:
            self.before_step()
        groups = self.optimizer.param_groups
        originals = list(groups)
        split = [self._views(group) for group in originals]
        given = [[view.copy() for view in views] for views in split]
        groups[:] = [view for views in split for view in views]  # in place: wrappers hold aliases of this list
        try:
            return inner_step(*args, **kwargs)
        finally:
            groups[:] = originals
            for group, views, before in zip(originals, split, given, strict=True):
                _carry_over(group, views, before)

    def _views(self, group: Group) -> list[Group]:
        if "lr_multiplier" in group:
            return [_scaled(group, group["params"], self.factors_of(group["layer"]))]
        parts = [(self.factors_of(layer), parameters) for layer, parameters in self._parts(group["params"])]
        if self._merges:
            merged: dict[tuple[tuple[str, float], ...], tuple[Factors, list[Tensor]]] = {}
            for factors, parameters in parts:
                key = tuple(factors.items())
                merged[key] = factors, (merged[key][1] + parameters if key in merged else parameters)
            parts = list(merged.values())
        views = [_scaled(group, parameters, factors) for factors, parameters in parts]
        if any(isinstance(value, Tensor) for value in group.values()):
            # A tensor that the optimizer changes in place must not be changed once per view.
            for view in views[1:]:
                view.update({key: value.clone() for key, value in view.items() if isinstance(value, Tensor)})
        return views or [dict(group)]

    def _parts(self, parameters: list[Tensor]) -> list[tuple[str | None, list[Tensor]]]:
        """The parameters by layer; remembered, since this runs at every step."""
        key = tuple(map(id, parameters))
        if key not in self._remembered:
            members: dict[str | None, list[Tensor]] = {}
            for parameter in parameters:
                members.setdefault(self.layer_of(parameter), []).append(parameter)
            self._remembered[key] = list(members.items())
        return self._remembered[key]


def _scaled(group: Group, parameters: list[Tensor], factors: Factors) -> Group:
    """The group with these parameters alone and its values times the factors."""
    view = group.copy()
    view["params"] = parameters
    for key, factor in factors.items():
        view[key] = group[key] * factor
    return view


def _carry_over(group: Group, views: list[Group], given: list[Group]) -> None:
    """Copy into the group what the optimizer wrote into its views; of several views the first that has a change."""
    own = dict(group)
    for view, before in zip(reversed(views), reversed(given), strict=True):
        if _is_unchanged(view, before):
            continue
        for key, value in view.items():
            if key == "params" or (key in before and value is before[key]):
                continue
            if key not in SCALABLE or own.get(key) == before.get(key):
                group[key] = value
            elif before[key]:  # an optimizer that sets its own rate: the factor is not part of it
                group[key] = value * (own[key] / before[key])


def _is_unchanged(view: Group, before: Group) -> bool:
    try:
        return view == before  # values that are the same object are not compared
    except (RuntimeError, ValueError):  # a tensor or array was put there, and has no truth value
        return False
