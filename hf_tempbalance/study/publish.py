"""Copies what a report is made of into a folder to keep, without paths of the machine that ran it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ..runs.history import HISTORY_NAME
from ..runs.results import RESULTS_NAME
from .collect import collect
from .runner import RUNS_NAME, STUDY_NAME


def publish(source: Path, target: Path) -> None:
    """Copy study.json, every run's results.json, and the history of the first seed of each cell.

    Checkpoints stay where they are. In results.json the paths of the machine are cut to their last part.

    Raises:
        FileNotFoundError: ``source`` is not a study's folder.
        ValueError: no run is finished, or ``target`` has another study.
    """
    collected = collect(source)
    kept = target / STUDY_NAME
    if kept.is_file() and kept.read_bytes() != (source / STUDY_NAME).read_bytes():
        raise ValueError(f"{target} has another study, or another version of this one. Use another folder.")
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / STUDY_NAME, kept)
    with_history = {
        tuple(cell.values()): runs[0] for cell in collected.study.combinations() if (runs := collected.of(cell))
    }
    for one in (*collected.trials, *collected.finals):
        folder = target / RUNS_NAME / one.run.name
        folder.mkdir(parents=True, exist_ok=True)
        results = json.loads((source / RUNS_NAME / one.run.name / RESULTS_NAME).read_text(encoding="utf-8"))
        (folder / RESULTS_NAME).write_text(json.dumps(_without_paths(results)) + "\n", encoding="utf-8")
        history = source / RUNS_NAME / one.run.name / HISTORY_NAME
        if history.is_file() and with_history.get(tuple(one.run.cell.values())) is one:
            shutil.copyfile(history, folder / HISTORY_NAME)


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value
