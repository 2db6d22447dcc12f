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
    "DeepSpeedOptimizerWrapper": "DeepSpeed steps inside backward, where this package does not reach yet",
    "DummyOptim": "the optimizer is made by the DeepSpeed configuration; remove it there, and let the Trainer make it",
}


class VirtualGroups:
    """Lets ``optimizer.step()`` see each group split by layer, with rate ``lr * multiplier``, and nobody else.

    While ``step`` runs, ``param_groups`` holds split copies of the groups; afterwards, whatever happened, the
    originals, with what the optimizer wrote into the copies (timm's LAMB counts its steps there). Schedules,
    checkpoints and logs therefore never meet a multiplied rate.

    Args:
        optimizer: a torch optimizer, or a wrapper with ``param_groups`` and ``step`` such as Accelerate's.
        layer_of: parameter -> name of the layer whose multiplier it takes, or None. Must not change between steps:
            some optimizers look their state up by a group's position.
        multiplier_of: layer name or None -> multiplier, a Python float.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        layer_of: Callable[[Tensor], str | None],
        multiplier_of: Callable[[str | None], float],
    ) -> None:
        if any(isinstance(getattr(level.step, "tempbalance", None), VirtualGroups) for level in _levels(optimizer)):
            raise RuntimeError(
                "This optimizer is balanced already, and multipliers would apply twice. Use one of "
                "TempBalanceCallback, TempBalanceTrainer and TempBalancer, or call detach() on the first."
            )
        self.optimizer = optimizer
        self.layer_of = layer_of
        self.multiplier_of = multiplier_of
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

    def detach(self) -> None:
        """Take the wrapper off again. Harmless when it is off already."""
        if self._step is not None and vars(self.optimizer).get("step") is self._step:
            if self._own_step is None:
                del self.optimizer.step
            else:
                self.optimizer.step = self._own_step
        self._step = None

    def _split_step(self, inner_step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        groups = self.optimizer.param_groups
        originals = list(groups)
        split = [self._views(group) for group in originals]
        given = [[dict(view) for view in views] for views in split]
        groups[:] = [view for views in split for view in views]  # in place: wrappers hold aliases of this list
        try:
            return inner_step(*args, **kwargs)
        finally:
            groups[:] = originals
            for group, views, before in zip(originals, split, given, strict=True):
                _carry_over(group, views, before)

    def _views(self, group: Group) -> list[Group]:
        members: dict[str | None, list[Tensor]] = {}
        for parameter in group["params"]:
            members.setdefault(self.layer_of(parameter), []).append(parameter)
        views = []
        for layer, parameters in members.items():
            # A tensor that the optimizer changes in place must not be changed once per view.
            view = {
                key: value.clone() if isinstance(value, Tensor) and views else value for key, value in group.items()
            }
            views.append(view | {"params": parameters, "lr": group["lr"] * self.multiplier_of(layer)})
        return views or [dict(group)]


def _carry_over(group: Group, views: list[Group], before: list[Group]) -> None:
    """Copy into the group what the optimizer wrote into its views; of several views the first that has a change."""
    lr = group["lr"]
    for view, given in zip(reversed(views), reversed(before), strict=True):
        for key in view.keys() - {"params"}:
            if key in given and view[key] is given[key]:
                continue
            if key != "lr":
                group[key] = view[key]
            elif given["lr"]:  # an optimizer that sets its own rate: the multiplier is not part of it
                group["lr"] = view["lr"] * (lr / given["lr"])


def _levels(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    """The optimizer and those inside it, the innermost last; Accelerate's wrapper holds the real one."""
    levels = [optimizer]
    while isinstance(inner := getattr(levels[-1], "optimizer", None), torch.optim.Optimizer):
        levels.append(inner)
    return levels


def check_optimizer(optimizer: torch.optim.Optimizer, tuned: list[Tensor]) -> None:
    """Refuse, in one sentence, an optimizer through which rates per layer can't be applied.

    Args:
        optimizer: the optimizer or a wrapper of it.
        tuned: the parameters that get a multiplier.

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
    if any("train_mode" in group for group in inner.param_groups):
        raise ValueError(
            f"{name} can't be given one learning rate per layer: a schedule-free optimizer keeps its averages "
            "per group and outside of step(). Use the optimizer without 'schedule_free'."
        )
    held = {id(parameter) for group in inner.param_groups for parameter in group["params"]}
    missing = [parameter for parameter in tuned if id(parameter) not in held]
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


class LayerGroups:
    """Splits an optimizer's groups by layer for good, while its state dict keeps the layout of the plain optimizer.

    Groups that were there stay first, in their order, with the untuned parameters (they may become empty); one group
    per layer and original group follows. All have the keys ``layer`` (None if untuned) and ``lr_multiplier``.
    Hooks on the optimizer convert its state both ways by parameter, so checkpoints are interchangeable with a
    plain optimizer's. Membership depends on the architecture alone, never on a score.

    Args:
        optimizer: a torch optimizer, not a wrapper. Changed in place; its parameters' state is kept.
        layer_of: parameter -> layer name or None.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, layer_of: Callable[[Tensor], str | None]) -> None:
        plain = optimizer.param_groups
        untuned, tuned = [], []
        for base, group in enumerate(plain):
            members: dict[str | None, list[int]] = {None: []}
            for position, parameter in enumerate(group["params"]):
                members.setdefault(layer_of(parameter), []).append(position)
            for layer, positions in members.items():
                (untuned if layer is None else tuned).append((base, layer, positions))
        order: dict[str, int] = {}
        for _, layer, _ in tuned:
            order.setdefault(layer, len(order))
        parts = untuned + sorted(tuned, key=lambda part: order[part[1]])
        starts = [0]
        for group in plain:
            starts.append(starts[-1] + len(group["params"]))
        self.num_plain = len(plain)
        self.base_of = [base for base, _, _ in parts]  # plain group of each group
        self.sizes = [len(group["params"]) for group in plain]
        self.plain_index = [starts[base] + p for base, _, positions in parts for p in positions]
        optimizer.param_groups[:] = [
            _take(plain[base], positions) | {"layer": layer, "lr_multiplier": 1.0} for base, layer, positions in parts
        ]
        optimizer.register_state_dict_post_hook(self._to_plain)
        optimizer.register_load_state_dict_pre_hook(self._from_plain)

    def _to_plain(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        groups = []
        for base in range(self.num_plain):
            members = [part for part, owner in zip(state["param_groups"], self.base_of, strict=True) if owner == base]
            group = {key: value for key, value in members[0].items() if key not in ("layer", "lr_multiplier")}
            start = sum(self.sizes[:base])
            for key in _PER_PARAMETER & group.keys():
                by_index = {self.plain_index[i]: v for m in members for i, v in zip(m["params"], m[key], strict=True)}
                group[key] = [by_index[start + position] for position in range(self.sizes[base])]
            group["params"] = list(range(start, start + self.sizes[base]))
            groups.append(group)
        return state | {
            "state": {self.plain_index[index]: value for index, value in state["state"].items()},
            "param_groups": groups,
        }

    def _from_plain(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        sizes = [len(group["params"]) for group in state["param_groups"]]
        if sizes != self.sizes:
            raise ValueError(
                f"the optimizer state has groups of {sizes} parameters, this model's optimizer has {self.sizes}. "
                "It belongs to another model, or weight decay was divided differently (weight_decay_on_all)."
            )
        index_of = {plain: index for index, plain in enumerate(self.plain_index)}
        groups, start = [], 0
        for base, own in zip(self.base_of, optimizer.param_groups, strict=True):
            stop = start + len(own["params"])
            offset = sum(self.sizes[:base])
            loaded = _take(state["param_groups"][base], [i - offset for i in self.plain_index[start:stop]])
            groups.append(
                loaded | {key: own[key] for key in ("layer", "lr_multiplier")} | {"params": list(range(start, stop))}
            )
            start = stop
        return state | {
            "state": {index_of[index]: value for index, value in state["state"].items()},
            "param_groups": groups,
        }

    def adapt_scheduler(self, scheduler: torch.optim.lr_scheduler.LRScheduler) -> None:
        """Let the schedule's state dict, too, have one entry per plain group, so that it can be exchanged."""
        save, load = scheduler.state_dict, scheduler.load_state_dict
        total = len(self.base_of)

        def state_dict() -> dict[str, Any]:
            state = {key: value for key, value in save().items() if key not in ("state_dict", "load_state_dict")}
            return {k: v[: self.num_plain] if _is_per_group(k, v, total) else v for k, v in state.items()}

        def load_state_dict(state: dict[str, Any]) -> None:
            spread = self.base_of
            load({k: [v[b] for b in spread] if _is_per_group(k, v, self.num_plain) else v for k, v in state.items()})

        scheduler.state_dict, scheduler.load_state_dict = state_dict, load_state_dict


_PER_PARAMETER = {"params", "param_names"}
# The lists with one entry per group in torch's schedules and in transformers' GreedyLR.
_PER_GROUP = {"base_lrs", "_last_lr", "lr_lambdas", "min_lrs", "_init_lrs"}


def _take(group: Group, positions: list[int]) -> Group:
    """The group with some of its parameters."""
    return {key: [value[p] for p in positions] if key in _PER_PARAMETER else value for key, value in group.items()}


def _is_per_group(key: str, value: Any, count: int) -> bool:
    return key in _PER_GROUP and isinstance(value, list) and len(value) == count
