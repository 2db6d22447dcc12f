"""The exponent that a random matrix has by its shape alone, and an exponent relative to it."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np


NODES = 4096  # of the quadrature: exact to 1e-6 for quantiles up to 0.9, to 1e-3 at 0.999


@lru_cache(maxsize=4096)
def marchenko_pastur_alpha(aspect: float, quantile: float = 0.5) -> float:
    r"""Power-law exponent of the upper tail of Marchenko and Pastur's law, the spectrum of a large Gaussian matrix.

    With aspect ratio q, the eigenvalues x = 1 + q + 2 sqrt(q) cos t of a matrix of unit variance have the density

        (2 / pi) sin(t)^2 / x dt,   0 <= t <= pi

    and with m their quantile at which the tail starts,

        1 / (alpha_MP - 1) = E[ ln(x / m) | x >= m ],

    which is what the median fit finds in many eigenvalues; the scale drops out. By the midpoint rule in t.

    Args:
        aspect: q, the smaller over the larger side, above 0 and at most 1.
        quantile: share of the eigenvalues below the tail, 0 to 1 (1 / xmin_pos of the median fit).

    Returns:
        2.122 for square matrices, 2.706 for 2:1, 4.470 for 8:1 (quantile 1/2). NaN where there is no tail.

    Source:
        Marchenko, Pastur, "Distribution of eigenvalues for some sets of random matrices", 1967.
    """
    if not (0 < aspect <= 1 and 0 <= quantile < 1):
        return math.nan
    angles = (np.arange(NODES) + 0.5) * np.pi / NODES  # eigenvalues descend
    values = 1 + aspect + 2 * math.sqrt(aspect) * np.cos(angles)
    weights = (2 / np.pi) * np.sin(angles) ** 2 / values * (np.pi / NODES)
    weights /= weights.sum()
    # Up to the angle of the quantile, which lies inside of a cell.
    above = np.cumsum(weights)
    share = 1 - quantile
    last = min(int(np.searchsorted(above, share)), NODES - 1)
    part = (share - (above[last] - weights[last])) / weights[last]
    angle = (last + part) * np.pi / NODES
    start = 1 + aspect + 2 * math.sqrt(aspect) * math.cos(angle)
    if not start > 0:  # all of a square matrix's, whose smallest is 0
        return math.nan
    logs = np.log(values[: last + 1] / start)
    # The cell of the quantile ends there: its part has its own midpoint.
    middle = 1 + aspect + 2 * math.sqrt(aspect) * math.cos((last + part / 2) * np.pi / NODES)
    logs[last] = math.log(middle / start)
    weights[last] *= part
    mean = float((weights[: last + 1] * logs).sum() / share)
    return 1 + 1 / mean if mean > 0 else math.nan


def marchenko_pastur_density(eigenvalues: np.ndarray, aspect: float, mean: float) -> np.ndarray:
    r"""Density of the eigenvalues of W^T W of a large Gaussian matrix of this shape and norm: Marchenko and Pastur's.

    With y = x / mean and the edges y_- = (1 - sqrt(q))^2, y_+ = (1 + sqrt(q))^2,

        p(x) = sqrt((y_+ - y)(y - y_-)) / (2 pi q y mean),   0 outside of the edges

    Args:
        eigenvalues: x, of any shape, above 0, in units of weight squared.
        aspect: q, the smaller over the larger side of the matrix, above 0 and at most 1.
        mean: of the eigenvalues: the squared Frobenius norm over their number.

    Returns:
        p, of the shape of x, in 1 / units of weight squared.
    """
    y = np.asarray(eigenvalues, dtype=float) / mean
    low, high = (1 - math.sqrt(aspect)) ** 2, (1 + math.sqrt(aspect)) ** 2
    return np.sqrt(np.maximum((high - y) * (y - low), 0)) / (2 * np.pi * aspect * y * mean)


def relative_alpha(alpha: float, rows: int, columns: int, quantile: float) -> float:
    """(alpha - 1) / (alpha_MP - 1): 1 for an untrained Gaussian weight of any shape, below 1 for a heavier tail.

    Args:
        alpha: exponent of the weight's spectrum.
        rows, columns: of each matrix whose eigenvalues are in it.
        quantile: share of the eigenvalues below the tail.
    """
    if not math.isfinite(alpha) or min(rows, columns) == 0:
        return math.nan
    random = marchenko_pastur_alpha(min(rows, columns) / max(rows, columns), quantile)
    return (alpha - 1) / (random - 1)
