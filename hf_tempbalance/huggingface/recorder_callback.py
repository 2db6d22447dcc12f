"""`RunRecorder`: writes ``results.json`` for the trainings of a script that knows nothing of it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sized
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainingArguments
from transformers.trainer_callback import TrainerState

from ..config import TempBalanceConfig
from ..files import masked
from ..runs.card_facts import DataFacts
from ..runs.history import HISTORY_NAME
from ..runs.results import RESULTS_NAME, read_results
from .results_file import ResultsFile
from .trained_on import base_model_of, data_facts
from .training_args import output_folder


logger = logging.getLogger(__name__)


class Record(ResultsFile):
    """The ``results.json`` of a training whose script knows nothing of it.

    Training is worth more than its record: where the file can't be written, a warning says so and training goes on.

    Args:
        config: what was run: the script, its arguments, the settings of TempBalance, the model.
        is_resumed: go on with the seconds of the file that is there.
    """

    def __init__(
        self, path: Path, config: dict[str, Any], args: TrainingArguments, state: TrainerState, is_resumed: bool
    ) -> None:
        seconds = 0.0
        if is_resumed and path.is_file():
            with suppress(ValueError):  # a damaged record is replaced
                seconds = read_results(path.parent).get("seconds") or 0.0
        arguments = masked(json.loads(args.to_json_string()))
        content = {"config": config, "arguments": arguments, "predictions": []}
        super().__init__(path, content, args, state, seconds=seconds)

    def write(self) -> None:
        """Bring the results up to date, and the file with them, or say that it can't be written."""
        try:
            super().write()
        except OSError as error:
            logger.warning("%s can't be written (%s): this run is not recorded.", self.path, error.strerror)

    def end(self) -> None:
        """Training is over. The status stays "running": evaluations and predictions may follow, and be cut off."""
        self.stop_clock()
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

    def finish(self, error: str | None, status: str = "failed") -> None:
        """The script is over. error: what it ended with while this was its training, or after it; status: then."""
        if self.is_running:
            self.stop_clock()
            error = error or "training did not come to its end"
        self.results |= {"status": "finished"} if error is None else {"status": status, "error": error}
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
        if self.record is not None and self.record.is_running:  # tried again with a smaller batch
            self.records.remove(self.record)
        elif state.is_hyper_param_search:
            self.trials += 1
        trial = (state.trial_name or f"run-{self.trials - 1}") if state.is_hyper_param_search else ""
        path = output_folder(args) / trial / RESULTS_NAME
        is_resumed = state.global_step > 0
        for earlier in self.records:
            if not earlier.is_running and earlier.results["status"] == "running":
                earlier.finish(None)  # what the script measures of it is there when it trains the next
        for earlier in [record for record in self.records if record.path == path]:
            if is_resumed:
                self.records.remove(earlier)
            else:
                earlier.make_way()
        if self.tempbalance is None and not is_resumed and args.should_save:
            with suppress(OSError):  # of an earlier, balanced run here: this one would be taken for it
                (path.parent / HISTORY_NAME).unlink(missing_ok=True)
        data = getattr(train_dataloader, "dataset", None)
        config = self.config | {
            "tempbalance": self.tempbalance is not None,
            "settings": None if self.tempbalance is None else self.tempbalance.to_dict(),
            "model": type(model).__name__,
            "parameters": sum(parameter.numel() for parameter in model.parameters()) if model is not None else None,
            "train_examples": len(data) if isinstance(data, Sized) else None,
            "base_model": base_model_of(model),
        }
        facts = DataFacts.of_script(self.config.get("script_arguments", [])).or_else(data_facts(data, None))
        config |= facts.to_options()
        self.record = Record(path, config, args, state, is_resumed)
        self.records.append(self.record)
        self.record.write()

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        if self.record is not None:
            parts = [getattr(loader, "dataset", None) for loader in (train_dataloader, eval_dataloader)]
            config = self.record.results["config"]
            config |= data_facts(*parts).to_options() | config

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
