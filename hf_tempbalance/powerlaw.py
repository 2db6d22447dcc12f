"""From ascending eigenvalues to a power-law fit: ``alpha``, ``xmin`` and ``D``. No Python loop over a spectrum."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .config import Fit


# Candidates x positions that a scan holds at once: 2^20 float64 numbers are 8 MiB.
BLOCK_ELEMENTS = 1 << 20


class PowerLawFit(NamedTuple):
    """Result of `fit_power_law`. Each field has the shape of the input without its last dimension."""

    alpha: Tensor  # exponent, no unit
    xmin: Tensor  # the eigenvalue at which the tail starts, units of weight squared
    D: Tensor  # Kolmogorov-Smirnov distance between tail and fit, 0 to 1
    index: Tensor  # position of xmin in the ascending spectrum, int64


def fit_power_law(eigenvalues: Tensor, *, fit: Fit = "median", xmin_pos: float = 2.0, bins: int = 100) -> PowerLawFit:
    r"""Fit the tail of each spectrum with the density p(x) ~ x^(-alpha), x >= xmin.

    With the tail starting at index i of N ascending eigenvalues x and n = N - i values in it,

        alpha(i) = 1 + n / sum_{j=i}^{N-1} ln(x[j] / x[i])
        D(i)     = max_j | 1 - (x[i+j] / x[i])^(1 - alpha(i)) - j / n |,   j = 0 ... n-1

    so the threshold counts as a member of the tail, as in the reference code; in the paper's formula it is the
    largest value below the tail.

    Args:
        eigenvalues: shape (..., N), N >= 2, floating point, ascending, in units of weight squared.
            Leading dimensions are independent spectra.
        fit: where the tail starts. "median": i = floor(N / xmin_pos), one pass. "goodness-of-fit": the first i in
            0 ... N-2 with the smallest D among those with alpha(i) > 1. "fix-finger": the same over x[i] with
            log10(0.95 p) <= x[i] <= 1.5 p, where p is the left edge of the fullest bin of a histogram of log10 x
            (the lower bound in mixed units is what the reference codes). "xmin-peak": the same over
            0.95 p <= x[i] <= 1.5 p.
        xmin_pos: "median" only, above 1. 2 puts half of the spectrum into the tail; larger values put more.
        bins: histogram bins of the two peak fits.

    Returns:
        alpha, xmin, D and the index of xmin, on the input's device. A spectrum with NaN or infinity has alpha NaN,
        under "median" one whose threshold is 0 too, and one whose tail values are all equal has alpha infinite.
        Where no candidate has D < 1 the scans report index 0 and D = 1, with the alpha found there, which
        "fix-finger" reports as 0 where it never evaluated it (as the reference does) and "xmin-peak" as NaN.
        No spectrum affects another, and nothing is raised.

    Raises:
        ValueError: N < 2, a dtype that is not floating point, or ``xmin_pos <= 1``.

    Source:
        Clauset, Shalizi, Newman, "Power-law distributions in empirical data", 2009, eq. 3.1 and section 3.3;
        Zhou et al., "Temperature Balancing, Layer-wise Weight Analysis, and Neural Network Training", NeurIPS 2023.

    Example:
        >>> fit_power_law(torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)).alpha.item()
        3.88539008...
    """
    if not eigenvalues.is_floating_point():
        raise ValueError(f"eigenvalues have dtype {eigenvalues.dtype}; a floating-point dtype is needed.")
    if eigenvalues.shape[-1] < 2:
        raise ValueError(f"a power law needs at least 2 eigenvalues, not {eigenvalues.shape[-1]}.")
    if not xmin_pos > 1:
        raise ValueError(f"xmin_pos={xmin_pos} is not allowed: it must be a number above 1.")
    if fit == "median":
        return _fit_at(eigenvalues, int(eigenvalues.shape[-1] / xmin_pos))
    candidates = {"goodness-of-fit": _all_starts, "fix-finger": _starts_below_peak, "xmin-peak": _starts_at_peak}[fit]
    spectra = eigenvalues.reshape(-1, eigenvalues.shape[-1])
    results = [_scan(spectrum, candidates(spectrum, bins), fit) for spectrum in spectra]
    return PowerLawFit(*(torch.stack(column).reshape(eigenvalues.shape[:-1]) for column in zip(*results, strict=True)))


def _fit_at(eigenvalues: Tensor, start: int) -> PowerLawFit:
    """The fit of every spectrum (..., N) with its tail starting at one index."""
    tail = eigenvalues[..., start:]
    log_ratio = tail.log() - tail[..., :1].log()
    n = tail.shape[-1]
    alpha = 1 + n / log_ratio.sum(-1)
    alpha = alpha.where(torch.isfinite(eigenvalues).all(-1), torch.nan)
    rank = torch.arange(n, device=tail.device, dtype=tail.dtype) / n
    distance = (1 - torch.exp((1 - alpha.unsqueeze(-1)) * log_ratio) - rank).abs().amax(-1)
    return PowerLawFit(alpha, tail[..., 0], distance, torch.full(alpha.shape, start, device=tail.device))


def _all_starts(eigenvalues: Tensor, bins: int) -> Tensor:
    return torch.ones_like(eigenvalues[:-1], dtype=torch.bool)


def _starts_below_peak(eigenvalues: Tensor, bins: int) -> Tensor:
    peak = _histogram_peak(eigenvalues, bins)
    return (eigenvalues[:-1] >= torch.log10(0.95 * peak)) & (eigenvalues[:-1] <= 1.5 * peak)


def _starts_at_peak(eigenvalues: Tensor, bins: int) -> Tensor:
    peak = _histogram_peak(eigenvalues, bins)
    return (eigenvalues[:-1] >= 0.95 * peak) & (eigenvalues[:-1] <= 1.5 * peak)


def _histogram_peak(eigenvalues: Tensor, bins: int) -> Tensor:
    """Left edge of the fullest (the first fullest) of ``bins`` equal bins over log10 of the positive eigenvalues."""
    # The reference fails on zeros here (log10(0) = -inf); they are left out of the histogram.
    logs = eigenvalues[(eigenvalues > 0) & torch.isfinite(eigenvalues)].log10()
    if logs.numel() == 0:
        return eigenvalues.new_tensor(torch.nan)
    low, width = logs.min(), logs.max() - logs.min()
    if width == 0:
        return 10**low
    bin_of = ((logs - low) / width * bins).long().clamp(max=bins - 1)  # the largest value belongs to the last bin
    fullest = torch.bincount(bin_of, minlength=bins).argmax()
    return 10 ** (low + width * fullest / bins)


def _scan(eigenvalues: Tensor, allowed: Tensor, fit: Fit) -> PowerLawFit:
    """The allowed start with the smallest D in one spectrum (N,); ``allowed`` has shape (N-1,).

    Exact, but without evaluating all N^2/2 terms: the maximum over some positions j is a lower bound of D. A coarse
    pass over all candidates, then finer ones over those whose bound does not exceed the best D known so far.
    """
    num = eigenvalues.shape[0]
    logs = eigenvalues.log()
    # Relative to the largest value: the same ratios, without cancellation between large sums.
    relative = logs - logs[-1]
    starts = torch.arange(num - 1, device=eigenvalues.device)
    n = num - starts
    tail_sum = relative.flip(0).cumsum(0).flip(0)[:-1]
    alpha = 1 + n / (tail_sum - n * relative[:-1])
    survivors = starts[allowed & (alpha > 1) & torch.isfinite(alpha)]
    best = starts.new_zeros(())
    distance = alpha.new_ones(())
    for count in (64, 512):
        if survivors.numel() > count:
            bounds = _distances(relative, alpha, survivors, _positions(num, count, starts.device))
            # The best bound of each of 64 ranges: short tails have low bounds that say little.
            ranges = bounds.tensor_split(64)
            offsets = torch.arange(len(bounds), device=bounds.device).tensor_split(64)
            promising = torch.stack([o[r.argmin()] for o, r in zip(offsets, ranges, strict=True) if r.numel()])
            known = _distances(relative, alpha, survivors[promising], _positions(num, num, starts.device)).min()
            # A rounding error's slack: the same term may differ in its last bit between two passes.
            survivors = survivors[bounds <= known * (1 + 1e-6)]
    if survivors.numel():
        exact = _distances(relative, alpha, survivors, _positions(num, num, starts.device))
        if exact.min() < 1:
            best, distance = survivors[exact.argmin()], exact.min()
    chosen = alpha[best]
    if distance == 1 and not allowed[0]:
        never_evaluated = fit == "fix-finger" and bool(torch.isfinite(logs[-1]))
        chosen = alpha.new_tensor(0.0 if never_evaluated else torch.nan)
    return PowerLawFit(chosen, eigenvalues[best], distance, best)


def _positions(num: int, count: int, device: torch.device) -> Tensor:
    """About ``count`` of the positions 0 ... num-1, half of them evenly spaced, half denser towards the largest."""
    if count >= num:
        return torch.arange(num, device=device)
    even = torch.linspace(0, num - 1, count // 2, device=device)
    dense = num - torch.logspace(0, math.log10(num), count // 2, device=device)
    return torch.cat([even, dense]).long().clamp(0, num - 1).unique()


def _distances(relative: Tensor, alpha: Tensor, starts: Tensor, positions: Tensor) -> Tensor:
    """max over the positions j >= i of |1 - (x[j]/x[i])^(1-alpha(i)) - (j-i)/n|, for each start i in (K,)."""
    rows = max(BLOCK_ELEMENTS // positions.numel(), 1)
    return torch.cat([_block(relative, alpha, block.unsqueeze(1), positions) for block in starts.split(rows)])


def _block(relative: Tensor, alpha: Tensor, starts: Tensor, positions: Tensor) -> Tensor:
    """The same for starts (K, 1) and positions (M,); positions below a start belong to no tail."""
    terms = relative[positions] - relative[starts]
    terms = terms.mul_(1 - alpha[starts]).exp_().neg_().add_(1)
    terms = terms.sub_((positions - starts) / (relative.shape[0] - starts)).abs_()
    return terms.masked_fill_(positions < starts, 0).amax(1)
