"""The algorithm in plain loops: short, obvious and slow. The package is compared with it over random input."""

from __future__ import annotations

import math

import numpy as np


def eigenvalues(weight: np.ndarray) -> np.ndarray:
    """Squared singular values; of a convolution those of each kernel position, pooled."""
    if weight.ndim == 2:
        matrices = [weight]
    else:
        matrices = [weight[:, :, i, j] for i in range(weight.shape[2]) for j in range(weight.shape[3])]
    return np.sort(np.concatenate([np.linalg.svd(matrix, compute_uv=False) ** 2 for matrix in matrices]))


def tail(x: np.ndarray, i: int) -> tuple[float, float]:
    """alpha and D of the tail that starts at index i."""
    n = len(x) - i
    alpha = 1 + n / sum(math.log(x[j] / x[i]) for j in range(i, len(x)))
    return alpha, max(abs(1 - (x[i + j] / x[i]) ** (1 - alpha) - j / n) for j in range(n))


def fit(x: np.ndarray, kind: str, xmin_pos: float = 2.0, bins: int = 100) -> tuple[float, float, int]:
    """alpha, D and index of xmin of an ascending spectrum without ties at its top."""
    if kind == "median":
        i = int(len(x) / xmin_pos)
        return (*tail(x, i), i)
    low, high = -math.inf, math.inf
    if kind != "goodness-of-fit":
        counts, edges = np.histogram(np.log10(x), bins=bins)
        peak = 10 ** edges[np.argmax(counts)]
        low = math.log10(0.95 * peak) if kind == "fix-finger" else 0.95 * peak
        high = 1.5 * peak
    best = (0.0 if kind == "fix-finger" else math.nan, 1.0, 0)
    if low <= x[0] <= high:
        best = (tail(x, 0)[0], 1.0, 0)
    for i in range(len(x) - 1):
        if low <= x[i] <= high:
            alpha, distance = tail(x, i)
            if alpha > 1 and distance < best[1]:
                best = (alpha, distance, i)
    return best


def multipliers(scores: list[float], mapping: str, low: float, high: float, sharpness: float = 10.0) -> list[float]:
    """One multiplier for each score; the scores are finite and differ."""
    n = len(scores)
    if mapping == "linear":
        smallest, largest = min(scores), max(scores)
        return [low + (high - low) * (score - smallest) / (largest - smallest) for score in scores]
    if mapping == "step":
        return [low + (high - low) * sorted(scores).index(score) / n for score in scores]
    if mapping == "geometric":
        smallest, largest = min(scores), max(scores)
        return [low * (high / low) ** ((score - smallest) / (largest - smallest)) for score in scores]
    if mapping == "sigmoid":
        mean = sum(scores) / n
        shares = [1 / (1 + math.exp(min(-sharpness * (score - mean), 700))) for score in scores]
        return [low ** (1 - 2 * p) if p <= 0.5 else high ** (2 * p - 1) for p in shares]
    function = {"sqrt": math.sqrt, "log2": math.log2}[mapping]
    total = sum(function(score) for score in scores)
    return [n * function(score) / total for score in scores]
