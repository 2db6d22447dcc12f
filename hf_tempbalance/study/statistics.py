"""Means over seeds with their 95% intervals, and differences between methods over the same seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.stats import t as student_t


Verdict = Literal["larger", "smaller", "not shown"]


@dataclass(frozen=True)
class Interval:
    """The mean of n values. sd and half_width are NaN for one value, all are for none.

    sd: standard deviation of the values (n - 1 in the denominator). half_width: of the 95% interval of the mean.
    """

    n: int
    mean: float
    sd: float
    half_width: float

    @property
    def low(self) -> float:
        """Lower end of the 95% interval."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end of the 95% interval."""
        return self.mean + self.half_width

    @property
    def sign(self) -> Verdict:
        """What the interval supports about the mean against 0; nothing with fewer than two values."""
        if self.low > 0:
            return "larger"
        return "smaller" if self.high < 0 else "not shown"


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    r"""Student's interval of a mean, for values that are normal or many.

        mean +- t_{n-1} sd / sqrt(n),    sd^2 = sum (x - mean)^2 / (n - 1)

    with the quantile t of Student's distribution of n - 1 degrees of freedom.
    """
    n = len(values)
    mean = math.fsum(values) / n if n else math.nan
    if n < 2:
        return Interval(n, mean, math.nan, math.nan)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    quantile = float(student_t.ppf((1 + confidence) / 2, n - 1))
    return Interval(n, mean, sd, quantile * sd / math.sqrt(n))


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Interval:
    """The interval of values - baseline over the seeds that both have: the noise that a seed gives to both is out."""
    return interval([values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())])
