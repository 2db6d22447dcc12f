"""Runs a study: each run a process of its own, resumed where it was cut off, skipped where it is finished."""

from __future__ import annotations

import functools
import math
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ..files import is_number, masked, write_json
from ..run import PROG
from ..runs.output import locked
from ..runs.results import RESULTS_NAME, read_results, write_results
from .executors import LOG_NAME, Executor, Handle
from .job import Job
from .plan import Run, Study, matching
from .study_file import STUDY_NAME, read_study
from .values import better_first, curve_and_value, why_not_counted


RUNS_NAME = "runs"
PROGRESS_SECONDS = 1.0


class Progress(Protocol):
    """What is told while a study runs."""

    def update(self, done: float, total: float, running: Sequence[str]) -> None:
        """Tell the epochs, or runs, that are done and those that are known to be wanted."""

    def ended(self, run: Run, result: dict[str, Any]) -> None:
        """Tell that a run is over, finished or failed."""


@dataclass
class Outcome:
    """How many runs there were, and the errors of those that failed or were interrupted."""

    finished: int
    failed: dict[str, str]


def claim(study: Study, folder: Path) -> None:
    """Make the folder this study's, also one of an earlier version that this study has all the runs of.

    Raises:
        ValueError: it belongs to another study or to a version with other runs, or has files of something else.
    """
    path = folder / STUDY_NAME
    if path.is_file():
        kept = read_study(folder)
        if not study.extends(kept):
            theirs, ours = kept.to_dict(), study.to_dict()
            differing = [key for key in ours if theirs[key] != ours[key]] or ["what older versions kept"]
            raise ValueError(
                f"{folder} belongs to study {kept.name!r}, version {kept.version}, and this is {study.name!r}, "
                f"version {study.version}; they differ in {', '.join(differing)}, and not by more runs alone. Use "
                "another --output_dir."
            )
        if (kept.version, kept.controls) != (study.version, study.controls):
            _keep(study, path)
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} has files and no {STUDY_NAME}: it belongs to something else. Use an empty folder.")
    folder.mkdir(parents=True, exist_ok=True)
    _keep(study, path)


def _keep(study: Study, path: Path) -> None:
    kept = {"version": study.version, "study": study.to_dict()}
    write_json(path, kept | ({"controls": study.controls} if study.controls else {}))


def result_of(folder: Path, run: Run) -> dict[str, Any] | None:
    """What the run has measured; None where it has not started or its file can't be read."""
    target = folder / RUNS_NAME / run.name
    try:
        stat = (target / RESULTS_NAME).stat()
        return _read(target, (stat.st_ino, stat.st_mtime_ns, stat.st_size))
    except (FileNotFoundError, ValueError):
        return None


@functools.lru_cache(maxsize=4096)  # asked for at every poll
def _read(folder: Path, version: tuple[int, ...]) -> dict[str, Any]:
    """The results in a folder; version: of the file, also where two are written within one tick of the clock."""
    return read_results(folder)


def is_finished(folder: Path, run: Run) -> bool:
    """Whether the run went to its end."""
    result = result_of(folder, run)
    return result is not None and result["status"] == "finished"


def has_ended(folder: Path, run: Run) -> bool:
    """Whether the run went to its end or failed, as far as its results tell."""
    result = result_of(folder, run)
    return result is not None and result["status"] in ("finished", "failed")


def record_end(folder: Path, run: Run, code: int, why: str = "") -> None:
    """Record a run as failed that has ended without its own word for it, with the last line of its log.

    Args:
        code: that its process ended with, negative for a signal. One that ended with 0 and has no results made no
            Trainer, or put them elsewhere; one whose results are still "running" left Python on the way (os._exit).
        why: it ended so, where that is not in its log.
    """
    target = folder / RUNS_NAME / run.name
    result = result_of(folder, run) or {"config": masked(run.options)}
    if result.get("status") in ("failed", "interrupted") or (code == 0 and result.get("status") == "finished"):
        return
    if not why:
        log = target / LOG_NAME
        lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
        if code:  # the script's own last words, and not what has been left of the run
            lines = [line for line in lines if not line.startswith(f"{PROG}: ")]
        why = lines[-1] if lines else "no output"
    write_results(target, result | {"status": "failed", "error": f"{_ending(code, result)}: {why}"})


def _ending(code: int, result: dict[str, Any]) -> str:
    if code == -signal.SIGKILL:
        return "killed by signal 9, probably out of memory"
    if code < 0:
        return f"killed by signal {-code}"
    if code:
        return f"exit code {code}"
    return (
        "exit code 0 before its script was over"
        if "status" in result
        else f"it ended without {RESULTS_NAME} in its folder"
    )


def choose(study: Study, folder: Path, *, has_ended: Callable[[Run], bool]) -> dict[tuple[str, ...], Any]:
    """Labels of a cell -> the value that is best on held-out data, for cells whose trials have ended.

    That is the mean over the seeds of the trials of the last accuracy on held-out images, or of the metric that the
    study names. A value with a trial that failed or diverged is out. Of equal ones the first counts.
    """
    trials: dict[tuple[str, ...], dict[Any, list[Run]]] = {}
    for run in study.trials():
        trials.setdefault(tuple(run.cell.values()), {}).setdefault(run.tuned, []).append(run)
    chosen = {}
    for cell, by_value in trials.items():
        if not all(has_ended(run) for runs in by_value.values() for run in runs):
            continue
        scores = {value: _held_out(study, folder, runs) for value, runs in by_value.items()}
        usable = {value: score for value, score in scores.items() if score is not None}
        if usable:
            chosen[cell] = max(usable, key=lambda value: better_first(study, usable[value], held_out=True))
    return chosen


def _held_out(study: Study, folder: Path, runs: list[Run]) -> float | None:
    scores = []
    for run in runs:
        result = result_of(folder, run)
        if result is None or result["status"] != "finished":
            return None
        try:
            scores.append(curve_and_value(study, result, held_out=True)[1])
        except ValueError:
            return None
    mean = math.fsum(scores) / len(scores)
    return mean if math.isfinite(mean) else None


def epochs_of(study: Study) -> dict[str, float] | None:
    """Name of each possible run -> its epochs; None where the options of one don't say, or count steps."""
    found = {run.name: run.options for run in study.possible_runs()}
    if not all(is_number(o.get("num_train_epochs")) and not o.get("max_steps") for o in found.values()):
        return None
    return {name: float(options["num_train_epochs"]) for name, options in found.items()}


class Runner:
    """Starts the runs of a study, as many at a time as the executor takes.

    Args:
        study: what to run.
        folder: of the study, claimed; each run has a folder below it.
        job_of: makes the `Job` of a run in a folder, as `command.make_job` does; on a cluster it is pickled.
        executor: where the runs take place; it is closed at the end.
        only: shell pattern of the names to run.
    """

    def __init__(
        self,
        study: Study,
        folder: Path,
        job_of: Callable[[Run, Path], Job],
        executor: Executor,
        *,
        only: str | None = None,
    ) -> None:
        self.study, self.folder, self.job_of, self.executor, self.only = study, folder, job_of, executor, only
        self.ended: set[str] = set()  # in this process, finished or failed
        self.running: dict[str, tuple[Run, Handle]] = {}
        self.epochs = epochs_of(study)
        matching(study.possible_runs(), only)  # a pattern that matches nothing is a mistake

    def run(self, progress: Progress) -> Outcome:
        """Run what is not finished. A run that fails is recorded with its error, and the rest goes on.

        Raises:
            ValueError: another process runs this study; or a run has finished whose results can't count, or its script
                has refused its flags, and there is none that counts: the others would be no better.
        """
        with locked(self.folder) as lock:
            try:
                while True:
                    for run in self._collect():
                        progress.ended(run, result_of(self.folder, run) or {})
                        self._check_counts(run)
                    wanted = self.wanted()
                    waiting = [run for run in wanted if not self._is_over(run) and run.name not in self.running]
                    while waiting and len(self.running) < self.executor.capacity:
                        run = waiting.pop(0)
                        target = (self.folder / RUNS_NAME / run.name).absolute()
                        handle = self.executor.start(target, partial(self.job_of, run, target), lock)
                        self.running[run.name] = (run, handle)
                    progress.update(*self._done(wanted), list(self.running))
                    if not self.running:
                        break
                    self.executor.wait(PROGRESS_SECONDS)
            finally:
                for _, handle in self.running.values():
                    handle.terminate()
                self.executor.close()
        return self._outcome()

    def wanted(self) -> list[Run]:
        """The runs that are known now: trials, and the runs of cells whose value has been chosen."""
        chosen = choose(self.study, self.folder, has_ended=self._counts)
        runs = {run.name: run for run in (*self.study.trials(), *self.study.finals(chosen))}
        return [run for run in runs.values() if self.only is None or fnmatch(run.name, self.only)]

    def _check_counts(self, run: Run) -> None:
        result = result_of(self.folder, run) or {"status": "running"}
        if result["status"] == "finished":
            reason = why_not_counted(self.study, run, result)
            what = f"{run.name} has finished and can't count: {reason}."
        elif self.study.script is not None and "unrecognized arguments" in result.get("error", ""):  # argparse's words
            reason = result["error"].removeprefix("exit code 2: ")
            what = (
                f"{self.study.script} refused its flags: {reason}. It must take --seed, --output_dir and the study's."
            )
        else:
            return
        if reason is not None and not any(self._has_counted(other) for other in self.study.possible_runs()):
            raise ValueError(f"{what} The study has stopped.")

    def _has_counted(self, run: Run) -> bool:
        result = result_of(self.folder, run)
        is_there = result is not None and result["status"] == "finished"
        return is_there and why_not_counted(self.study, run, result or {}) is None

    def _is_over(self, run: Run) -> bool:
        return run.name in self.ended or (run.name not in self.running and is_finished(self.folder, run))

    def _counts(self, run: Run) -> bool:
        """Whether the run is over and was not interrupted: a value is not chosen before all its trials are there."""
        result = result_of(self.folder, run) if self._is_over(run) else None
        return result is not None and result["status"] != "interrupted"

    def _collect(self) -> list[Run]:
        """The runs that have ended since the last call."""
        over = []
        for run, handle in list(self.running.values()):
            code = handle.poll()
            if code is not None:
                del self.running[run.name]
                self.ended.add(run.name)
                record_end(self.folder, run, code, handle.why)
                over.append(run)
        return over

    def _done(self, wanted: list[Run]) -> tuple[float, float]:
        """How many epochs of these runs are done, and all of them; runs where their epochs are not known."""
        if self.epochs is None:
            return float(sum(map(self._is_over, wanted))), float(len(wanted))
        done = total = 0.0
        for run in wanted:
            epochs = self.epochs[run.name]
            total += epochs
            if self._is_over(run):
                done += epochs
            elif result := result_of(self.folder, run):
                done += max((epoch["epoch"] for epoch in result.get("epochs", [])), default=0.0)
        return done, total

    def _outcome(self) -> Outcome:
        results = {run.name: result_of(self.folder, run) for run in self.wanted()}
        failed = {
            name: result.get("error", result["status"])
            for name, result in results.items()
            if result and result["status"] in ("failed", "interrupted")
        }
        return Outcome(
            sum(result is not None and result["status"] == "finished" for result in results.values()), failed
        )
