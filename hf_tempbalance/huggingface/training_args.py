"""`TempBalanceTrainingArguments`: what TrainingArguments lacks of the paper's recipe, and how much is logged."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from transformers import SchedulerType, TrainingArguments

from .scalars import LogLayers


SchedulerUnit = Literal["step", "epoch"]


@dataclass
class TempBalanceTrainingArguments(TrainingArguments):
    """TrainingArguments for `TempBalanceTrainer`, which alone acts on the fields added here.

    Pickled, as Trainer does in ``training_args.bin``, which goes to the Hub with a model, they lack ``hub_token``.

    Raises:
        ValueError: ``scheduler_unit`` or ``log_layers`` is unknown, or "epoch" with a schedule that follows a metric.
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

    log_layers: LogLayers = field(
        default="parts",
        metadata={"help": "What the trackers get: means over blocks and roles, or over stages; or all layers."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in (("scheduler_unit", SchedulerUnit), ("log_layers", LogLayers)):
            if getattr(self, name) not in get_args(choices):
                allowed = ", ".join(map(repr, get_args(choices)))
                raise ValueError(f"{name}={getattr(self, name)!r} is not allowed: it must be one of {allowed}.")
        if self.scheduler_unit == "epoch" and self.lr_scheduler_type in (
            SchedulerType.REDUCE_ON_PLATEAU,
            SchedulerType.GREEDY,
        ):
            kind = SchedulerType(self.lr_scheduler_type).value
            raise ValueError(
                f"scheduler_unit='epoch' does not work with lr_scheduler_type={kind!r}, whose "
                "rate depends on a metric and not on the step. Use scheduler_unit='step'."
            )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"hub_token": None}


def output_folder(args: TrainingArguments) -> Path:
    """The ``output_dir`` of a run."""
    return Path(args.output_dir)  # type: ignore[arg-type]  # None gets a name
