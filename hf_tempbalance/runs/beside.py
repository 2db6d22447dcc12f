"""One run beside a run without the method: what differed, and what one pair of runs can't show."""

from __future__ import annotations

from dataclasses import dataclass

from .compare import Comparison, compare_measured
from .measured import Measured, direction, measure
from .numbers import three_digits
from .run import Run


@dataclass(frozen=True)
class Beside:
    """A run and its baseline.

    Attributes:
        sentence: what differed in the metric that counts.
        rows: (name, of this run, of the baseline, difference) as text, of every metric and of the costs.
        comparison: of that metric; None where the two runs have none in common.
    """

    sentence: str
    rows: list[tuple[str, str, str, str]]
    comparison: Comparison | None

    @property
    def warnings(self) -> list[str]:
        """What limits the comparison, as sentences."""
        return [] if self.comparison is None else self.comparison.warnings


def beside(run: Run, baseline: Run) -> Beside:
    """Put a run beside its baseline.

    Raises:
        ValueError: both are one folder, or a log is damaged. The message names it.
    """
    if run.folder.resolve() == baseline.folder.resolve():
        raise ValueError(f"{baseline.folder} is the run itself. Give another one as its baseline, of plain training.")
    common = [name for name in run.last_metrics if name in baseline.last_metrics]
    if not common:
        sentence = f"Nothing to compare: this run and the baseline {baseline.folder} have no evaluation in common."
        return Beside(sentence, [], None)
    metric = _that_counts(run, common)
    measured = {name: (measure(baseline, name), measure(run, name)) for name in common}
    theirs, ours = measured[metric]
    comparison = compare_measured([theirs], [ours], metric)
    sentence = (
        f"{shown(metric)} {three_digits(ours.value)} with {comparison.other.name}, {three_digits(theirs.value)} with "
        f"{comparison.base.name}: {three_digits(ours.value - theirs.value, '+')}{_better(comparison)}. "
        "One run of each shows no effect: train more seeds and use hf-tempbalance compare-runs."
    )
    return Beside(sentence, _rows(measured, ours, theirs), comparison)


def shown(metric: str) -> str:
    """A metric's name for people: "test accuracy" of "eval_test_accuracy"."""
    return metric.removeprefix("eval_").replace("_", " ")


def _that_counts(run: Run, metrics: list[str]) -> str:
    """The metric that chose the best checkpoint, else the first of which more is better, else the first."""
    chosen = str(run.arguments.get("metric_for_best_model") or "").removeprefix("eval_")
    named = [name for name in metrics if name.removeprefix("eval_") == chosen]
    higher = [name for name in metrics if direction(name, [run]) == "higher"]
    return (named or higher or metrics)[0]


def _better(comparison: Comparison) -> str:
    gain = comparison.difference.mean
    if comparison.direction is None or not gain:
        return ""
    return f", {'better' if (gain > 0) == (comparison.direction == 'higher') else 'worse'}"


def _rows(
    measured: dict[str, tuple[Measured, Measured]], ours: Measured, theirs: Measured
) -> list[tuple[str, str, str, str]]:
    numbers = [(f"{shown(name)}, last", mine.value, base.value) for name, (base, mine) in measured.items()]
    numbers += [(f"{shown(name)}, best", mine.best, base.best) for name, (base, mine) in measured.items()]
    costs = [
        ("training loss, last", ours.loss, theirs.loss),
        ("time of the run, s", ours.seconds, theirs.seconds),
        ("stood still for looks, s", ours.stood_still, theirs.stood_still),
        ("mean multiplier over the steps", ours.mean_multiplier, theirs.mean_multiplier),
    ]
    return [
        (name, three_digits(mine), three_digits(base), three_digits(mine - base, "+"))
        for name, mine, base in (*numbers, *costs)
        if mine is not None and base is not None
    ]
