"""How the metric of a study is written: accuracies in percent, everything else as it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..runs.intervals import Interval
from .plan import Study
from .values import is_maximized


@dataclass(frozen=True)
class Display:
    """Attributes:
    name: of the metric, for people.
    factor: what its values are multiplied by: 100 for accuracies.
    unit: of the values, "%" or nothing. unit_of_difference: "points" or nothing.
    maximize: whether larger values are better.
    """

    name: str
    factor: float
    unit: str
    unit_of_difference: str
    maximize: bool

    @property
    def label(self) -> str:
        """Name and unit, for an axis or a heading."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    @property
    def title(self) -> str:
        """The same for the beginning of a sentence; a name as programs have it, without spaces, stays as it is."""
        name = self.name[0].upper() + self.name[1:] if " " in self.name else self.name
        return f"{name} in percent" if self.unit else name

    @property
    def better(self) -> str:
        """Which values are better, in a word."""
        return "larger" if self.maximize else "smaller"

    def value(self, value: float) -> float:
        """A value in the unit that is shown."""
        return self.factor * value

    def number(self, value: float, sd: float = math.nan, *, signed: bool = False) -> str:
        """Accuracies with two decimals; others with two digits of their spread, with four digits where it has none."""
        sign = "+" if signed else ""
        if not math.isfinite(value):
            return "-" if math.isnan(value) else f"{value:{sign}}"
        if self.unit:
            return f"{value:{sign}.2f}"
        if not math.isfinite(sd) or sd <= 0:
            return f"{value:{sign}.4g}"
        exponent = int(f"{sd:.1e}".rpartition("e")[2])  # of the spread as it is printed: 0.0099999 is 0.010
        return f"{value:{sign}.{min(max(1 - exponent, 0), 10)}f}"

    def interval(self, value: Interval, *, signed: bool = False) -> str:
        """Mean, standard deviation and 95 % interval as text; "-" for no value."""
        if math.isnan(value.mean):
            return "-"
        mean, sd, low, high = (
            self.number(number, value.sd, signed=signed and position == 0)
            for position, number in enumerate((value.mean, value.sd, value.low, value.high))
        )
        if value.n < 2:
            return f"{mean} (one {'pair' if signed else 'run'})"
        if math.isnan(value.half_width):
            return f"{mean} +- {sd} (all the same: no interval)"
        return f"{mean} +- {sd} [{low}, {high}]"


def display_of(study: Study, *, held_out: bool = False) -> Display:
    """How the metric of a study is shown that is compared, or the one that tuned values are chosen by."""
    maximize = is_maximized(study, held_out=held_out)
    if study.metric is None:
        return _accuracy("accuracy on held-out images" if held_out else "test accuracy", maximize)
    name = study.metric.choose if held_out else study.metric.report
    return _accuracy(name, maximize) if name.endswith("accuracy") else Display(name, 1.0, "", "", maximize)


def _accuracy(name: str, maximize: bool) -> Display:
    return Display(name, 100.0, "%", "points", maximize)
