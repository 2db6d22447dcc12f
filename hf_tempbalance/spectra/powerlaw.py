"""From ascending eigenvalues to a power-law fit: ``alpha``, ``xmin`` and ``D``. All spectra in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..config import Fit


# Numbers of spectra that are fitted together, and candidates x positions that a scan holds at once: 1 MiB of float64,
# which stays in a core's cache.
BLOCK_ELEMENTS = 1 << 17


class PowerLawFit(NamedTuple):
    """Result of `fit_power_law`. Each field has the shape of the input without its last dimension."""

    alpha: Tensor  # exponent, no unit
    xmin: Tensor  # the eigenvalue at which the tail starts, units of weight squared
    D: Tensor  # Kolmogorov-Smirnov distance between tail and fit, 0 to 1
    index: Tensor  # type: ignore[assignment]  # position of xmin in the ascending spectrum, int64


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
    spectra = eigenvalues.flatten(0, -2) if eigenvalues.dim() > 1 else eigenvalues.unsqueeze(0)
    if len(spectra) == 0:
        none = eigenvalues.new_empty(eigenvalues.shape[:-1])
        return PowerLawFit(none, none, none, none.long())
    fits = fit_power_laws(list(spectra), fit=fit, xmin_pos=xmin_pos, bins=bins)
    return PowerLawFit(*(torch.stack(column).reshape(eigenvalues.shape[:-1]) for column in zip(*fits, strict=True)))


def fit_power_laws(
    spectra: Sequence[Tensor], *, fit: Fit = "median", xmin_pos: float = 2.0, bins: int = 100
) -> list[PowerLawFit]:
    """Fits of `fit_power_law` for spectra of any lengths (N,), one dtype and one device: a model's in a few passes."""
    found: dict[int, PowerLawFit] = {}
    for batch in _batches([len(spectrum) for spectrum in spectra]):
        fitted = _fit([spectra[index] for index in batch], fit, xmin_pos, bins)
        found |= {index: PowerLawFit(*fields) for index, *fields in zip(batch, *fitted, strict=True)}
    return [found[index] for index in range(len(spectra))]


def _batches(sizes: list[int]) -> list[list[int]]:
    """Positions of spectra that are fitted together, the longest first: no length is more than twice another."""
    batches: list[list[int]] = []
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        longest = sizes[batches[-1][0]] if batches else 0
        if 2 * sizes[index] > longest > 0 and (len(batches[-1]) + 1) * longest <= BLOCK_ELEMENTS:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _right_aligned(spectrum: Tensor, width: int) -> Tensor:
    """The spectra as rows that end with the largest value; what stands in front of a shorter one is in no tail."""
    return torch.nn.functional.pad(spectrum, (width - len(spectrum), 0), value=1.0)


class _Batch(NamedTuple):
    """Spectra of different lengths with their largest values last; L of them, N the length of the longest."""

    values: Tensor  # (L, N)
    logs: Tensor  # of the values
    relative: Tensor  # logs less those of the largest value; NaN where a spectrum is not finite
    alpha: Tensor  # exponent of the tail that starts there
    is_real: Tensor  # False in front of a shorter spectrum
    first: Tensor  # (L,) where each begins
    sizes: list[int]

    @property
    def rows(self) -> Tensor:
        """Index of each row: 0 ... L-1."""
        return torch.arange(len(self.values), device=self.values.device)


def _fit(spectra: list[Tensor], fit: Fit, xmin_pos: float, bins: int) -> PowerLawFit:
    """The fits of L spectra, given the longest first; each field (L,)."""
    values = torch.stack([_right_aligned(spectrum, len(spectra[0])) for spectrum in spectra])
    sizes = [len(spectrum) for spectrum in spectra]
    width = values.shape[1]
    positions = torch.arange(width, device=values.device)
    first = width - torch.tensor(sizes, device=values.device)
    is_real = positions >= first.unsqueeze(1)
    is_finite = (torch.isfinite(values) | ~is_real).all(1)
    logs = values.log()
    # Relative to the largest value: the same ratios, without cancellation between large sums.
    relative = (logs - logs[:, -1:]).where(is_finite.unsqueeze(1), torch.nan)
    n = width - positions
    alpha = 1 + n / (relative.flip(1).cumsum(1).flip(1) - n * relative)
    batch = _Batch(values, logs, relative, alpha, is_real, first, sizes)
    start, chosen, distance = FITS[fit](batch, xmin_pos, bins)
    return PowerLawFit(chosen, values[batch.rows, start], distance, start - first)


def _median(batch: _Batch, xmin_pos: float, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Start of each tail by fit="median": the eigenvalue at index N / xmin_pos."""
    index = torch.tensor([int(size / xmin_pos) for size in batch.sizes], device=batch.values.device)
    start = batch.first + index
    return (
        start,
        batch.alpha[batch.rows, start],
        _distances(batch.relative, batch.alpha, batch.rows, start, _all(batch)),
    )


def _goodness_of_fit(batch: _Batch, xmin_pos: float, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Start of each tail by fit="goodness-of-fit": where D is smallest."""
    return _best(batch, torch.ones_like(batch.is_real))


def _fix_finger(batch: _Batch, xmin_pos: float, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Start of each tail by fit="fix-finger": where D is smallest up to 1.5 times the histogram's peak, as in the
    reference code."""
    peak = _histogram_peaks(batch.values, batch.is_real, bins).unsqueeze(1)
    is_near = (batch.values >= torch.log10(0.95 * peak)) & (batch.values <= 1.5 * peak)
    start, chosen, distance = _best(batch, is_near)
    is_never = (distance == 1) & ~is_near[batch.rows, batch.first] & torch.isfinite(batch.logs[:, -1])
    return start, chosen.where(~is_never, 0.0), distance


def _xmin_peak(batch: _Batch, xmin_pos: float, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Start of each tail by fit="xmin-peak": where D is smallest between 0.95 and 1.5 times the histogram's peak."""
    peak = _histogram_peaks(batch.values, batch.is_real, bins).unsqueeze(1)
    return _best(batch, (batch.values >= 0.95 * peak) & (batch.values <= 1.5 * peak))


# Name -> how the start of the tail is chosen: start, exponent and D of each spectrum.
FITS: dict[str, Callable[[_Batch, float, int], tuple[Tensor, Tensor, Tensor]]] = {
    "median": _median,
    "goodness-of-fit": _goodness_of_fit,
    "fix-finger": _fix_finger,
    "xmin-peak": _xmin_peak,
}


def _all(batch: _Batch) -> Tensor:
    return torch.arange(batch.values.shape[1], device=batch.values.device)


def _best(batch: _Batch, candidates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The fit of each spectrum at the candidate, (L, N), with the smallest D; NaN without a candidate: see
    `fit_power_law`."""
    allowed = batch.is_real & candidates
    allowed[:, -1] = False  # a tail of one value has no exponent
    start, distance = _scan(batch.relative, batch.alpha, allowed)
    start = start.where(distance < 1, batch.first)
    is_never = (distance == 1) & ~allowed[batch.rows, batch.first]
    return start, batch.alpha[batch.rows, start].where(~is_never, torch.nan), distance


def _histogram_peaks(values: Tensor, is_real: Tensor, bins: int) -> Tensor:
    """Left edge of the fullest (the first fullest) of ``bins`` equal bins over log10 of the positive values; (L,)."""
    # The reference fails on zeros here (log10(0) = -inf); they are left out of the histogram.
    counted = is_real & (values > 0) & torch.isfinite(values)
    logs = values.log10()
    low = logs.where(counted, torch.inf).amin(1, keepdim=True)
    width = logs.where(counted, -torch.inf).amax(1, keepdim=True) - low
    bin_of = ((logs - low) / width * bins).where(counted & (width > 0), 0)
    bin_of = bin_of.long().clamp(max=bins - 1)  # the largest value belongs to the last bin
    counts = counted.new_zeros((len(values), bins), dtype=torch.int64).scatter_add_(1, bin_of, counted.long())
    edge = 10 ** (low + width.clamp(min=0) * counts.argmax(1, keepdim=True) / bins)
    return edge.where(counted.any(1, keepdim=True), torch.nan).squeeze(1)


def _scan(relative: Tensor, alpha: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """The allowed start of each row with the smallest D, and that D; 1 where none is below. (L,) each.

    Exact, but without evaluating all N^2/2 terms: the maximum over some positions j is a lower bound of D. A coarse
    pass over all candidates, then a finer one over those whose bound does not exceed the best D known so far.
    """
    num, width = relative.shape
    everywhere = torch.arange(width, device=relative.device)
    rows, starts = (allowed & (alpha > 1) & torch.isfinite(alpha)).nonzero(as_tuple=True)
    for count, ranges in ((64, 16), (512, 8)):
        if count < width:
            bounds = _distances(relative, alpha, rows, starts, _positions(width, count, relative.device))
            # The best bound of each of some ranges: short tails have low bounds that say little.
            size = math.ceil(width / ranges)
            table = _table(rows, starts, bounds, (num, ranges * size)).view(num, ranges, size)
            smallest, offset = table.min(2)
            promising, part = torch.isfinite(smallest).nonzero(as_tuple=True)
            known = _distances(relative, alpha, promising, part * size + offset[promising, part], everywhere)
            known = _table(promising, part, known, (num, ranges)).amin(1)
            # A rounding error's slack: the same term may differ in its last bit between two passes.
            keep = bounds <= known[rows] * (1 + 1e-6)
            rows, starts = rows[keep], starts[keep]
    exact = _distances(relative, alpha, rows, starts, everywhere)
    distance, start = _table(rows, starts, exact, (num, width)).min(1)
    return start, distance.clamp(max=1)


def _table(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """A table with values at their places, infinity elsewhere."""
    return values.new_full(shape, torch.inf).index_put_((rows, columns), values)


def _positions(width: int, count: int, device: torch.device) -> Tensor:
    """About ``count`` of the positions 0 ... width-1, half of them evenly spaced, half denser towards the largest."""
    even = torch.linspace(0, width - 1, count // 2, device=device)
    dense = width - torch.logspace(0, math.log10(width), count // 2, device=device)
    positions: Tensor = torch.cat([even, dense]).long().clamp(0, width - 1).unique()
    return positions


def _distances(relative: Tensor, alpha: Tensor, rows: Tensor, starts: Tensor, positions: Tensor) -> Tensor:
    """Kolmogorov-Smirnov distance of each row for each start i in (K,):

    max over the positions j >= i of |1 - (x[j]/x[i])^(1-alpha(i)) - (j-i)/n|
    """
    size = max(BLOCK_ELEMENTS // len(positions), 1)
    sampled = relative[:, positions]
    left = (relative.shape[1] - positions).to(relative.dtype)  # n - (j - i): the values of the tail from j on
    blocks = []
    for row, start in zip(rows.split(size), starts.split(size), strict=True):
        index = (row, start)
        terms = sampled[row].sub_(relative[index].unsqueeze(1))
        terms = terms.mul_((1 - alpha[index]).unsqueeze(1)).exp_()
        terms = terms.sub_(left / (relative.shape[1] - start).unsqueeze(1)).abs_()
        blocks.append(terms.masked_fill_(positions < start.unsqueeze(1), 0).amax(1))
    return torch.cat(blocks)
