"""How multipliers reach an optimizer.

The schedule owns ``group["lr"]``, TempBalance owns a multiplier per parameter, and the two meet only inside ``step``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


Group = dict[str, Any]

# Why an optimizer can't be given one rate per layer, and what to do instead.
REFUSALS = {
    "LBFGS": "it computes one step for all parameters together",
    "LayerWiseDummyOptimizer": "it updates inside backward; use the variant of the optimizer that is not layer-wise",
    "Lomo": "it updates inside backward",
    "AdaLomo": "it updates inside backward",
}


class VirtualGroups:
    """Lets ``optimizer.step()`` see each group split by layer, with rate ``lr * multiplier``, and nobody else.

    While ``step`` runs, ``param_groups`` holds split copies of the groups; afterwards, whatever happened, the
    originals, with what the optimizer wrote into the copies (timm's LAMB counts its steps there). Schedules,
    checkpoints and logs therefore never meet a multiplied rate.

    Args:
        optimizer: a torch optimizer, or a wrapper with ``param_groups`` and ``step`` such as Accelerate's. Of a
            DeepSpeed optimizer, whose own step runs inside ``backward``, the torch optimizer in it is wrapped.
        layer_of: parameter -> name of the layer whose multiplier it takes, or None. Must not change between steps:
            some optimizers look their state up by a group's position. A group that `LayerGroups` made has its layer
            in it, and DeepSpeed ZeRO keeps flat parts of parameters in such groups.
        multiplier_of: layer name or None -> multiplier, a Python float.
        before_step: called at the beginning of every step; of DeepSpeed ZeRO's, which steps the torch optimizer once
            for each group, also of those that it skips because a gradient overflowed.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        layer_of: Callable[[Tensor], str | None],
        multiplier_of: Callable[[str | None], float],
        before_step: Callable[[], None] = lambda: None,
    ) -> None:
        levels = _levels(optimizer)
        if any(isinstance(getattr(level.step, "tempbalance", None), VirtualGroups) for level in levels):
            raise RuntimeError(
                "This optimizer is balanced already, and multipliers would apply twice. Use one of "
                "TempBalanceCallback, TempBalanceTrainer and TempBalancer, or call detach() on the first."
            )
        self.optimizer = levels[-1] if is_deepspeed(optimizer) else optimizer
        self._zero = next(filter(_is_of_deepspeed, levels[:-1]), None)
        self.layer_of = layer_of
        self.multiplier_of = multiplier_of
        self.before_step = before_step
        self._remembered: dict[tuple[int, ...], list[tuple[str | None, list[Tensor]]]] = {}
        # torch's own optimizers keep their state by parameter, so groups of one rate can be one group and one launch.
        self._merges = type(levels[-1]).__module__.startswith("torch.optim")
        self._attach()

    def _attach(self) -> None:
        inner_step = self.optimizer.step
        self._own_step = vars(self.optimizer).get("step")  # what a schedule has put there, to be put back

        @functools.wraps(inner_step)
        def step(*args: Any, **kwargs: Any) -> Any:
            # torch's schedules mark `step` to see whether it ran; ours stands in for their mark.
            self.optimizer._opt_called = True
            if self._step is None:  # detached while somebody else's wrapper still holds this function
                return inner_step(*args, **kwargs)
            return self._split_step(inner_step, *args, **kwargs)

        step._wrapped_by_lr_sched = True
        step.tempbalance = self
        self._step = self.optimizer.step = step
        if self._zero is not None:
            zero_step = self._zero.step

            @functools.wraps(zero_step)
            def announced(*args: Any, **kwargs: Any) -> Any:
                if self._step is not None:
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
            return [group | {"lr": group["lr"] * self.multiplier_of(group["layer"])}]
        parts = [(self.multiplier_of(layer), parameters) for layer, parameters in self._parts(group["params"])]
        if self._merges:
            merged: dict[float, list[Tensor]] = {}
            for multiplier, parameters in parts:
                merged[multiplier] = merged[multiplier] + parameters if multiplier in merged else parameters
            parts = list(merged.items())
        views = []
        for multiplier, parameters in parts:
            view = group.copy()
            view["params"], view["lr"] = parameters, group["lr"] * multiplier
            views.append(view)
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


def _carry_over(group: Group, views: list[Group], given: list[Group]) -> None:
    """Copy into the group what the optimizer wrote into its views; of several views the first that has a change."""
    lr = group["lr"]
    for view, before in zip(reversed(views), reversed(given), strict=True):
        if _is_unchanged(view, before):
            continue
        for key, value in view.items():
            if key == "params" or (key in before and value is before[key]):
                continue
            if key != "lr":
                group[key] = value
            elif before["lr"]:  # an optimizer that sets its own rate: the multiplier is not part of it
                group["lr"] = value * (lr / before["lr"])


def _is_unchanged(view: Group, before: Group) -> bool:
    try:
        return view == before  # values that are the same object are not compared
    except (RuntimeError, ValueError):  # a tensor or array was put there, and has no truth value
        return False


def _levels(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    """The optimizer and those inside it, the innermost last; Accelerate's and DeepSpeed's hold the real one."""
    levels = [optimizer]
    while (inner := getattr(levels[-1], "optimizer", None)) is not None and hasattr(inner, "param_groups"):
        levels.append(inner)
    return levels


def is_deepspeed(optimizer: torch.optim.Optimizer) -> bool:
    """Whether DeepSpeed runs the optimizer, inside ``engine.backward`` under Accelerate."""
    is_wrapper = type(optimizer).__name__ == "DeepSpeedOptimizerWrapper"
    return is_wrapper or any(map(_is_of_deepspeed, _levels(optimizer)))


def _is_of_deepspeed(level: torch.optim.Optimizer) -> bool:
    return type(level).__module__.startswith("deepspeed")


def is_schedule_free(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer averages weights by itself, with the state of the average in its groups."""
    return any("train_mode" in group for group in optimizer.param_groups)


def check_optimizer(optimizer: torch.optim.Optimizer, tuned: list[Tensor], *, has_layer_groups: bool = False) -> None:
    """Refuse, in one sentence, an optimizer through which rates per layer can't be applied.

    Args:
        optimizer: the optimizer or a wrapper of it.
        tuned: the parameters that get a multiplier.
        has_layer_groups: whether each layer has a group of its own, or is about to get one.

    Raises:
        ValueError: its class can't be split, it keeps none or only some of the tuned parameters, or a trial on two
            throw-away parameters shows that it ignores the rates of its groups.
    """
    *_, inner = levels = _levels(optimizer)
    for name in (type(level).__name__ for level in levels):
        if name in REFUSALS:
            raise ValueError(f"{name} can't be given one learning rate per layer: {REFUSALS[name]}.")
    if any(group["lr"] is None for group in inner.param_groups):
        raise ValueError(f"{name} computes its own learning rate (lr=None); give it one to have it balanced.")
    has_layer_groups = has_layer_groups or all("lr_multiplier" in group for group in inner.param_groups)
    if is_schedule_free(inner) and not has_layer_groups:
        raise ValueError(
            f"{name} can't be given one learning rate per layer: a schedule-free optimizer keeps its averages "
            "per group and outside of step(). Use TempBalanceTrainer, which makes a group for each layer."
        )
    if is_deepspeed(optimizer) and has_layer_groups:
        return
    held = {id(parameter) for group in inner.param_groups for parameter in group["params"]}
    missing = [parameter for parameter in tuned if id(parameter) not in held]
    if missing and is_deepspeed(optimizer):
        raise ValueError(
            "DeepSpeed ZeRO flattens the parameters of a group, so each layer needs a group of its own: use "
            "TempBalanceTrainer, which makes them, and no 'optimizer' section in the DeepSpeed configuration."
        )
    if missing:
        raise ValueError(
            f"{name} holds {len(tuned) - len(missing)} of the {len(tuned)} parameters of tuned layers. Make the "
            "optimizer from the parameters of the model that is balanced, after it was moved or wrapped; parameters "
            "flattened by FSDP1 (use_orig_params=False) can't be balanced."
        )
    if tuned and _ignores_group_rates(inner, tuned[0]):
        raise ValueError(
            f"{name} can't be given one learning rate per layer: in a trial step it moved a parameter whose "
            "group has the rate 0."
        )


def _ignores_group_rates(optimizer: torch.optim.Optimizer, like: Tensor) -> bool:
    """Whether a twin of the optimizer moves a parameter whose view of a split group has rate 0."""
    weights = [torch.nn.Parameter(torch.eye(4, dtype=like.dtype, device=like.device)) for _ in range(2)]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    try:
        twin = type(optimizer)(weights, **optimizer.defaults)
        still = weights[1].detach().clone()
        VirtualGroups(twin, {weights[0]: "moves", weights[1]: "rests"}.get, {"moves": 1.0, "rests": 0.0}.get)
        twin.step()
    except Exception:  # noqa: BLE001  a class that can't be made from its defaults tells nothing either way
        return False
    return not torch.equal(weights[1], still)
