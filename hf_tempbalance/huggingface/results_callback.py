"""`ResultsCallback`: writes ``results.json`` while a Trainer trains."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerState

from ..runs.checkpoints import last_complete_checkpoint
from ..runs.history import cost_in_log
from ..runs.results import RESULTS_NAME, read_results, write_results
from ..spectra.analysis import analyze
from .training_args import output_folder


PACKAGES = ("hf_tempbalance", "torch", "transformers", "accelerate", "timm", "datasets", "numpy")


class ResultsCallback(TrainerCallback):
    """Keeps ``results.json`` in the output folder up to date: at the start, at every checkpoint and at the end.

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
        self.start, self.seconds_before = time.monotonic(), 0.0
        self.saves_at_epoch_end = False
        self.alphas: dict[str, dict[str, Any]] = {}  # layer -> alpha before and after training, and its rule
        self.results: dict[str, Any] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        before = {}
        path = output_folder(args) / RESULTS_NAME
        if self.is_resumed and path.is_file():
            before = read_results(output_folder(args))
        self.seconds_before = max(0.0, before.get("seconds") or 0.0)
        self.alphas = {layer["name"]: layer for layer in before.get("layers", [])}
        for spectrum in [] if self.alphas else analyze(kwargs["model"]):
            self.alphas[spectrum.name] = {
                "name": spectrum.name,
                "excluded_by": spectrum.excluded_by,
                "alpha_start": spectrum.alpha,
            }
        self.results = {"status": "running"} | self.settings | {"environment": environment(args)}
        self._write(args, state)

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
        self._write(args, state)

    def finish(self, trainer: Any, status: str, error: str | None = None) -> None:
        """Write the last state of a run; ``status`` is "finished" or "failed"."""
        self.results = self.results or self.settings | {"environment": environment(trainer.args)}
        self.results |= {"status": status} | ({} if error is None else {"error": error})
        if status == "finished":
            for spectrum in analyze(trainer.model):
                self.alphas[spectrum.name]["alpha_end"] = spectrum.alpha
        self._write(trainer.args, trainer.state)

    def _write(self, args: TrainingArguments, state: TrainerState) -> None:
        epochs: dict[float, dict[str, float]] = {}
        for entry in state.log_history:
            if "loss" in entry or any(key.startswith("eval_") for key in entry):
                epochs.setdefault(round(entry["epoch"], 6), {}).update(entry)
        last, _ = last_complete_checkpoint(output_folder(args))
        self.results |= {
            "seconds": self.seconds_before + time.monotonic() - self.start,
            "tempbalance_seconds": cost_in_log(state.log_history),
            "epochs": [epochs[epoch] for epoch in sorted(epochs)],
            "best_metric": state.best_metric,
            "best_checkpoint": state.best_model_checkpoint,
            "last_checkpoint": str(last) if last else None,
            "layers": list(self.alphas.values()),
        }
        if args.should_save:
            write_results(output_folder(args), self.results)


def environment(args: TrainingArguments) -> dict[str, Any]:
    """Versions, code and machine."""
    changes = _git("status", "--porcelain")
    return {
        "versions": {"python": platform.python_version()} | _versions(),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if changes is None else bool(changes),
        "device": torch.cuda.get_device_name() if args.device.type == "cuda" else args.device.type,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "processes": args.world_size,
        "threads": torch.get_num_threads(),
        "seed": args.seed,
    }


def _versions() -> dict[str, str]:
    """Of the packages that are installed: timm, datasets and others are extras."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _git(*command: str) -> str | None:
    here = Path(__file__).parent
    try:
        done = subprocess.run(["git", *command], cwd=here, capture_output=True, text=True, check=False)
    except OSError:  # git is not installed
        return None
    return done.stdout.strip() if done.returncode == 0 else None
