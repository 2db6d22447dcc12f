"""`TempBalanceTrainingArguments`: the two settings of the paper's recipe that TrainingArguments lacks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from transformers import SchedulerType, TrainingArguments


SchedulerUnit = Literal["step", "epoch"]


@dataclass
class TempBalanceTrainingArguments(TrainingArguments):
    """TrainingArguments for `TempBalanceTrainer`, which alone acts on the fields added here.

    Raises:
        ValueError: ``scheduler_unit`` is unknown, or "epoch" with a schedule that follows a metric.
    """

    weight_decay_on_all: bool = field(
        default=False,
        metadata={"help": "Decay biases and norms too, as the paper's SGD does. Trainer leaves them out."},
    )
    scheduler_unit: SchedulerUnit = field(
        default="step",
        metadata={
            "help": "epoch holds the rate of each epoch's first step for the whole epoch (the paper's staircase)."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scheduler_unit not in get_args(SchedulerUnit):
            allowed = ", ".join(map(repr, get_args(SchedulerUnit)))
            raise ValueError(f"scheduler_unit={self.scheduler_unit!r} is not allowed: it must be one of {allowed}.")
        if self.scheduler_unit == "epoch" and self.lr_scheduler_type in (
            SchedulerType.REDUCE_ON_PLATEAU,
            SchedulerType.GREEDY,
        ):
            raise ValueError(
                f"scheduler_unit='epoch' does not work with lr_scheduler_type={self.lr_scheduler_type.value!r}, whose "
                "rate depends on a metric and not on the step. Use scheduler_unit='step'."
            )
