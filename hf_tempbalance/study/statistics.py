"""What several paired comparisons together support, and how many seeds a difference needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from ..runs.intervals import Interval


LEVEL = 0.05  # of a test; its interval is the one of 95 %
POWER = 0.8
MOST_SEEDS = 1000  # nobody will train more


def p_value(difference: Interval) -> float:
    r"""Student's paired test, two-sided, of the hypothesis that the mean of the differences is 0.

        p = 2 P(T_{n-1} > |mean| sqrt(n) / sd)

    It is below 0.05 where the 95 % interval excludes 0. NaN where there is no interval.
    """
    if not math.isfinite(difference.half_width):
        return math.nan
    from scipy.stats import t as student_t

    return float(2 * student_t.sf(abs(difference.mean) * math.sqrt(difference.n) / difference.sd, difference.n - 1))


def holm(values: Sequence[float]) -> list[float]:
    """Holm's corrected p values, in the order given; NaN, where there was no test, stays and is not counted.

    The k-th smallest of m (k from 0) is multiplied by m - k, and none is smaller than one before it. Whichever
    hypotheses are true, the chance that one of them has a corrected value below a level is below that level.
    """
    order = sorted((p, place) for place, p in enumerate(values) if not math.isnan(p))
    corrected, largest = [math.nan] * len(values), 0.0
    for k, (p, place) in enumerate(order):
        largest = max(largest, min((len(order) - k) * p, 1.0))
        corrected[place] = largest
    return corrected


def detectable(sd: float, n: int, power: float = POWER) -> float:
    r"""The true difference that n pairs show with this probability: their 95 % interval lies on its side of 0.

    The smallest d with P(T' > t_{n-1}) >= power, where T' has the noncentral t distribution of n - 1 degrees of
    freedom and noncentrality d sqrt(n) / sd.

    Args:
        sd: standard deviation of the paired differences, from 0 up.
        n: number of pairs.

    Returns:
        The difference, in the unit of ``sd``; NaN for fewer than two pairs, which show nothing, or an unknown ``sd``.
    """
    if n < 2 or not math.isfinite(sd):
        return math.nan
    return _shift(n, power) * sd / math.sqrt(n)


@lru_cache(maxsize=1024)
def _shift(n: int, power: float) -> float:
    """The noncentrality of `detectable`."""
    from scipy.optimize import brentq
    from scipy.stats import nct
    from scipy.stats import t as student_t

    quantile = float(student_t.ppf(1 - LEVEL / 2, n - 1))
    # Twenty quantiles are far beyond: two pairs, the fewest, need 1.3 for a power of 0.8.
    return float(brentq(lambda shift: nct.sf(quantile, n - 1, shift) - power, 0.0, 20 * quantile))


def seeds_needed(difference: float, sd: float, power: float = POWER) -> int | None:
    """The smallest number of pairs that shows a true difference of this size; None where `MOST_SEEDS` don't."""

    def is_enough(n: int) -> bool:
        return detectable(sd, n, power) <= abs(difference)

    if not math.isfinite(difference) or not math.isfinite(sd) or not is_enough(MOST_SEEDS):
        return None
    low, high = 1, 2
    while not is_enough(high):
        low, high = high, min(2 * high, MOST_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high
