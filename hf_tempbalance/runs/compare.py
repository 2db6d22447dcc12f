"""Runs of two methods, pair by pair: ``hf-tempbalance compare-runs``. From plain records; torch is not needed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .intervals import Interval, interval, paired_difference
from .measured import Direction, Measured, measure
from .measured import direction as direction_of
from .run import read_run
from .settings import METHOD, Difference, differences


@dataclass(frozen=True)
class Side:
    """The runs of one method."""

    name: str
    runs: list[Measured]

    @property
    def values(self) -> list[float]:
        """The metric of each run."""
        return [run.value for run in self.runs]

    @property
    def mean(self) -> float:
        """Mean of the values."""
        return interval(self.values).mean

    @property
    def sd(self) -> float:
        """Standard deviation of the values, n - 1 in the denominator; NaN for one run."""
        return interval(self.values).sd


@dataclass(frozen=True)
class Comparison:
    """Two sides, their pairs and the difference between them.

    Attributes:
        pairs: (base, other) positions in the two lists of runs.
        paired_by: "seed", or "order" where the files don't have the seeds.
        direction: "lower", "higher", or None where the metric's name does not tell which is better.
        warnings: sentences on what limits the comparison.
    """

    metric: str
    base: Side
    other: Side
    pairs: list[tuple[int, int]]
    paired_by: Literal["seed", "order"]
    difference: Interval
    direction: Direction | None
    settings: list[Difference]
    warnings: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        """The difference, its interval and what it supports."""
        difference, base, other = self.difference, self.base.name, self.other.name
        pairs = f"{difference.n} pair{'s' if difference.n > 1 else ''} by {self.paired_by}"
        sentence = f"{other} minus {base}, {pairs}: {difference.mean:+.4g}"
        if math.isnan(difference.low):
            return f"{sentence}, no interval. {other} above or below {base}: not shown."
        sentence += f", 95% interval {difference.low:+.4g} to {difference.high:+.4g}."
        if difference.verdict == "not shown":
            return f"{sentence} {other} above or below {base}: not shown."
        better = ""
        if self.direction is not None:
            is_better = (difference.verdict == "above") == (self.direction == "higher")
            better = f", which is {'better' if is_better else 'worse'}"
        return f"{sentence} {other} is {difference.verdict} {base}{better}."

    def to_dict(self) -> dict[str, Any]:
        """The comparison in JSON types; NaN is left as it is (`files.finite` makes null of it)."""
        difference = {name: getattr(self.difference, name) for name in ("n", "mean", "sd", "low", "high", "verdict")}
        return {
            "metric": self.metric,
            "better": self.direction,
            "sides": [_side_dict(side) for side in (self.base, self.other)],
            "paired_by": self.paired_by,
            "pairs": [[str(self.base.runs[a].run.folder), str(self.other.runs[b].run.folder)] for a, b in self.pairs],
            "difference": difference,
            "settings": [vars(setting) | {"method": setting.is_method} for setting in self.settings],
            "warnings": self.warnings,
        }


def compare_runs(base: Sequence[str | Path], other: Sequence[str | Path], metric: str = "eval_accuracy") -> Comparison:
    """Compare a metric of runs of one method with those of another.

    Args:
        base: output folders of Trainers; ``trainer_state.json`` in one or in its newest checkpoint is enough.
        other: those of the other method.
        metric: a key of the evaluations, or of ``Trainer.predict`` where the run is recorded.

    Raises:
        ValueError: a folder is no run, is given twice, has damaged files or no such metric. The message names it.
    """
    seen: dict[Path, str] = {}
    for folders, side in ((base, "first"), (other, "second")):
        for folder in folders:
            place = Path(folder).resolve()
            if place in seen:
                where = "on both sides" if seen[place] != side else "given twice"
                raise ValueError(f"{folder} is {where}. Give each run once.")
            seen[place] = side
    sides = [[measure(read_run(folder), metric) for folder in folders] for folders in (base, other)]
    return compare_measured(sides[0], sides[1], metric)


def compare_measured(base: Sequence[Measured], other: Sequence[Measured], metric: str) -> Comparison:
    """`compare_runs` of runs that have been read, at least one on each side."""
    sides = [list(base), list(other)]
    settings = differences([m.run for m in base], [m.run for m in other])
    pairs, paired_by, notes = pair(base, other)
    names = _names(sides, settings)
    gains = [other[b].value - base[a].value for a, b in pairs]
    comparison = Comparison(
        metric=metric,
        base=Side(names[0], sides[0]),
        other=Side(names[1], sides[1]),
        pairs=pairs,
        paired_by=paired_by,
        difference=paired_difference(gains),
        direction=direction_of(metric, [m.run for m in (*base, *other)]),
        settings=settings,
    )
    comparison.warnings.extend([*notes, *_limits(comparison)])
    return comparison


def pair(
    base: Sequence[Measured], other: Sequence[Measured]
) -> tuple[list[tuple[int, int]], Literal["seed", "order"], list[str]]:
    """Pairs of positions: runs of one seed where all have one, else in the order given. And what is to be said."""
    seeds = [[run.seed for run in side] for side in (base, other)]
    common = set(seeds[0]) & set(seeds[1]) - {None}
    if None in seeds[0] + seeds[1]:
        reason = "not every run has a results.json with its seed"
    elif any(count > 1 for side in seeds for count in Counter(side).values()):
        reason = "a side has two runs with one seed"
    elif not common:
        reason = "the two sides have no seed in common"
    else:
        alone = [str(run.run.folder) for side in (base, other) for run in side if run.seed not in common]
        told = [f"No partner with its seed, so not in the difference: {', '.join(alone)}."] if alone else []
        return [(seeds[0].index(s), seeds[1].index(s)) for s in seeds[0] if s in common], "seed", told
    notes = [f"Paired in the order given: {reason}."]
    count = min(len(base), len(other))
    if alone := [str(run.run.folder) for side in (base, other) for run in side[count:]]:
        notes.append(f"No partner, so not in the difference: {', '.join(alone)}.")
    return [(position, position) for position in range(count)], "order", notes


def _limits(comparison: Comparison) -> list[str]:
    """What a reader must know before believing the difference."""
    found, base, other = [], comparison.base, comparison.other
    runs = [*base.runs, *other.runs]
    for run in runs:
        if run.run.status not in (None, "finished"):
            found.append(f"{run.run.folder} is {run.run.status}: its values are not those of a whole run.")
        if not math.isfinite(run.value):
            found.append(f"{run.run.folder} ends with {comparison.metric} = {run.value}: there is no mean.")
    counts = Counter(len(run.curve) for run in runs)
    if len(counts) > 1:
        usual = counts.most_common(1)[0][0]
        odd = [f"{run.run.folder} {len(run.curve)}" for run in runs if len(run.curve) != usual]
        found.append(
            f"Different numbers of evaluations ({usual} in most runs, {', '.join(odd)}): the last values are not of "
            "one time."
        )
    if comparison.difference.n == 1:
        found.append("One pair: there is no interval, and no verdict. Train more seeds.")
    elif math.isfinite(comparison.difference.sd) and math.isnan(comparison.difference.low):
        found.append("All differences are the same, so their spread can't be told and there is no interval.")
    for a, b in comparison.pairs:
        one, two = base.runs[a], other.runs[b]
        if one.losses and (one.losses, one.curve) == (two.losses, two.curve):
            found.append(f"{one.run.folder} and {two.run.folder} have the same values to the last digit.")
    unknown = [str(run.run.folder) for run in runs if not run.run.arguments]
    if unknown:
        found.append(f"Settings not known, for want of a results.json: {', '.join(unknown)}.")
    within = [setting.name for setting in comparison.settings if setting.is_within]
    if within:
        found.append(f"Runs of one side differ in more than the seed: {', '.join(within)}.")
    between = [setting for setting in comparison.settings if not setting.is_within]
    beside = [setting.name for setting in between if not setting.is_method]
    if beside and (len(beside) > 1 or len(beside) < len(between)):
        found.append(f"More than the method differs between the sides: {', '.join(beside)}.")
    if not comparison.settings and not unknown:
        found.append("No setting differs between the sides: they are runs of one method.")
    return found


def _names(sides: Sequence[Sequence[Measured]], settings: Sequence[Difference]) -> list[str]:
    """Names of the two sides, from what their runs are; never from which came first."""
    names = [" and ".join(dict.fromkeys(run.method for run in side)) for side in sides]
    if names[0] != names[1]:
        return names
    apart = [setting for setting in settings if not setting.is_within and setting.name not in METHOD]
    if 1 <= len(apart) <= 2 and all(setting.base and setting.other for setting in apart):
        short = [setting.name.removeprefix("tempbalance.") for setting in apart]
        return [
            ", ".join(f"{name} {values[0]}" for name, values in zip(short, texts, strict=True))
            for texts in ([setting.base for setting in apart], [setting.other for setting in apart])
        ]
    folders = [str(side[0].run.folder) for side in sides]
    return [name if len(side) == 1 else f"{name}, ..." for name, side in zip(folders, sides, strict=True)]


def _side_dict(side: Side) -> dict[str, Any]:
    runs = [
        {
            "folder": str(run.run.folder),
            "seed": run.seed,
            "value": run.value,
            "best": run.best,
            "train_loss": run.loss,
            "evaluations": len(run.curve),
            "seconds": run.seconds,
            "stood_still_seconds": run.stood_still,
            "looks": len(run.run.looks),
            "mean_multiplier": run.mean_multiplier,
        }
        for run in side.runs
    ]
    return {"name": side.name, "n": len(runs), "mean": side.mean, "sd": side.sd, "runs": runs}
