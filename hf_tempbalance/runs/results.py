"""``results.json`` of a run: what was run, where, and what it measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..files import read_json, write_json
from .checks import check_results


RESULTS_NAME = "results.json"


def write_results(folder: str | Path, results: dict[str, Any]) -> None:
    """Replace results.json in one move, so that a killed run leaves the last whole one. NaN is written as null."""
    write_json(Path(folder, RESULTS_NAME), results)


def read_results(folder: str | Path) -> dict[str, Any]:
    """The content of a run's results.json.

    Raises:
        FileNotFoundError: the folder has none.
        ValueError: it is not what a run writes. The message names file and field.
    """
    path = Path(folder, RESULTS_NAME)
    try:
        results = read_json(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder} has no {RESULTS_NAME}; it is not the output folder of scripts/train.py."
        ) from error
    check_results(path, results)
    return results


def accuracies(results: dict[str, Any], split: str = "test") -> list[tuple[float, float]]:
    """Each evaluation on a split as (epoch, accuracy), NaN where it was none; the test split may have no name."""
    keys = (f"eval_{split}_accuracy", *(["eval_accuracy"] if split == "test" else []))
    return [
        (epoch["epoch"], math.nan if epoch[key] is None else epoch[key])
        for epoch in results.get("epochs", [])
        for key in keys
        if key in epoch
    ]
