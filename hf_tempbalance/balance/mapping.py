"""From the scores of the tuned units to their multipliers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..config import Mapping


Scores = NDArray[np.float64]


def map_scores(
    scores: Sequence[float],
    mapping: Mapping = "linear",
    *,
    min_ratio: float = 0.5,
    max_ratio: float = 1.5,
    sharpness: float = 10.0,
) -> list[float]:
    r"""Multipliers for n scores m_i; a larger score gives a larger (never a smaller) multiplier.

        linear     r_lo + (r_hi - r_lo) t_i                  t_i = (m_i - min m) / (max m - min m)
        geometric  r_lo^(1 - t_i) r_hi^t_i
        step       r_lo + (r_hi - r_lo) q_i / n              q_i = 0 ... n-1: rank of m_i, ascending
        sqrt       n sqrt(m_i) / sum_j sqrt(m_j)             mean 1, ratios unused
        log2       n log2(m_i) / sum_j log2(m_j)             mean 1, ratios unused
        sigmoid    r_lo^(1 - 2 p_i) up to p_i = 1/2, r_hi^(2 p_i - 1) above
                                                             p_i = 1 / (1 + exp(-tau (m_i - mean m)))

    with r_lo, r_hi = ``min_ratio``, ``max_ratio`` and tau = ``sharpness``. sigmoid is 1 at the mean score and nears
    the ratios away from it; with r_lo = 10^(-s1/2) and r_hi = 10^(s2/2) it is Model Balancing's.

    Args:
        scores: any unit; `is_usable` tells which of them count.

    Returns:
        Python floats. 1.0 for scores that are not usable, which change no other multiplier, and 1.0 for all where
        the usable scores are equal (the reference gives r_hi there).

    Source:
        Zhou et al., "Temperature Balancing", NeurIPS 2023, and the reference code's assignment functions; sigmoid:
        Liu et al., "Model Balancing Helps Low-data Training and Fine-tuning", EMNLP 2024; geometric: layer-wise
        learning-rate decay, Clark et al., "ELECTRA", 2020.
    """
    values = np.asarray(scores, dtype=np.float64)
    usable = is_usable(values, mapping)
    chosen = values[usable]
    multipliers = np.ones_like(values)
    if chosen.size and chosen.min() < chosen.max():
        multipliers[usable] = MAPPINGS[mapping](chosen, min_ratio, max_ratio, sharpness)
    return [float(multiplier) for multiplier in multipliers]


def is_usable(scores: Sequence[float] | Scores, mapping: Mapping) -> NDArray[np.bool_]:
    """Boolean mask: finite, and for sqrt at least 0, for log2 at least 1, where the formula gives no negative rate."""
    values = np.asarray(scores, dtype=np.float64)
    smallest = {"sqrt": 0.0, "log2": 1.0}.get(mapping, -np.inf)
    usable: NDArray[np.bool_] = np.isfinite(values) & (values >= smallest)
    return usable


def _scaled(scores: Scores) -> Scores:
    # Over a power of 2, which changes no digit: differences of 1e300 and of 1e-310 would have an infinite quotient.
    _, exponent = np.frexp(np.abs(scores).max())
    scaled: Scores = np.ldexp(scores, -exponent)
    return scaled


def _linear(scores: Scores, low: float, high: float, sharpness: float) -> Scores:
    scores = _scaled(scores)
    mapped: Scores = np.interp(scores, [scores.min(), scores.max()], [low, high])
    return mapped


def _geometric(scores: Scores, low: float, high: float, sharpness: float) -> Scores:
    share = _linear(scores, 0.0, 1.0, sharpness)
    mapped: Scores = low ** (1 - share) * high**share
    return mapped


def _sqrt(scores: Scores, low: float, high: float, sharpness: float) -> Scores:
    mapped: Scores = np.sqrt(scores) / np.sqrt(scores).mean()
    return mapped


def _log2(scores: Scores, low: float, high: float, sharpness: float) -> Scores:
    mapped: Scores = np.log2(scores) / np.log2(scores).mean()
    return mapped


def _step(scores: Scores, low: float, high: float, sharpness: float) -> Scores:
    rank = np.argsort(np.argsort(scores, kind="stable"), kind="stable")
    mapped: Scores = low + (high - low) * rank / scores.size
    return mapped


def _sigmoid(scores: Scores, low: float, high: float, sharpness: float) -> Scores:
    with np.errstate(over="ignore", invalid="ignore"):  # far from the mean p is 0 or 1
        p = 1 / (1 + np.exp(-sharpness * (scores - (scores / scores.size).sum())))
    mapped: Scores = np.where(p <= 0.5, low ** (1 - 2 * p), high ** (2 * p - 1))
    return mapped


MAPPINGS: dict[str, Callable[[Scores, float, float, float], Scores]] = {
    "linear": _linear,
    "sqrt": _sqrt,
    "log2": _log2,
    "step": _step,
    "sigmoid": _sigmoid,
    "geometric": _geometric,
}
