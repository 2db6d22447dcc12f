"""The ``results.json`` of one training: what both its writers keep in it, the clock and the file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_callback import TrainerState

from ..files import write_json
from ..runs.checkpoints import last_complete_checkpoint
from ..runs.history import cost_in_log
from .environment import environment


class ResultsFile:
    """What a training has measured so far, and the file that has it; only the process that saves writes the file.

    Args:
        path: where the file is, in the output folder.
        content: what is known before training.
        state: the Trainer's; what it has logged is read again at every `write`.
        start: when the clock began, by ``time.perf_counter``; None for now.
        seconds: length of the earlier parts of a resumed training.
    """

    def __init__(
        self,
        path: Path,
        content: dict[str, Any],
        args: TrainingArguments,
        state: TrainerState,
        *,
        start: float | None = None,
        seconds: float = 0.0,
    ) -> None:
        self.path, self.args, self.state = path, args, state
        self.seconds_before = seconds
        self.start: float | None = time.perf_counter() if start is None else start  # None: the clock has stopped
        self.results = {"status": "running"} | content | {"environment": environment(args)}

    @property
    def is_running(self) -> bool:
        """Whether the clock runs, that is training has not come to its end."""
        return self.start is not None

    def stop_clock(self) -> None:
        """Leave what comes after this out of the seconds."""
        if self.start is not None:
            self.seconds_before, self.start = self.seconds_before + time.perf_counter() - self.start, None

    def write(self) -> None:
        """Bring the results up to date, and the file with them.

        Raises:
            OSError: the file can't be written; the old one is still there.
        """
        log = self.state.log_history
        epochs: dict[float, dict[str, Any]] = {}
        for entry in log:
            if "loss" in entry or _is_evaluation(entry):
                epochs.setdefault(round(entry.get("epoch", 0.0), 6), {}).update(entry)
        last, _ = last_complete_checkpoint(self.path.parent)
        running = 0.0 if self.start is None else time.perf_counter() - self.start
        self.results |= {
            "seconds": self.seconds_before + running,
            "tempbalance_seconds": cost_in_log(log),
            "looks": sum("tempbalance/seconds" in entry for entry in log),
            "epochs": [epochs[epoch] for epoch in sorted(epochs)],
            "best_metric": self.state.best_metric,
            "best_checkpoint": self.state.best_model_checkpoint,
            "last_checkpoint": str(last) if last else None,
        }
        if self.args.should_save:
            write_json(self.path, self.results)


def _is_evaluation(entry: dict[str, Any]) -> bool:
    """Whether an entry of the log is what ``Trainer.evaluate`` found, with any ``metric_key_prefix``."""
    return any(key.startswith("eval_") or (key.endswith("_runtime") and key != "train_runtime") for key in entry)
