"""Copies what a report is made of into a folder to keep, without paths of the machine that ran it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ..files import finite, masked, read_json, write_json, write_whole
from ..runs.history import HISTORY_NAME
from ..runs.results import RESULTS_NAME
from .collect import collect, first_with_history
from .compact import compact_results, copy_history
from .runner import RUNS_NAME, has_ended
from .study_file import STUDY_NAME, read_study


WHOLE = re.compile(r"(/|~|file://|[A-Za-z]:[/\\]|\\\\)")  # a value that is a path, also one with spaces
# A path in a text, also in a list such as PYTHONPATH's; no address of the web, whose slash follows a slash or a name.
INSIDE = re.compile(r"(?<![\w./~-])(file://)?~?(/[\w.@+-]+){2,}/?")


def publish(source: Path, target: Path) -> None:
    """Copy study.json, the results.json of each run that finished or failed, and the first history of each cell.

    Checkpoints stay where they are. In both files paths of the machine are cut to their last part, secrets masked.

    Raises:
        FileNotFoundError: ``source`` is not a study's folder.
        ValueError: no run is finished, or ``target`` is ``source`` itself, another study's, or that of a version with
            runs that this one has not.
    """
    if target.resolve() == source.resolve():  # the copies have less, and would take the place of what they are of
        raise ValueError(f"{target} is the study's own folder. Publish it into another one.")
    collected = collect(source)
    kept = target / STUDY_NAME
    if kept.is_file() and not collected.study.extends(read_study(target)):
        raise ValueError(f"{target} has another study, or runs that this one has not. Use another folder.")
    target.mkdir(parents=True, exist_ok=True)
    write_json(kept, _public(source / STUDY_NAME))
    with_history = {run.name for run in first_with_history(collected, source).values()}
    layers = {one.run.name: one.layers for one in (*collected.trials, *collected.finals)}
    for run in collected.study.possible_runs():
        path = source / RUNS_NAME / run.name
        if not has_ended(source, run):  # not run, under way, interrupted, or damaged
            continue
        # Those that failed as well: a cell's value is chosen when all its trials have ended.
        results = compact_results(_public(path / RESULTS_NAME))
        if layers.get(run.name):  # of the run of a script they come from its history, which stays behind
            results.setdefault("layers", layers[run.name])
        folder = target / RUNS_NAME / run.name
        write_whole(folder / RESULTS_NAME, json.dumps(finite(results), allow_nan=False) + "\n")
        if run.name in with_history:
            copy_history(path / HISTORY_NAME, folder / HISTORY_NAME)


def _public(path: Path) -> Any:
    return without_paths(masked(read_json(path)))


def without_paths(value: Any) -> Any:
    """The JSON value with each path from the root, the home folder or a drive cut to its last part."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    if not isinstance(value, str):
        return value
    if WHOLE.match(value):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return INSIDE.sub(lambda found: found[0].rstrip("/").rpartition("/")[2], value)
