"""Every paired comparison of a study: each cell with the baseline and with its controls, and what is shown of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..runs.intervals import Interval, paired_difference
from .collect import Collected, Measured
from .controls import NEAR, AtRate, at_rate, controls
from .display import display_of
from .statistics import LEVEL, MOST_SEEDS, detectable, holm, p_value, seeds_needed


@dataclass(frozen=True)
class Comparison:
    """Paired differences of the last value of the metric: a cell minus what it is compared with.

    Attributes:
        cell: axis -> label.
        kind: what it is compared with: "baseline", "at_rate" (plain training at the mean rate) or one of
            `controls.CONTROLS`.
        name: of that, as it is reported: the baseline's label, "shuffled", "plain at learning_rate 0.05".
        difference: over the pairs of runs with one seed, in the unit that the metric is shown in.
        held_out: the same pairs' difference of the metric that tuned values are chosen by, in its own unit; of no
            pair where the runs have not measured it.
        diverged: pairs that are not in it, because one of the two values is no number.
        is_run: whether what it is compared with has a finished run.
        maximize: whether larger values are better.
        p: of Student's paired test, two-sided; NaN without an interval. holm: corrected for all of the report.
        note: what more is to be said of it; a sentence or nothing.
    """

    cell: dict[str, str]
    kind: str
    name: str
    difference: Interval
    held_out: Interval
    diverged: int
    is_run: bool
    maximize: bool
    p: float
    holm: float = math.nan
    note: str = ""

    @property
    def is_worse(self) -> bool:
        """Whether the interval excludes 0 on the wrong side."""
        return self.difference.verdict == ("below" if self.maximize else "above")

    @property
    def verdict(self) -> str:
        """What is shown: "not shown", "better: shown", "worse: shown alone, not after Holm's correction"."""
        if reason := self.why_not:
            return f"not shown ({reason})"
        if self.difference.verdict == "not shown":
            return "not shown"
        return f"{'worse' if self.is_worse else 'better'}: {self._strength}"

    @property
    def sentence(self) -> str:
        """The verdict in words: "better than shuffled: not shown"."""
        if reason := self.why_not:
            return f"better than {self.name}: not shown ({reason})"
        word = "worse" if self.is_worse else "better"
        return f"{word} than {self.name}: {self._strength}"

    @property
    def why_not(self) -> str:
        """Why nothing can be shown, whatever the numbers are; empty where something can."""
        n = self.difference.n
        if self.diverged:
            return f"{self.diverged} of {n + self.diverged} pairs diverged"
        if n == 0:
            return "no seed that both have finished" if self.is_run else "not run"
        if n == 1:
            return "one pair: no interval"
        return "all differences are the same: no interval" if math.isnan(self.difference.half_width) else ""

    @property
    def _strength(self) -> str:
        if self.difference.verdict == "not shown":
            return "not shown"
        return "shown" if self.holm < LEVEL else "shown alone, not after Holm's correction"

    def detectable(self, n: int) -> float:
        """The true difference that n seeds would show with a probability of 80 %, with the spread of these pairs."""
        return detectable(self.difference.sd, n) if math.isfinite(self.p) else math.nan

    @property
    def seeds_needed(self) -> int | None:
        """Seeds that would show a true difference as large as the mean of these pairs; None if too many or unknown."""
        return seeds_needed(self.difference.mean, self.difference.sd) if math.isfinite(self.p) else None

    @property
    def seeds_needed_as_text(self) -> str:
        """The same for a table: "31", "more than 1000", and "-" without a p value."""
        return "-" if math.isnan(self.p) else str(self.seeds_needed or f"more than {MOST_SEEDS}")


def compare(collected: Collected) -> list[Comparison]:
    """All comparisons, cell by cell, each cell's in a fixed order; corrected together.

    The order: the baseline, the method's own plain training where that is not the baseline, plain training at the
    method's rate x mean multiplier, what the study file names, normalized, shuffled, by_type, frozen.
    """
    found = [
        comparison
        for cell in collected.study.combinations()
        if collected.of(cell)
        for comparison in _of_cell(collected, cell)
    ]
    corrected = holm([comparison.p for comparison in found])
    return [replace(comparison, holm=value) for comparison, value in zip(found, corrected, strict=True)]


def gain_at(collected: Collected, cell: dict[str, str], value: float) -> Interval:
    """The paired difference of a cell to its baseline at one tuned value, over the seeds of the trials."""
    ours, theirs = (
        [m for m in collected.trials if m.run.cell == of and m.run.tuned == value]
        for of in (cell, cell | collected.study.baseline)
    )
    return _paired(collected, ours, theirs)[0]


def _of_cell(collected: Collected, cell: dict[str, str]) -> list[Comparison]:
    ours, ((axis, baseline),) = collected.of(cell), collected.study.baseline.items()
    if cell[axis] == baseline:
        return []
    reference = cell | {axis: baseline}
    found = [_compare(collected, cell, "baseline", baseline, ours, collected.of(reference))]
    known = [(kind, other) for kind, other in controls(collected.study, cell) if other != reference]
    for kind, other in known:
        name = other[axis] if kind in ("plain", "named") else kind
        found.append(_compare(collected, cell, kind, name, ours, collected.of(other)))
    plain = sum(one.kind in ("baseline", "plain") for one in found)
    at = at_rate(collected, cell)
    if isinstance(at, AtRate) and at.is_known and at.factor <= NEAR:
        found[plain - 1] = replace(found[plain - 1], note=_near(at))
    elif at is not None:
        found.insert(plain, _at_rate(collected, cell, at))
    return found


def _at_rate(collected: Collected, cell: dict[str, str], at: AtRate | str) -> Comparison:
    """The comparison with plain training at the mean rate, by runs that no other comparison has."""
    if isinstance(at, str):
        return _compare(collected, cell, "at_rate", "plain at its mean rate", [], [], at)
    if at.factor > NEAR:
        nearest = "" if at.nearest is None else f" (nearest: {at.nearest:g}, a factor of {at.factor:.2f})"
        name = f"{at.label} at {at.option} {at.wanted:.3g}"
        note = f"{name}, its rate x mean multiplier, has not been run{nearest}."
        return _compare(collected, cell, "at_rate", name, at.ours, [], note)
    note, seeds = _near(at), collected.study.seeds
    pairs = {m.run.seed for m in at.ours} & {m.run.seed for m in at.theirs}
    if missing := [seed for seed in seeds if seed not in pairs]:
        note += f" Of the study's {len(seeds)} seeds, {len(missing)} have not been run there."
    if trials := pairs - set(seeds):
        note += f" {len(trials)} of the pairs have seeds of trials."
    return _compare(collected, cell, "at_rate", f"{at.label} at {at.option} {at.nearest:g}", at.ours, at.theirs, note)


def _near(at: AtRate) -> str:
    mean = f"Its {at.option} x mean multiplier is {at.wanted:.3g}"
    return f'{mean}; the nearest runs of "{at.label}" have {at.nearest:g}, a factor of {at.factor:.2f}.'


def _compare(
    collected: Collected,
    cell: dict[str, str],
    kind: str,
    name: str,
    ours: list[Measured],
    theirs: list[Measured],
    note: str = "",
) -> Comparison:
    difference, diverged = _paired(collected, ours, theirs)
    return Comparison(
        cell=cell,
        kind=kind,
        name=name,
        difference=difference,
        held_out=_paired(collected, ours, theirs, held_out=True)[0],
        diverged=diverged,
        is_run=bool(theirs),
        maximize=display_of(collected.study).maximize,
        p=p_value(difference),
        note=note,
    )


def _paired(
    collected: Collected, ours: list[Measured], theirs: list[Measured], *, held_out: bool = False
) -> tuple[Interval, int]:
    """The difference over the pairs of runs with one seed, in the unit that is shown, and how many pairs diverged."""
    display = display_of(collected.study, held_out=held_out)
    one, two = (
        {m.run.seed: display.value(m.held_out if held_out else m.last) for m in runs} for runs in (ours, theirs)
    )
    gains = [one[seed] - two[seed] for seed in sorted(one.keys() & two.keys())]
    finite = [gain for gain in gains if math.isfinite(gain)]
    return paired_difference(finite), len(gains) - len(finite)
