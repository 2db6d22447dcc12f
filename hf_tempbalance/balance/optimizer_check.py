"""Whether rates per layer can be applied through an optimizer; if not, why, in one sentence."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .optimizer_kinds import REFUSALS, is_deepspeed, is_schedule_free, levels_of
from .virtual_groups import Factors, VirtualGroups


def check_optimizer(
    optimizer: torch.optim.Optimizer,
    tuned: Sequence[Tensor],
    *,
    keys: Iterable[str] = ("lr",),
    has_layer_groups: bool = False,
) -> None:
    """Refuse, in one sentence, an optimizer through which rates per layer can't be applied.

    Args:
        optimizer: the optimizer or a wrapper of it.
        tuned: the parameters that get a multiplier.
        keys: of a parameter group whose values are multiplied.
        has_layer_groups: whether each layer has a group of its own, or is about to get one.

    Raises:
        ValueError: its class can't be split, its groups have no such value, it keeps none or only some of the tuned
            parameters, or a trial on two throw-away parameters shows that it ignores the values of its groups.
    """
    *_, inner = levels = levels_of(optimizer)
    for name in (type(level).__name__ for level in levels):
        if name in REFUSALS:
            raise ValueError(f"{name} can't be given one learning rate per layer: {REFUSALS[name]}.")
    keys = tuple(keys)
    for key in keys:
        if any(key not in group for group in inner.param_groups):
            raise ValueError(
                f"{name} has no {key} that could be given to each layer. Use an optimizer that has one, or "
                "target='lr'."
            )
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
    if tuned and "weight_decay" in keys and _ignores_weight_decay(inner, tuned[0]):
        raise ValueError(
            f"{name} does not act on the weight_decay of its groups, as a trial step shows. Use an optimizer that "
            "does, or target='lr'."
        )


def _ignores_group_rates(optimizer: torch.optim.Optimizer, like: Tensor) -> bool:
    """Whether a twin of the optimizer moves a parameter whose view of a split group has rate 0."""
    found = _trial(optimizer, like, {"lr": 1.0}, {"lr": 0.0})
    return found is not None and not torch.equal(found[1], found[2])


def _ignores_weight_decay(optimizer: torch.optim.Optimizer, like: Tensor) -> bool:
    """Whether a twin of the optimizer moves two parameters alike that differ in the decay of their groups alone."""
    like = torch.empty(0, dtype=torch.float32, device=like.device)  # in bfloat16 a small step is lost
    found = _trial(optimizer, like, {"weight_decay": 1.0}, {"weight_decay": 0.0}, lr=0.1, weight_decay=0.5)
    return found is not None and torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def _trial(
    optimizer: torch.optim.Optimizer, like: Tensor, *factors: Factors, **values: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Two equal parameters after a step of a twin with these factors and values of its group, and what they were.

    None for a class that can't be made from its defaults, which tells nothing either way.
    """
    weights = [torch.nn.Parameter(torch.eye(4, dtype=like.dtype, device=like.device)) for _ in range(2)]
    for weight in weights:
        # A decay of 0.5 turns the sign on the diagonal: that of Adam's first step is all that counts.
        weight.grad = torch.full_like(weight, -0.25)
    still = weights[1].detach().clone()
    try:
        # torch adds "differentiable" to the defaults of every optimizer that loads a state, as Accelerate has it do.
        known = inspect.signature(type(optimizer)).parameters
        has_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
        defaults = {key: value for key, value in optimizer.defaults.items() if has_all or key in known}
        twin = type(optimizer)(weights, **defaults)
        for group in twin.param_groups:
            group.update(values)
        layer_of: dict[Tensor, str | None] = {weights[0]: "one", weights[1]: "other"}
        VirtualGroups(twin, lambda parameter: layer_of[parameter], lambda layer: factors[layer == "other"])
        twin.step()
    except Exception:  # noqa: BLE001  whatever it is, it is the twin's
        return None
    return weights[0].detach(), weights[1].detach(), still
