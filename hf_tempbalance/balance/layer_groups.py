"""Real layer-wise parameter groups whose checkpoints are those of a plain optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


Group = dict[str, Any]


class LayerGroups:
    """Splits an optimizer's groups by layer for good, while its state dict keeps the layout of the plain optimizer.

    Groups that were there stay first, in their order, with the untuned parameters (they may become empty); one group
    per layer and original group follows. All have the keys ``layer`` (None if untuned) and ``lr_multiplier``.
    Hooks on the optimizer convert its state both ways by parameter, so checkpoints are interchangeable with a
    plain optimizer's. Membership depends on the architecture alone, never on a score.

    Args:
        optimizer: a torch optimizer, not a wrapper. Changed in place; its parameters' state is kept.
        layer_of: parameter -> layer name or None.
        keeps_plain_state: False leaves the state as it is, one entry for each group, and drops empty groups.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        layer_of: Callable[[Tensor], str | None],
        *,
        keeps_plain_state: bool = True,
    ) -> None:
        plain = optimizer.param_groups
        untuned: list[tuple[int, Any, list[int]]] = []
        tuned: list[tuple[int, Any, list[int]]] = []
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
        self.keeps_plain_state = keeps_plain_state
        if keeps_plain_state:
            optimizer.register_state_dict_post_hook(self._to_plain)
            optimizer.register_load_state_dict_pre_hook(self._from_plain)
        else:
            optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]

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

        held: Any = scheduler
        held.state_dict, held.load_state_dict = state_dict, load_state_dict


_PER_PARAMETER = {"params", "param_names"}
# The lists with one entry per group in torch's schedules and in transformers' GreedyLR.
_PER_GROUP = {"base_lrs", "_last_lr", "lr_lambdas", "min_lrs", "_init_lrs"}


def _take(group: Group, positions: list[int]) -> Group:
    """The group with some of its parameters."""
    return {key: [value[p] for p in positions] if key in _PER_PARAMETER else value for key, value in group.items()}


def _is_per_group(key: str, value: Any, count: int) -> bool:
    return key in _PER_GROUP and isinstance(value, list) and len(value) == count
