"""What is compared of a run, read off its records: the metric's values, losses, multipliers, seconds."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .history import NO_METRIC, cost_in_log, cost_of_looks
from .run import Run


Direction = Literal["lower", "higher"]
LOWER_IS_BETTER = re.compile(r"(loss|perplexity|error|error_rate|(^|[^a-z])(wer|cer|r?mse|mae))$")  # no "power"


@dataclass(frozen=True)
class Measured:
    """What is compared of a run.

    Attributes:
        curve: (epoch, value) of each evaluation; empty for a metric of a single prediction.
        value: the last one; of the best checkpoint where its weights were loaded at the end. NaN where it diverged.
        best: the best of the curve.
        loss: the last training loss that was logged; None without one.
        losses: (epoch, training loss).
        seconds: of the run, None where the files don't tell.
        stood_still: seconds of them that training stood still for looks at the weights.
        multipliers: (epoch, mean multiplier of the tuned layers from there on); empty for plain training.
        mean_multiplier: its mean over the steps of the run; 1 for plain training.
    """

    run: Run
    seed: int | None
    curve: list[tuple[float, float]]
    value: float
    best: float
    loss: float | None
    losses: list[tuple[float, float]]
    seconds: float | None
    stood_still: float
    multipliers: list[tuple[float, float]]
    mean_multiplier: float

    @property
    def method(self) -> str:
        """The method's name: "plain" for plain training, else the preset's."""
        if self.run.settings is None and not self.run.looks:
            return "plain"
        name = self.run.options.get("preset") or "tempbalance"
        return "TempBalance" if name in ("tempbalance", "none") else name


def measure(run: Run, metric: str, better: Direction | None = None) -> Measured:
    """Read off a run what is compared.

    Args:
        better: which direction of the metric is, where it is known better than `direction` can tell.

    Raises:
        ValueError: the log has not the metric, or is damaged.
    """
    try:
        log = sorted((e for e in run.log), key=lambda entry: entry["step"])
        entries = {e["step"]: (float(e.get("epoch") or 0), _number(e[metric])) for e in log if metric in e}
        losses = [(float(e.get("epoch") or 0), _number(e["loss"])) for e in log if "loss" in e]
        seconds = run.seconds or next((e["train_runtime"] for e in reversed(log) if "train_runtime" in e), None)
        predicted = [_number(metrics[metric]) for metrics in run.predictions if metric in metrics]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"The log of {run.folder} is damaged: {error!r}.") from error
    curve = list(entries.values())
    if not (curve or predicted):
        found = ", ".join(names(run))
        told = f"It has {found}: choose one with --metric." if found else "It has no evaluation at all."
        raise ValueError(f"{run.folder} has no {metric}. {told}")
    end = run.best_step if run.arguments.get("load_best_model_at_end") else None
    kept = [value for step, (_, value) in entries.items() if end is None or step <= end]
    values = predicted[-1:] or kept or [value for _, value in curve]
    finite = [value for _, value in curve if math.isfinite(value)] or values
    multipliers = [(float(look["epoch"]), look["multiplier_mean"]) for look in run.looks]
    return Measured(
        run=run,
        seed=run.arguments.get("seed"),
        curve=curve,
        value=values[-1],
        best=min(finite) if (better or direction(metric, [run])) == "lower" else max(finite),
        loss=losses[-1][1] if losses else None,
        losses=losses,
        seconds=seconds,
        stood_still=stood_still(run),
        multipliers=multipliers,
        mean_multiplier=mean_multiplier(run),
    )


def mean_multiplier(run: Run) -> float:
    """The mean over the steps of a run of the tuned layers' mean multiplier; 1 for plain training."""
    steps = max((entry["step"] for entry in run.log), default=0)
    return _over_steps([look["step"] for look in run.looks], [look["multiplier_mean"] for look in run.looks], steps)


def has(run: Run, metric: str) -> bool:
    """Whether an evaluation or a prediction of the run has the metric."""
    return any(metric in entry for entry in (*run.log, *run.predictions))


def names(run: Run) -> list[str]:
    """The metrics of a run's evaluations and predictions, sorted; no speeds and times."""
    known = {key for entry in run.log for key in entry if key.startswith(("eval_", "test_"))}
    known |= {key for metrics in run.predictions for key in metrics}
    return sorted(key for key in known if not key.endswith(NO_METRIC))


def stood_still(run: Run) -> float:
    """Seconds that training stood still for looks: of one that went on beside training, the wait alone."""
    return cost_of_looks(run.looks) if run.looks else cost_in_log(run.log)


def direction(metric: str, runs: Sequence[Run]) -> Direction | None:
    """Which direction of a metric is better, as the runs say or the metric's name tells; None where neither does."""
    for run in runs:
        chosen, greater = (run.arguments.get(name) for name in ("metric_for_best_model", "greater_is_better"))
        if greater is not None and chosen is not None and metric.removeprefix("eval_") == chosen.removeprefix("eval_"):
            return "higher" if greater else "lower"
    words = metric.lower()
    if LOWER_IS_BETTER.search(words):
        return "lower"
    return "higher" if words.endswith(("accuracy", "f1", "precision", "recall", "auc", "bleu")) else None


def _over_steps(starts: Sequence[int], values: Sequence[float], end: int) -> float:
    """The mean of values that hold from each start to the next, the last to the end."""
    lengths = [max(stop - start, 0) for start, stop in zip(starts, [*starts[1:], end], strict=False)]
    if not sum(lengths):
        return values[-1] if values else 1.0
    return math.fsum(n * value for n, value in zip(lengths, values, strict=True)) / sum(lengths)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
