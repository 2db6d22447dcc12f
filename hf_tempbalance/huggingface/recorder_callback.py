"""`RunRecorder`: writes ``results.json`` for the trainings of a script that knows nothing of it."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sized
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainingArguments
from transformers.trainer_callback import TrainerState

from ..config import TempBalanceConfig
from ..files import write_json
from ..runs.checkpoints import last_complete_checkpoint
from ..runs.history import cost_in_log
from ..runs.results import RESULTS_NAME, read_results
from .results_callback import environment
from .training_args import output_folder


logger = logging.getLogger(__name__)


class Record:
    """``results.json`` of one training; only the process that saves writes it.

    Training is worth more than its record: where the file can't be written, a warning says so and training goes on.

    Args:
        path: of the file.
        config: what was run: the script, its arguments, the settings of TempBalance, the model.
        is_resumed: go on with the seconds of the file that is there.
    """

    def __init__(
        self, path: Path, config: dict[str, Any], args: TrainingArguments, state: TrainerState, is_resumed: bool
    ) -> None:
        self.path, self.args, self.state = path, args, state
        self.start, self.seconds = time.perf_counter(), 0.0
        self.has_ended = False
        if is_resumed and path.is_file():
            with suppress(ValueError):  # a damaged record is replaced
                self.seconds = read_results(path.parent).get("seconds") or 0.0
        self.results: dict[str, Any] = {
            "status": "running",
            "config": config,
            "arguments": json.loads(args.to_json_string()),  # tokens are masked
            "environment": environment(args),
            "predictions": [],
        }

    def write(self) -> None:
        """Bring the results up to date, and the file with them."""
        log = self.state.log_history
        epochs: dict[float, dict[str, Any]] = {}
        for entry in log:
            if "loss" in entry or any(key.startswith("eval_") for key in entry):
                epochs.setdefault(round(entry.get("epoch", 0.0), 6), {}).update(entry)
        last, _ = last_complete_checkpoint(self.path.parent)
        self.results |= {
            "seconds": self.seconds if self.has_ended else self.seconds + time.perf_counter() - self.start,
            "tempbalance_seconds": cost_in_log(log),
            "looks": sum("tempbalance/seconds" in entry for entry in log),
            "epochs": [epochs[epoch] for epoch in sorted(epochs)],
            "best_metric": self.state.best_metric,
            "best_checkpoint": self.state.best_model_checkpoint,
            "last_checkpoint": str(last) if last else None,
        }
        if not self.args.should_save:
            return
        try:
            write_json(self.path, self.results)
        except OSError as error:
            logger.warning("%s can't be written (%s): this run is not recorded.", self.path, error.strerror)

    def end(self) -> None:
        """Training is over; evaluations and predictions may follow."""
        self.seconds += time.perf_counter() - self.start
        self.has_ended = True
        self.results["status"] = "finished"
        self.write()

    def make_way(self) -> None:
        """Keep the file under another name: the next training of this script writes into the same folder."""
        self.write()
        number = 1
        while (kept := self.path.with_name(f"results-{number}.json")).exists():
            number += 1
        if self.args.should_save and self.path.exists():
            os.replace(self.path, kept)
        self.path = kept

    def finish(self, error: str | None) -> None:
        """The script is over. error: what it ended with while this was its training, or after it."""
        if not self.has_ended:
            self.seconds, self.has_ended = self.seconds + time.perf_counter() - self.start, True
            error = error or "training did not come to its end"
        if error is not None:
            self.results |= {"status": "failed", "error": error}
        self.write()


class RunRecorder(TrainerCallback):
    """Keeps a `Record` for each training of a Trainer: at the start, at every checkpoint, at the end.

    It draws no random number and changes nothing that the Trainer reads.

    Args:
        config: what is known of the run before its Trainer: the script and its arguments.
        tempbalance: the settings that this Trainer is balanced with; None for plain training.
        records: of all trainings of the script, the last one last; new ones are appended.
    """

    def __init__(self, config: dict[str, Any], tempbalance: TempBalanceConfig | None, records: list[Record]) -> None:
        self.config, self.tempbalance, self.records = config, tempbalance, records
        self.record: Record | None = None
        self.trials = 0

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: torch.nn.Module | None = None,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        if self.record is not None and not self.record.has_ended:  # tried again with a smaller batch
            self.records.remove(self.record)
        elif state.is_hyper_param_search:
            self.trials += 1
        trial = (state.trial_name or f"run-{self.trials - 1}") if state.is_hyper_param_search else ""
        path = output_folder(args) / trial / RESULTS_NAME
        is_resumed = state.global_step > 0
        for earlier in [record for record in self.records if record.path == path]:
            if is_resumed:
                self.records.remove(earlier)
            else:
                earlier.make_way()
        data = getattr(train_dataloader, "dataset", None)
        config = self.config | {
            "tempbalance": self.tempbalance is not None,
            "settings": None if self.tempbalance is None else self.tempbalance.to_dict(),
            "model": type(model).__name__,
            "parameters": sum(parameter.numel() for parameter in model.parameters()) if model is not None else None,
            "train_examples": len(data) if isinstance(data, Sized) else None,
        }
        self.record = Record(path, config, args, state, is_resumed)
        self.records.append(self.record)
        self.record.write()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.record is not None:
            self.record.write()

    def on_predict(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> None:
        if self.record is not None:
            self.record.results["predictions"].append(dict(metrics))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.record is not None:
            self.record.end()
