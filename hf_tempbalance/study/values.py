"""What a run of a study has measured, by the metrics that the study names."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..runs import measured
from ..runs.results import RESULTS_NAME, accuracies
from ..runs.run import Run as Record
from ..runs.run import take_results
from .plan import Run, Study


def curve_and_value(
    study: Study, results: dict[str, Any], *, held_out: bool
) -> tuple[list[tuple[float, float]], float]:
    """(epoch, value) of each evaluation and the value that counts, in the metric's own unit.

    The value is the last one: of the weights that the run ended with, or of its prediction. It is NaN where it
    diverged.

    Args:
        results: as `read_results` gives them.
        held_out: of the metric that tuned values are chosen by; else of the one that is compared.

    Raises:
        ValueError: the run has not measured it. The message names what it has.
    """
    if study.metric is None:
        curve = accuracies(results, "validation" if held_out else "test")
        if not curve:
            raise ValueError(f"it has no evaluation on {'held-out images' if held_out else 'the test split'}")
        return curve, curve[-1][1]
    name = study.metric.choose if held_out else study.metric.report
    record = take_results(Record(Path(RESULTS_NAME)), results)
    if not measured.has(record, name):
        names = ", ".join(measured.names(record))
        raise ValueError(f"it has no {name}" + (f"; it has {names}" if names else ", and no evaluation at all"))
    found = measured.measure(record, name, "higher" if is_maximized(study, held_out=held_out) else "lower")
    return found.curve, found.value


def is_maximized(study: Study, *, held_out: bool) -> bool:
    """Whether larger values are better ones."""
    if study.metric is None:
        return True
    return study.metric.maximize_choose if held_out else study.metric.maximize_report


def better_first(study: Study, value: float, *, held_out: bool) -> float:
    """A number that is larger for a better value, and smallest for NaN."""
    if math.isnan(value):
        return -math.inf
    return value if is_maximized(study, held_out=held_out) else -value


def why_not_counted(study: Study, run: Run, results: dict[str, Any]) -> str | None:
    """Why the results of a finished run can't count in this study; None where they do."""
    if (seed := results.get("environment", {}).get("seed")) != run.seed:
        hint = "" if study.script is None else f". Does {study.script} take --seed?"
        return f"{RESULTS_NAME} is of another run: its seed is {seed} and not {run.seed}{hint}"
    try:
        curve_and_value(study, results, held_out=False)
        if study.tune is not None:
            curve_and_value(study, results, held_out=True)
    except ValueError as error:
        return str(error)
    return None
