"""`LayerSpectrum`: the numbers that are told of a layer, from its eigenvalues and their fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from .layers import Layer, Rule
from .powerlaw import PowerLawFit
from .relative import relative_alpha


@dataclass(frozen=True, kw_only=True)
class LayerSpectrum:
    """What the spectrum of one layer says. Numbers that can't be computed are NaN.

    Eigenvalues are those of W^T W, squared singular values of the weight; of a convolution, of its kernel
    positions' matrices together, times ``conv_norm``. With windows they are those of all windows together, and the
    numbers of a convolution are means over its bands (`Windowing`).
    """

    name: str  # dotted module name
    kind: str  # "linear", "conv2d", "conv1d", "conv_transpose2d", "embedding", "in_proj", "experts", ...
    shape: tuple[int, ...]  # of the weight
    num_eigenvalues: int  # before any zero filter
    alpha: float  # exponent of the power-law tail
    # (alpha - 1) / (that of a random matrix of this shape - 1); below 1 where the tail is heavier than chance
    alpha_relative: float = math.nan
    alpha_hat: float  # alpha * log10(largest eigenvalue); WeightWatcher's alpha_weighted
    xmin: float  # eigenvalue at which the tail starts
    D: float  # Kolmogorov-Smirnov distance between tail and fit
    spectral_norm: float  # largest eigenvalue: the squared spectral norm
    norm: float  # sum of the eigenvalues: the squared Frobenius norm
    stable_rank: float  # sum / largest
    entropy: float  # -sum p ln p / ln(number of eigenvalues above 0), p = eigenvalue / sum; 0 to 1
    excluded_by: Rule | None  # the rule that keeps the layer at the schedule's rate
    depth: int = 0  # number of its block: 1 ... L; 0 before the first block, L + 1 after the last
    is_pinned: bool = False  # an embedding or a head that takes the largest multiplier; it has no spectrum

    @property
    def is_tuned(self) -> bool:
        """Whether the layer is given a multiplier: no rule excludes it."""
        return self.excluded_by is None

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dict of JSON types, except that numbers may be NaN or infinite."""
        return {**asdict(self), "shape": list(self.shape)}


def summary(
    layer: Layer, eigenvalues: Tensor | None = None, fitted: PowerLawFit | None = None, quantile: float | None = None
) -> LayerSpectrum:
    """What is said of a layer with one ascending spectrum, scaled; NaN where there is none.

    quantile: share of the spectrum at which the fit starts the tail; where it chooses the start itself, None, and the
    share is what it chose.
    """
    if eigenvalues is None or eigenvalues.numel() == 0:
        eigenvalues = torch.full((1,), torch.nan, dtype=torch.float64)
    alpha = xmin = distance = math.nan
    if fitted is not None:
        alpha, xmin, distance = fitted.alpha.item(), fitted.xmin.item(), fitted.D.item()
        if quantile is None:
            quantile = (eigenvalues < xmin).double().mean().item()
    largest, total = eigenvalues[-1].item(), eigenvalues.sum().item()
    return LayerSpectrum(
        name=layer.name,
        kind=layer.kind,
        shape=layer.shape,
        num_eigenvalues=layer.num_eigenvalues,
        alpha=alpha,
        alpha_relative=relative_alpha(alpha, layer.matrices.rows, layer.matrices.columns, quantile or 0.0),
        alpha_hat=alpha * math.log10(largest) if largest > 0 else math.nan,
        xmin=xmin,
        D=distance,
        spectral_norm=largest,
        norm=total,
        stable_rank=total / largest if largest > 0 else math.nan,
        entropy=_entropy(eigenvalues),
        excluded_by=layer.excluded_by,
        is_pinned=layer.is_pinned,
    )


def without_fit(spectrum: LayerSpectrum) -> LayerSpectrum:
    """The summary of a spectrum without the numbers that a fit gives, which become NaN."""
    return replace(spectrum, alpha=math.nan, alpha_relative=math.nan, alpha_hat=math.nan, xmin=math.nan, D=math.nan)


def mean_of(spectra: Sequence[LayerSpectrum]) -> LayerSpectrum:
    """One layer's several spectra in one: the mean of each number, NaN where it is NaN in one of them."""
    if len(spectra) == 1:
        return spectra[0]
    numbers = [field.name for field in fields(LayerSpectrum) if isinstance(getattr(spectra[0], field.name), float)]
    means = {name: sum(getattr(spectrum, name) for spectrum in spectra) / len(spectra) for name in numbers}
    return replace(spectra[0], **means)


def _entropy(eigenvalues: Tensor) -> float:
    """Shannon entropy of the eigenvalues as shares of their sum, over its largest possible value."""
    share = eigenvalues[eigenvalues > 0] / eigenvalues.sum()
    if not torch.isfinite(eigenvalues).all() or share.numel() == 0:
        return math.nan
    return 0.0 if share.numel() == 1 else (-(share * share.log()).sum() / math.log(share.numel())).item()
