"""Student's 95% intervals: of means over seeds, and of differences between two methods over the same seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


Verdict = Literal["above", "below", "not shown"]


@dataclass(frozen=True)
class Interval:
    """The mean of n values with its 95% interval.

    Attributes:
        mean: NaN for no value.
        sd: standard deviation of the values, n - 1 in the denominator; NaN for fewer than two.
        half_width: half of the interval's width; NaN where there is none.
    """

    n: int
    mean: float
    sd: float
    half_width: float

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.mean + self.half_width

    @property
    def verdict(self) -> Verdict:
        """Where the mean is, seen from 0: shown by an interval that excludes 0, and by nothing else."""
        if self.low > 0:
            return "above"
        return "below" if self.high < 0 else "not shown"


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    r"""Student's interval of a mean, for values that are normal or many. There is none for fewer than two values.

        mean +- t_{n-1} sd / sqrt(n),    sd^2 = sum (x - mean)^2 / (n - 1)

    with the quantile t of Student's distribution of n - 1 degrees of freedom.
    """
    n = len(values)
    if not all(map(math.isfinite, values)):
        return Interval(n, sum(values) / n, math.nan, math.nan)  # fsum refuses inf - inf
    mean = math.fsum(values) / n if n else math.nan
    if n < 2:
        return Interval(n, mean, math.nan, math.nan)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return Interval(n, mean, sd, half_width(sd, n, confidence))


def half_width(sd: float, n: int, confidence: float = 0.95) -> float:
    """t_{n-1} sd / sqrt(n), for n >= 2 values with this standard deviation."""
    from scipy.stats import t as student_t

    return float(student_t.ppf((1 + confidence) / 2, n - 1)) * sd / math.sqrt(n)


def paired_difference(gains: Sequence[float]) -> Interval:
    """The interval of the mean of paired differences: the noise that a seed gives to both methods is out of them.

    Without spread, as among differences of a metric in coarse steps, there is none: it would have no width.
    """
    found = interval(gains)
    if found.sd <= 1e-12 * max(map(abs, gains), default=0.0):
        return Interval(found.n, found.mean, found.sd, math.nan)
    return found
