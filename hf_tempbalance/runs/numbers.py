"""Numbers as people read them."""

from __future__ import annotations

import math


def three_digits(value: float | None, sign: str = "") -> str:
    """A number with three digits that count: 0.00835, 1.50, 12.3, 45210; "-" where there is none.

    Args:
        value: NaN and None are no number; infinity is.
        sign: "+" to have it in front of what is not negative as well.

    >>> [three_digits(value) for value in (0.0083512, 1.5, 12.345, 45210, 1e-7)], three_digits(0.5, "+")
    (['0.00835', '1.50', '12.3', '45210', '1.00e-07'], '+0.500')
    """
    if value is None or math.isnan(value):
        return "-"
    if value == 0 or not math.isfinite(value):
        return format(value, f"{sign}.3g")
    size = math.floor(math.log10(abs(float(f"{value:.2e}"))))  # of the rounded number: 9.999 is 10.0
    if -5 <= size < 15:
        return format(value, f"{sign}.{max(2 - size, 0)}f")
    return format(value, f"{sign}.2e")
