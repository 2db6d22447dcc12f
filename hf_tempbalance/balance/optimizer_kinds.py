"""What is known of kinds of optimizers: Accelerate's and DeepSpeed's wrappers, schedule-free ones, impossible ones."""

from __future__ import annotations

import torch


# Why an optimizer can't be given one rate per layer, and what to do instead.
REFUSALS = {
    "LBFGS": "it computes one step for all parameters together",
    "LayerWiseDummyOptimizer": "it updates inside backward; use the variant of the optimizer that is not layer-wise",
    "Lomo": "it updates inside backward",
    "AdaLomo": "it updates inside backward",
}


def levels_of(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    """The optimizer and those inside it, the innermost last; Accelerate's and DeepSpeed's hold the real one."""
    levels = [optimizer]
    while (inner := getattr(levels[-1], "optimizer", None)) is not None and hasattr(inner, "param_groups"):
        levels.append(inner)
    return levels


def is_of_deepspeed(level: torch.optim.Optimizer) -> bool:
    """Whether this very object is DeepSpeed's, such as a ZeRO optimizer, which flattens the parameters of a group."""
    return type(level).__module__.startswith("deepspeed")


def is_deepspeed(optimizer: torch.optim.Optimizer) -> bool:
    """Whether DeepSpeed runs the optimizer, inside ``engine.backward`` under Accelerate."""
    is_wrapper = type(optimizer).__name__ == "DeepSpeedOptimizerWrapper"
    return is_wrapper or any(map(is_of_deepspeed, levels_of(optimizer)))


def is_schedule_free(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer averages weights by itself, with the state of the average in its groups."""
    return any("train_mode" in group for group in optimizer.param_groups)


def keeps_state_by_parameter(optimizer: torch.optim.Optimizer) -> bool:
    """Whether groups may be merged and divided anew at every step, as torch's own optimizers allow.

    Others look their state up by a group's position, or keep some of it in the group.
    """
    return type(optimizer).__module__.startswith("torch.optim")


def is_accumulating(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the next ``step`` of Accelerate's wrapper does nothing, since gradients are being accumulated."""
    gradients = getattr(optimizer, "gradient_state", None)
    return gradients is not None and not gradients.sync_gradients
