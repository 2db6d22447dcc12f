"""From the scores of the tuned layers to their learning-rate multipliers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..config import Mapping


def map_scores(
    scores: Sequence[float], mapping: Mapping = "linear", *, lr_min_ratio: float = 0.5, lr_max_ratio: float = 1.5
) -> list[float]:
    r"""Multipliers for n scores m_i; a larger score gives a larger (never a smaller) multiplier.

        linear   r_lo + (r_hi - r_lo) (m_i - min m) / (max m - min m)
        sqrt     n sqrt(m_i) / sum_j sqrt(m_j)             mean 1, ratios unused
        log2     n log2(m_i) / sum_j log2(m_j)             mean 1, ratios unused
        step     r_lo + (r_hi - r_lo) q_i / n              q_i = 0 ... n-1: rank of m_i, ascending

    Args:
        scores: any unit; `is_usable` tells which of them count.

    Returns:
        Python floats. 1.0 for scores that are not usable, which change no other multiplier, and 1.0 for all where
        the usable scores are equal (the reference gives r_hi there).

    Source:
        Zhou et al., "Temperature Balancing", NeurIPS 2023, and the reference code's assignment functions.
    """
    values = np.asarray(scores, dtype=np.float64)
    usable = is_usable(values, mapping)
    chosen = values[usable]
    multipliers = np.ones_like(values)
    if chosen.size and chosen.min() < chosen.max():
        multipliers[usable] = MAPPINGS[mapping](chosen, lr_min_ratio, lr_max_ratio)
    return multipliers.tolist()


def is_usable(scores: Sequence[float], mapping: Mapping) -> np.ndarray:
    """Boolean mask: finite, and for sqrt at least 0, for log2 at least 1, where the formula gives no negative rate."""
    values = np.asarray(scores, dtype=np.float64)
    smallest = {"sqrt": 0.0, "log2": 1.0}.get(mapping, -np.inf)
    return np.isfinite(values) & (values >= smallest)


def _linear(scores: np.ndarray, lr_min_ratio: float, lr_max_ratio: float) -> np.ndarray:
    # Over a power of 2, which changes no digit: differences of 1e300 and of 1e-310 would have an infinite quotient.
    _, exponent = np.frexp(np.abs(scores).max())
    scores = np.ldexp(scores, -exponent)
    return np.interp(scores, [scores.min(), scores.max()], [lr_min_ratio, lr_max_ratio])


def _sqrt(scores: np.ndarray, lr_min_ratio: float, lr_max_ratio: float) -> np.ndarray:
    return np.sqrt(scores) / np.sqrt(scores).mean()


def _log2(scores: np.ndarray, lr_min_ratio: float, lr_max_ratio: float) -> np.ndarray:
    return np.log2(scores) / np.log2(scores).mean()


def _step(scores: np.ndarray, lr_min_ratio: float, lr_max_ratio: float) -> np.ndarray:
    rank = np.argsort(np.argsort(scores, kind="stable"), kind="stable")
    return lr_min_ratio + (lr_max_ratio - lr_min_ratio) * rank / scores.size


MAPPINGS: dict[str, Callable[[np.ndarray, float, float], np.ndarray]] = {
    "linear": _linear,
    "sqrt": _sqrt,
    "log2": _log2,
    "step": _step,
}
