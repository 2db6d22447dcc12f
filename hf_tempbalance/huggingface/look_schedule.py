"""When the weights are looked at during a Trainer's training."""

from __future__ import annotations

import math

from transformers import TrainerState

from ..config import TempBalanceConfig


ROUNDING = 1e-6  # Trainer adds up fractions of an epoch


def is_due(config: TempBalanceConfig, state: TrainerState, *, partial_epoch: bool = False) -> bool:
    """Whether a look belongs to this moment.

    Args:
        config: the settings. After ``active_share`` of the training no look is due.
        state: the Trainer's.
        partial_epoch: the end of an epoch counts, also of one that ``max_steps`` cuts off.
    """
    if state.global_step > config.active_share * state.max_steps and config.active_share < 1:
        return False
    if config.update_unit == "step":
        return state.global_step % config.update_interval == 0
    epochs = state.epoch or 0.0
    if config.update_interval < 1:
        return _crosses(epochs, state.global_step, config.update_interval)
    whole = round(epochs)
    if abs(epochs - whole) > ROUNDING:
        whole = math.ceil(epochs)
        if not partial_epoch:
            return False
    return whole % config.update_interval == 0


def looks_at_steps(config: TempBalanceConfig) -> bool:
    """Whether looks come at the ends of steps, rather than of epochs."""
    return config.update_unit == "step" or config.update_interval < 1


def next_look(config: TempBalanceConfig, state: TrainerState) -> str:
    """Words for the next look: "after epoch 1"."""
    now = state.global_step if config.update_unit == "step" else state.epoch or 0.0
    at = (math.floor(now / config.update_interval + ROUNDING) + 1) * config.update_interval
    return f"after {config.update_unit} {at:g}"


def _crosses(epochs: float, steps: int, interval: float) -> bool:
    """Whether the last step has reached a multiple of the interval."""
    before = epochs - epochs / steps if steps else 0.0
    return math.floor(epochs / interval + ROUNDING) > math.floor(before / interval + ROUNDING)
