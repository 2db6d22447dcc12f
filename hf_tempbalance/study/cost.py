"""What a run will take: from a few timed steps of scripts/train.py, or from finished runs of the same cell."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ..huggingface.training_args import TempBalanceTrainingArguments
from ..tasks.data import ImageSplits, collate
from ..tasks.image_classification import RunArguments, load_data, make_model, optimizer_of
from .plan import Run
from .runner import result_of


STEPS = 3  # timed, after one that is not
DATA_FIELDS = ("dataset", "image_size", "max_train_samples", "max_test_samples", "validation_fraction")
MODEL_FIELDS = ("architecture", "width_factor", "model_args", "optimizer")


class Estimator:
    """Times each kind of run once."""

    def __init__(self) -> None:
        self._data: dict[tuple, ImageSplits] = {}
        self._seconds: dict[tuple, tuple[float, float]] = {}

    def estimate(self, options: RunArguments, args: TempBalanceTrainingArguments) -> float | str:
        """Seconds of training and evaluation, without start-up; a sentence where that can't be known here."""
        data_key = tuple(getattr(options, name) for name in DATA_FIELDS)
        try:
            if data_key not in self._data:
                self._data[data_key] = load_data(options, seed=0)
        except (ValueError, OSError) as error:
            return f"not timed: {str(error).split(' (')[0]}"
        data, batch = self._data[data_key], args.per_device_train_batch_size
        key = (*data_key, *(getattr(options, name) for name in MODEL_FIELDS), batch)
        if key not in self._seconds:
            self._seconds[key] = _time(options, args, data)
        step, evaluation = self._seconds[key]
        steps = math.ceil(len(data.train) / batch) * args.num_train_epochs
        rounds = args.num_train_epochs if args.eval_strategy == "epoch" else steps // max(int(args.eval_steps or 1), 1)
        return steps * step + rounds * evaluation


def from_finished(runs: Iterable[Run], folder: Path) -> dict[tuple[str, ...], float]:
    """Labels of a cell -> mean seconds of its finished runs in a study's folder, without start-up."""
    found: dict[tuple[str, ...], list[float]] = {}
    for run in runs:
        result = result_of(folder, run)
        if result is not None and result["status"] == "finished" and result.get("seconds") is not None:
            found.setdefault(tuple(run.cell.values()), []).append(result["seconds"])
    return {cell: math.fsum(seconds) / len(seconds) for cell, seconds in found.items()}


def _time(options: RunArguments, args: TempBalanceTrainingArguments, data: ImageSplits) -> tuple[float, float]:
    """Seconds of an optimizer step and of an evaluation on all images."""
    data = data.to(args.device)
    model = make_model(options, data)
    model.to(args.device)  # type: ignore[arg-type]  # decorator loses self
    chosen: Any = optimizer_of(options, args).get("optimizer_cls_and_kwargs")
    cls, arguments = chosen or (torch.optim.SGD, {"lr": args.learning_rate, "momentum": 0.9})
    optimizer = cls(model.parameters(), **arguments | {"lr": 0.0})
    batch = collate(data.train.__getitems__(list(range(min(args.per_device_train_batch_size, len(data.train))))))

    def step() -> None:
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()

    tested = collate(data.test.__getitems__(list(range(min(args.per_device_eval_batch_size, len(data.test))))))
    images = len(data.test) + (len(data.validation) if data.validation is not None else 0)
    with torch.no_grad():
        one = _seconds(lambda: model(**tested))
    return _seconds(step), one * images / len(tested["labels"])


def _seconds(function: Any) -> float:
    function()
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    start = time.perf_counter()
    for _ in range(STEPS):
        function()
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return (time.perf_counter() - start) / STEPS
