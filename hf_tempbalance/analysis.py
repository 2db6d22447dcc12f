"""`analyze`: where spectrum, power-law fit and exclusion rules meet."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .config import TempBalanceConfig
from .layers import Layer, describe, find_layers, unwrap
from .powerlaw import fit_power_law
from .spectra import squared_singular_values, weight_matrices


@dataclass(frozen=True, kw_only=True)
class LayerSpectrum:
    """What the spectrum of one layer says. Numbers that can't be computed are NaN.

    Eigenvalues are those of W^T W, squared singular values of the weight; of a convolution, of its kernel
    positions' matrices together, times ``conv_norm``.
    """

    name: str  # dotted module name
    kind: str  # "conv2d" or "linear"
    shape: tuple[int, ...]  # of the weight
    num_eigenvalues: int  # before any zero filter
    alpha: float  # exponent of the power-law tail
    alpha_hat: float  # alpha * log10(largest eigenvalue); WeightWatcher's alpha_weighted
    xmin: float  # eigenvalue at which the tail starts
    D: float  # Kolmogorov-Smirnov distance between tail and fit
    spectral_norm: float  # largest eigenvalue: the squared spectral norm
    norm: float  # sum of the eigenvalues: the squared Frobenius norm
    stable_rank: float  # sum / largest
    entropy: float  # -sum p ln p / ln(number of eigenvalues above 0), p = eigenvalue / sum; 0 to 1
    excluded_by: str | None  # the rule that keeps the layer at the schedule's rate

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dict of JSON types, except that numbers may be NaN or infinite."""
        return {**asdict(self), "shape": list(self.shape)}


@torch.no_grad()
def analyze(model: nn.Module, config: TempBalanceConfig | None = None) -> list[LayerSpectrum]:
    """Look at the weights: one `LayerSpectrum` for every Conv2d and Linear, in registration order.

    Layers that a rule excludes from tuning are analysed and marked. Changes nothing: no weight, no gradient and no
    state of a random number generator. Works wherever the weights are; the fits run on the CPU in float64.

    Raises:
        ValueError: the model has no Conv2d or Linear with readable weights. The message lists what it has.
    """
    config = config or TempBalanceConfig()
    model = unwrap(model)
    layers = find_layers(
        model,
        exclude_first=config.exclude_first,
        exclude_last=config.exclude_last,
        min_eigenvalues=config.min_eigenvalues,
    )
    readable = [layer for layer in layers if layer.is_readable]
    if not readable:
        raise ValueError(f"There is nothing to analyse: {describe(model, layers)}")
    spectra = squared_singular_values([weight_matrices(layer.module) for layer in readable])
    # The values are few and one copy to the CPU is one synchronisation; not every accelerator has float64.
    eigenvalues = {layer.name: values.cpu().double() for layer, values in zip(readable, spectra, strict=True)}
    return [_layer_spectrum(layer, eigenvalues.get(layer.name), config) for layer in layers]


def _layer_spectrum(layer: Layer, eigenvalues: Tensor | None, config: TempBalanceConfig) -> LayerSpectrum:
    if eigenvalues is None or eigenvalues.numel() == 0:
        eigenvalues = torch.full((1,), torch.nan, dtype=torch.float64)
    if layer.kind == "conv2d":
        eigenvalues = eigenvalues * config.conv_norm
    tail_of = eigenvalues
    if config.filter_zeros and (eigenvalues > config.zero_threshold).any():
        tail_of = eigenvalues[eigenvalues > config.zero_threshold]
    alpha = xmin = distance = math.nan
    if tail_of.numel() >= 2:
        fitted = fit_power_law(tail_of, fit=config.fit, xmin_pos=config.xmin_pos, bins=config.bins)
        alpha, xmin, distance = fitted.alpha.item(), fitted.xmin.item(), fitted.D.item()
    largest, total = eigenvalues[-1].item(), eigenvalues.sum().item()
    return LayerSpectrum(
        name=layer.name,
        kind=layer.kind,
        shape=layer.shape,
        num_eigenvalues=layer.num_eigenvalues,
        alpha=alpha,
        alpha_hat=alpha * math.log10(largest) if largest > 0 else math.nan,
        xmin=xmin,
        D=distance,
        spectral_norm=largest,
        norm=total,
        stable_rank=total / largest if largest > 0 else math.nan,
        entropy=_entropy(eigenvalues),
        excluded_by=layer.excluded_by,
    )


def _entropy(eigenvalues: Tensor) -> float:
    """Shannon entropy of the eigenvalues as shares of their sum, over its largest possible value."""
    share = eigenvalues[eigenvalues > 0] / eigenvalues.sum()
    if not torch.isfinite(eigenvalues).all() or share.numel() == 0:
        return math.nan
    return 0.0 if share.numel() == 1 else (-(share * share.log()).sum() / math.log(share.numel())).item()
