"""When the weights are looked at during a Trainer's training."""

from __future__ import annotations

import math

from transformers import TrainerState

from ..config import TempBalanceConfig


ROUNDING = 1e-6  # Trainer adds up fractions of an epoch


def is_due(config: TempBalanceConfig, state: TrainerState, *, partial_epoch: bool = False) -> bool:
    """Whether a look belongs to this moment.

    Args:
        config: the settings.
        state: the Trainer's.
        partial_epoch: the end of an epoch counts, also of one that ``max_steps`` cuts off.
    """
    if config.update_unit == "step":
        return state.global_step % config.update_interval == 0
    epochs = state.epoch or 0.0
    whole = round(epochs)
    if abs(epochs - whole) > ROUNDING:
        whole = math.ceil(epochs)
        if not partial_epoch:
            return False
    return whole % config.update_interval == 0


def next_look(config: TempBalanceConfig, state: TrainerState) -> str:
    """Words for the next look: "after epoch 1"."""
    now = state.global_step if config.update_unit == "step" else math.floor((state.epoch or 0.0) + ROUNDING)
    return f"after {config.update_unit} {(now // config.update_interval + 1) * config.update_interval}"
