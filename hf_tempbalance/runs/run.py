"""What a training run has left in its output folder, for reports and model cards."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import damaged, read_json
from .checkpoints import STATE_NAME, last_complete_checkpoint
from .checks import check_looks, checked_log
from .history import HISTORY_NAME, cost_of_looks, metric_keys, read_history
from .results import RESULTS_NAME, read_results


@dataclass
class Run:
    """A run as its files tell it.

    Attributes:
        folder: the output folder.
        looks: of ``tempbalance_history.jsonl``; empty without TempBalance.
        log: Trainer's ``log_history``, oldest first.
        settings: options of `TempBalanceConfig`; None without TempBalance.
        options: those of scripts/train.py; empty for other runs.
        arguments: the TrainingArguments; empty where the files don't have them.
        environment: versions and machine, likewise.
        seconds: wall time; None where the files don't have it.
        best_step: of the best checkpoint, likewise.
        status: "finished", "running" or "failed"; None where the files don't have it.
        predictions: metrics of each ``Trainer.predict``: "test_accuracy", ...
    """

    folder: Path
    looks: list[dict[str, Any]] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    best_step: int | None = None
    status: str | None = None
    predictions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def last_metrics(self) -> dict[str, float]:
        """The last value of every metric: "eval_accuracy", "eval_test_accuracy", ...; no speeds and times.

        Where the best checkpoint's weights were loaded at the end, its values.
        """
        end = self.best_step if self.arguments.get("load_best_model_at_end") else None
        found: dict[str, float] = {}
        for entry in [entry for entry in self.log if end is None or entry["step"] <= end]:
            found |= {key: entry[key] for key in metric_keys(entry)}
        return found

    @property
    def target(self) -> str:
        """What the multipliers are of, in words."""
        target = (self.settings or {}).get("target")
        names = {"weight_decay": "weight decay", "both": "learning rate and weight decay"}
        return names.get(str(target), "learning rate")

    @property
    def tempbalance_seconds(self) -> float:
        """The cost of TempBalance: seconds that training stood still for the looks."""
        return cost_of_looks(self.looks)


def read_run(folder: str | Path) -> Run:
    """Read a run's history, results.json and trainer_state.json, as far as they are there.

    Raises:
        ValueError: the folder has none of them, or one is damaged. The message names it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder. Give the output folder of a training run.")
    run = Run(folder)
    if (folder / HISTORY_NAME).is_file():
        run.looks = _looks(folder / HISTORY_NAME)
    if (folder / RESULTS_NAME).is_file():
        take_results(run, read_results(folder))
    if (state := _state(folder, has_results=bool(run.log))) is not None:
        # What was evaluated after the state was saved is in the results alone.
        known = {key for entry in state["log_history"] for key in entry}
        later = [{k: v for k, v in entry.items() if k in ("epoch", "step") or k not in known} for entry in run.log]
        run.log = state["log_history"] + [entry for entry in later if entry.keys() > {"epoch", "step"}]
        run.best_step = _step_of(state.get("best_model_checkpoint"))
        run.settings = state.get("settings", run.settings)
    if not (run.looks or run.log):
        raise ValueError(
            f"{folder} has no {HISTORY_NAME}, {RESULTS_NAME} or {STATE_NAME}: it is not the output folder of a run, "
            "or the run has not begun."
        )
    return run


def take_results(run: Run, results: dict[str, Any]) -> Run:
    """Fill in what a results.json tells of a run, as `read_results` gives it. Returns the run."""
    run.log = results.get("epochs", [])
    run.options = {key: value for key, value in results.get("config", {}).items() if key != "settings"}
    if run.options.get("tempbalance"):
        run.settings = results["config"].get("settings")
    run.arguments, run.environment = results.get("arguments", {}), results.get("environment", {})
    run.seconds, run.status = results.get("seconds"), results["status"]
    run.predictions = results.get("predictions", [])
    run.best_step = _step_of(results.get("best_checkpoint"))
    return run


def _state(folder: Path, *, has_results: bool) -> dict[str, Any] | None:
    """The folder's trainer_state.json, or that of its newest checkpoint where nothing else tells of the whole run."""
    path = folder / STATE_NAME
    if not path.is_file():
        checkpoint, _ = last_complete_checkpoint(folder)
        if has_results or checkpoint is None:
            return None
        path = Path(checkpoint, STATE_NAME)
    state = read_json(path)
    state["log_history"] = checked_log(path, "log_history", state.get("log_history"))
    callbacks = state.get("stateful_callbacks", {})
    if not isinstance(callbacks, dict):
        raise damaged(path, "stateful_callbacks", callbacks, "an object")
    for name, stored in callbacks.items():
        if name.endswith("TempBalanceCallback") and isinstance(stored, dict):
            arguments = stored.get("args")
            settings = arguments.get("config") if isinstance(arguments, dict) else None
            if not isinstance(settings, dict):
                raise damaged(path, f"stateful_callbacks.{name}.args.config", settings, "an object")
            state["settings"] = settings
    return state


def _looks(path: Path) -> list[dict[str, Any]]:
    try:
        looks = read_history(path)
    except RecursionError as error:
        raise ValueError(f"{path} is damaged: a line is nested too deep.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: it is not text in UTF-8.") from error
    check_looks(path, looks)
    return looks


def _step_of(checkpoint: Any) -> int | None:
    """The step in a checkpoint's name; None where there is none."""
    step = checkpoint.rpartition("-")[2] if isinstance(checkpoint, str) else ""
    return int(step) if step.isascii() and step.isdigit() and len(step) < 16 else None
