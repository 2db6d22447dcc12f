"""The history of a Trainer's runs: which folder it is in, and what happens when it can't be written."""

from __future__ import annotations

import warnings
import weakref
from pathlib import Path

import torch
from transformers import TrainerState, TrainingArguments

from ..balance.look import Look
from ..runs.history import HISTORY_NAME, append_look, continue_history


class HistoryFile:
    """``tempbalance_history.jsonl`` in the output folder; in a hyperparameter search in the trial's folder in it."""

    def __init__(self) -> None:
        self.path = Path(HISTORY_NAME)
        self._trials = 0
        self._trial_model: weakref.ref[torch.nn.Module] | None = None

    def begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        model: torch.nn.Module,
        *,
        last_step: int,
        layers: list[str],
    ) -> None:
        """Get the file of this training ready for looks after ``last_step``. Raises as `continue_history`."""
        self.path = self._folder(args, state, model) / HISTORY_NAME
        if state.is_world_process_zero:
            problem = continue_history(self.path, last_step, layers)
            if problem is not None:
                warnings.warn(problem, stacklevel=2)

    def append(self, look: Look) -> None:
        """Write a look; a warning where it can't be: training is worth more than its history."""
        try:
            append_look(self.path, look.to_line())
        except OSError as error:
            warnings.warn(
                f"{self.path}: the look at step {look.step} could not be written ({error.strerror}). "
                "Training goes on.",
                stacklevel=2,
            )

    def _folder(self, args: TrainingArguments, state: TrainerState, model: torch.nn.Module) -> Path:
        folder = Path(args.output_dir or ".")
        if not state.is_hyper_param_search:
            return folder
        if self._trial_model is None or self._trial_model() is not model:  # a retry of a trial keeps the model
            self._trial_model = weakref.ref(model)
            self._trials += 1
        return folder / (state.trial_name or f"run-{self._trials - 1}")
