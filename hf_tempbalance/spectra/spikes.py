"""WeightWatcher's newer columns: the error of an exponent, and eigenvalues that stand out by two other measures."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .eigenvalues import MatrixStack, squared_singular_values
from .spectrum import LayerSpectrum


def tail_columns(spectrum: LayerSpectrum, eigenvalues: Tensor | None) -> dict[str, float]:
    """ "sigma", "num_pl_spikes", "num_ERG_spikes" of a layer with these ascending eigenvalues; NaN without any.

    sigma is the standard error of the exponent, (alpha - 1) / sqrt(n) with the n = num_pl_spikes eigenvalues of the
    tail (Clauset, Shalizi, Newman, 2009, eq. 3.2).
    """
    if eigenvalues is None:
        return {"sigma": math.nan, "num_pl_spikes": math.nan, "num_ERG_spikes": math.nan}
    tail = int((eigenvalues >= spectrum.xmin).sum())
    return {
        "sigma": (spectrum.alpha - 1) / math.sqrt(tail) if tail else math.nan,
        "num_pl_spikes": tail if tail else math.nan,
        "num_ERG_spikes": num_erg_spikes(eigenvalues),
    }


def num_erg_spikes(eigenvalues: Tensor) -> float:
    r"""Smallest number of the largest eigenvalues whose product is below 1 once all have the mean 1 (detX).

        min { k : sum_{j < k} ln(lambda_{N-1-j} / mean lambda) < 0 }

    Summed as logarithms, since the product of many eigenvalues neither overflows nor underflows there.

    Args:
        eigenvalues: (N,), ascending.

    Returns:
        1 ... N; 0 where all are equal, NaN where they are not finite or all 0.
    """
    scaled = eigenvalues / eigenvalues.mean()
    if not torch.isfinite(scaled).all():
        return math.nan
    if scaled[0] == scaled[-1]:
        return 0
    is_below = scaled.flip(0).log().cumsum(0) < 0
    return int(is_below.long().argmax()) + 1 if is_below.any() else len(scaled)


def num_traps(stack: MatrixStack, seed: int = 0) -> float:
    r"""Eigenvalues that stand out of a weight whose entries were shuffled: due to single large entries, not to order.

    Each matrix (m, n) is shuffled by entries. With Q >= 1 the ratio of its sides, M the smaller one and the
    eigenvalues divided by the mean of those that do not stand out, one stands out above

        b + sqrt(b^(2/3) Q^(-1/2) M^(-2/3)),   b = (1 + Q^(-1/2))^2

    the edge of Marchenko and Pastur's law and a margin, which is the root of the width of Tracy and Widom's law.

    Args:
        stack: (k, m, n).
        seed: of the shuffling, which leaves the global generators alone.

    Returns:
        The number in all k matrices together; NaN where the weight is not finite, or has no entries.

    Source:
        WeightWatcher 0.7.7's `num_traps`, with the mean of the bulk in the place of a fitted one, and with one shuffle
        always: it adds up five for matrices with a side below 100.
    """
    count, rows, columns = stack.shape
    generator = torch.Generator().manual_seed(seed)
    shuffled = [
        stack[k].flatten()[torch.randperm(rows * columns, generator=generator).to(stack.device)].view(rows, columns)
        for k in range(count)
    ]
    if not count * rows * columns:
        return math.nan
    values = squared_singular_values([torch.stack(shuffled)])[0].double()
    if not torch.isfinite(values).all() or values[-1] == 0:
        return math.nan
    smaller, ratio = min(rows, columns), max(rows, columns) / min(rows, columns)
    edge = (1 + ratio**-0.5) ** 2
    limit = edge + math.sqrt(edge ** (2 / 3) * ratio**-0.5 * smaller ** (-2 / 3))
    found, bulk = -1, values
    while len(bulk) != found:  # what stands out raises the mean, and so hides others
        found, bulk = len(bulk), values[values <= limit * bulk.mean()]
    return len(values) - len(bulk)
