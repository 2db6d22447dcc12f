"""The results of a study's folder: which runs count, what each measured, and which were left out and why."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..runs.history import HISTORY_NAME
from ..runs.measured import mean_multiplier
from ..runs.results import RESULTS_NAME, accuracies, read_results
from ..runs.run import read_run
from .plan import Run, Study
from .runner import RUNS_NAME, choose, has_ended
from .study_file import read_study


@dataclass(frozen=True)
class Measured:
    """What a finished run has measured; accuracies on the test split, 0 to 1.

    chosen: at the evaluation that is best on held-out images, NaN without them. curve: (epoch, accuracy). layers:
    names, and alpha before and after training.
    """

    run: Run
    last: float
    best: float
    chosen: float
    held_out: float  # last accuracy on held-out images, NaN without them
    seconds: float
    tempbalance_seconds: float
    curve: list[tuple[float, float]]
    layers: list[dict[str, Any]]
    environment: dict[str, Any]


@dataclass(frozen=True)
class Collected:
    """A study and its results.

    chosen: labels of a cell -> tuned value. left_out: name of a run -> reason. mean_multipliers: labels of a cell ->
    mean multiplier over the training of its first run that has a history; no entry where none has.
    """

    study: Study
    finals: list[Measured]
    trials: list[Measured]
    chosen: dict[tuple[str, ...], Any]
    left_out: dict[str, str] = field(default_factory=dict)
    mean_multipliers: dict[tuple[str, ...], float] = field(default_factory=dict)

    def of(self, cell: dict[str, str]) -> list[Measured]:
        """The runs of a cell that are compared, by seed."""
        return sorted((m for m in self.finals if m.run.cell == cell), key=lambda m: m.run.seed)


def collect(folder: Path) -> Collected:
    """Read a study's folder.

    Raises:
        FileNotFoundError: the folder is not a study's.
        ValueError: its study.json is damaged, or no run is finished.
    """
    study = read_study(folder)
    left_out: dict[str, str] = {}
    measured: dict[str, Measured] = {}

    def measure(run: Run) -> None:
        if run.name in measured or run.name in left_out:
            return
        try:
            measured[run.name] = _measured(run, read_results(folder / RUNS_NAME / run.name))
        except FileNotFoundError:
            left_out[run.name] = "it has not been run"
        except (ValueError, OSError) as error:
            left_out[run.name] = str(error)

    for run in study.trials():
        measure(run)
    chosen = choose(study, folder, has_ended=lambda run: has_ended(folder, run))
    for cell in study.combinations():
        if study.tune is not None and tuple(cell.values()) not in chosen:
            left_out["--".join(cell.values())] = f"its {study.tune.option} has not been chosen yet"
    finals = study.finals(chosen)
    for run in finals:
        measure(run)
    if not measured:
        raise ValueError(f"{folder} has no finished run yet.")
    trials = [measured[run.name] for run in study.trials() if run.name in measured]
    found = Collected(
        study, [measured[run.name] for run in finals if run.name in measured], trials, chosen, dict(left_out)
    )
    for labels, run in first_with_history(found, folder).items():
        try:
            found.mean_multipliers[labels] = mean_multiplier(read_run(folder / RUNS_NAME / run.name))
        except (ValueError, OSError) as error:
            found.left_out[f"{HISTORY_NAME} of {run.name}"] = str(error)
    return found


def first_with_history(collected: Collected, folder: Path) -> dict[tuple[str, ...], Run]:
    """Labels of a cell -> the first of its runs, by seed, with a TempBalance history in the study's folder."""
    found: dict[tuple[str, ...], Run] = {}
    for cell in collected.study.combinations():
        for one in collected.of(cell):
            if (folder / RUNS_NAME / one.run.name / HISTORY_NAME).is_file():
                found.setdefault(tuple(cell.values()), one.run)
    return found


def _measured(run: Run, results: dict[str, Any]) -> Measured:
    if results["status"] != "finished":
        error = f": {results['error']}" if "error" in results else ""
        raise ValueError(f"it has not finished (status: {results['status']}{error})")
    machine = results.get("environment", {})
    if (seed := machine.get("seed")) != run.seed:
        raise ValueError(f"{RESULTS_NAME} is of another run: its seed is {seed} and not {run.seed}")
    test, held_out = accuracies(results), dict(accuracies(results, "validation"))
    usable = {epoch: accuracy for epoch, accuracy in held_out.items() if math.isfinite(accuracy)}
    if not test:
        raise ValueError("it has no evaluation on the test split")
    missing = [name for name in ("seconds", "tempbalance_seconds", "layers") if name not in results]
    missing += [f"environment.{name}" for name in ("device", "threads", "commit", "dirty") if name not in machine]
    if missing:
        raise ValueError(f"{RESULTS_NAME} is damaged: it has no {missing[0]}")
    if not isinstance(machine.get("versions"), dict) or not isinstance(machine["commit"], str | None):
        raise ValueError(f"{RESULTS_NAME} is damaged: its environment is not what a run writes")
    return Measured(
        run=run,
        last=test[-1][1],
        best=max((accuracy for _, accuracy in test if math.isfinite(accuracy)), default=math.nan),
        chosen=dict(test).get(max(usable, key=usable.__getitem__, default=-1.0), math.nan),
        held_out=list(held_out.values())[-1] if held_out else math.nan,
        seconds=float(results["seconds"]),
        tempbalance_seconds=float(results["tempbalance_seconds"]),
        curve=test,
        layers=results["layers"],
        environment=machine,
    )
