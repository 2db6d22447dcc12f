"""The results of a study's folder: which runs count, what each measured, and which were left out and why."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..runs.checks import check_looks
from ..runs.history import HISTORY_NAME, read_history
from ..runs.measured import mean_multiplier
from ..runs.results import RESULTS_NAME, read_results
from ..runs.run import Run as Record
from ..runs.run import take_results
from .plan import Run, Study
from .runner import RUNS_NAME, choose, has_ended
from .study_file import read_study
from .values import better_first, curve_and_value, why_not_counted


@dataclass(frozen=True)
class Measured:
    """What a finished run has measured, in the unit of the metric that is compared: accuracies from 0 to 1.

    last: the value that counts, see `values.curve_and_value`. best: of its evaluations. chosen: at the evaluation that
    is best by the metric that tuned values are chosen by, NaN where there is none. held_out: that metric's value, in
    its own unit, NaN likewise. curve: (epoch, value), empty for a metric of a prediction. layers: names, and alpha
    before and after training, of runs whose files tell.
    """

    run: Run
    last: float
    best: float
    chosen: float
    held_out: float
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
            target = folder / RUNS_NAME / run.name
            measured[run.name] = _measured(study, run, target, read_results(target))
        except FileNotFoundError:
            left_out[run.name] = "it has not been run"
        except (ValueError, OSError) as error:
            left_out[run.name] = str(error)

    for run in study.trials():
        measure(run)
    chosen = choose(study, folder, has_ended=lambda run: has_ended(folder, run))
    for cell in study.combinations():
        if study.tune is not None and tuple(cell.values()) not in chosen:
            is_over = all(has_ended(folder, run) for run in study.trials() if run.cell == cell)
            why = "can't be chosen: no value has only trials that finished" if is_over else "has not been chosen yet"
            left_out["--".join(cell.values())] = f"its {study.tune.option} {why}"
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
            found.mean_multipliers[labels] = _mean_multiplier(folder / RUNS_NAME / run.name)
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


def _measured(study: Study, run: Run, folder: Path, results: dict[str, Any]) -> Measured:
    if results["status"] != "finished":
        error = f": {results['error']}" if "error" in results else ""
        raise ValueError(f"it has not finished (status: {results['status']}{error})")
    if (reason := why_not_counted(study, run, results)) is not None:
        raise ValueError(reason)
    machine = results["environment"]
    curve, last = curve_and_value(study, results, held_out=False)
    try:
        held_out_curve, held_out = curve_and_value(study, results, held_out=True)
    except ValueError:
        held_out_curve, held_out = [], math.nan
    missing = [
        name
        for name in ("seconds", "tempbalance_seconds", *(["layers"] if study.script is None else []))
        if name not in results
    ]
    missing += [f"environment.{name}" for name in ("device", "threads", "commit", "dirty") if name not in machine]
    if missing:
        raise ValueError(f"{RESULTS_NAME} is damaged: it has no {missing[0]}")
    if not isinstance(machine.get("versions"), dict) or not isinstance(machine["commit"], str | None):
        raise ValueError(f"{RESULTS_NAME} is damaged: its environment is not what a run writes")
    values = [value for _, value in curve if math.isfinite(value)] or [last]
    by_epoch, epochs = dict(curve), [epoch for epoch, _ in held_out_curve]
    best = max(epochs, key=lambda e: better_first(study, dict(held_out_curve)[e], held_out=True), default=-1.0)
    return Measured(
        run=run,
        last=last,
        best=max(values, key=lambda value: better_first(study, value, held_out=False)),
        chosen=by_epoch.get(best, math.nan),
        held_out=held_out,
        seconds=float(results["seconds"]),
        tempbalance_seconds=float(results["tempbalance_seconds"]),
        curve=curve,
        layers=results["layers"] if "layers" in results else _layers(folder / HISTORY_NAME),
        environment=machine,
    )


def _mean_multiplier(folder: Path) -> float:
    """From results and history alone, which are what is published of a run."""
    looks = read_history(folder / HISTORY_NAME)
    check_looks(folder / HISTORY_NAME, looks)
    return mean_multiplier(take_results(Record(folder, looks=looks), read_results(folder)))


def _layers(history: Path) -> list[dict[str, Any]]:
    """alpha of each layer at the first and the last look, to six digits; nothing where the run has no history."""
    try:
        looks = read_history(history)
    except (OSError, ValueError):
        return []
    if not looks:
        return []
    return [
        {key: first[key] for key in ("name", "excluded_by")}
        | {name: float(f"{layer['alpha']:.6g}") for name, layer in (("alpha_start", first), ("alpha_end", last))}
        for first, last in zip(looks[0]["layers"], looks[-1]["layers"], strict=False)
    ]
