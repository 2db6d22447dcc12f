"""`ResultsCallback`: writes ``results.json`` while a Trainer trains."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerState

from ..runs.results import RESULTS_NAME, read_results
from ..spectra.analysis import analyze
from .results_file import ResultsFile
from .training_args import output_folder


class ResultsCallback(TrainerCallback):
    """Keeps ``results.json`` in the output folder up to date: at the start, at every checkpoint and at the end.

    With what was measured in training and, as ``predictions``, by each ``Trainer.predict``.

    A checkpoint that falls on the last step of an epoch is written after what belongs to that epoch, as with
    ``save_strategy="epoch"``. Trainer writes it before, and a run that is resumed from it has neither the evaluation
    and the loss of that epoch, nor the random numbers that the evaluation drew.

    Args:
        settings: what is written first: the options of the run, as JSON types.
        is_resumed: go on with the seconds and the first alphas of the file that is there.
    """

    def __init__(self, settings: dict[str, Any], *, is_resumed: bool = False) -> None:
        self.settings = settings
        self.is_resumed = is_resumed
        self.start = time.perf_counter()
        self.saves_at_epoch_end = False
        self.alphas: dict[str, dict[str, Any]] = {}  # layer -> alpha before and after training, and its rule
        self.file: ResultsFile | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        before = {}
        path = output_folder(args) / RESULTS_NAME
        if self.is_resumed and path.is_file():
            before = read_results(output_folder(args))
        self.alphas = {layer["name"]: layer for layer in before.get("layers", [])}
        for spectrum in [] if self.alphas else analyze(kwargs["model"]):
            self.alphas[spectrum.name] = {
                "name": spectrum.name,
                "excluded_by": spectrum.excluded_by,
                "alpha_start": spectrum.alpha,
            }
        seconds = before.get("seconds") or 0.0
        self.file = ResultsFile(path, self.settings, args, state, start=self.start, seconds=seconds)
        self._write()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        is_last = state.epoch == int(state.epoch) or control.should_epoch_stop or control.should_training_stop
        self.saves_at_epoch_end = control.should_save and is_last
        if self.saves_at_epoch_end:
            control.should_save = False

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        control.should_save = control.should_save or self.saves_at_epoch_end
        self.saves_at_epoch_end = False

    def on_save(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        # After the checkpoint is whole: time and metrics are those of the state that a resumed run starts from.
        self._write()

    def on_predict(
        self, args: TrainingArguments, state: TrainerState, control: Any, metrics: dict[str, float], **kwargs: Any
    ) -> None:
        if self.file is not None:
            self.file.results.setdefault("predictions", []).append(dict(metrics))

    @contextmanager
    def recording(self, trainer: Any) -> Iterator[None]:
        """Train inside this: however it ends, the file says so. What is raised stays raised."""
        try:
            yield
        except KeyboardInterrupt:
            self.finish(trainer, "interrupted")
            raise
        except BaseException as error:
            self.finish(trainer, "failed", f"{type(error).__name__}: {error}")
            raise
        self.finish(trainer, "finished")

    def finish(self, trainer: Any, status: str, error: str | None = None) -> None:
        """Write the last state of a run; ``status`` is "finished", "interrupted" or "failed"."""
        if self.file is None:
            path = Path(trainer.args.output_dir, RESULTS_NAME)
            self.file = ResultsFile(path, self.settings, trainer.args, trainer.state, start=self.start)
        self.file.state = trainer.state
        self.file.results |= {"status": status} | ({} if error is None else {"error": error})
        if status == "finished":
            for spectrum in analyze(trainer.model):
                self.alphas[spectrum.name]["alpha_end"] = spectrum.alpha
        self._write()

    def _write(self) -> None:
        if self.file is not None:
            self.file.results["layers"] = list(self.alphas.values())
            self.file.write()
