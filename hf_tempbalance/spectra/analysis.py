"""`analyze`: where spectrum, power-law fit and exclusion rules meet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TempBalanceConfig
from .eigenvalues import InFloat64, MatrixStack, squared_singular_values
from .layers import Layer, describe, describe_layers, find_layers, mark_layers, unwrap
from .powerlaw import PowerLawFit, fit_power_laws
from .weights import Weight, as_stack


# Eigenvalues of an n x n matrix against one multiplication of n x n matrices, in time: measured on CPUs, see
# scripts/bench_distributed.py.
EIGENVALUE_COST = 3.0
# A tail that starts below this share of the largest eigenvalue may lose the fourth digit of alpha in float32.
RESOLUTION = 3000 * torch.finfo(torch.float32).eps
# Spread of a tail, in rounding errors, up to which it is none. Orthogonal matrices as computed in float32 and float64,
# with sides from 2 to 2048: 0.6 to 5.4 times eps * sqrt(side); rounded to half precision afterwards: 0.1 to 1.2 eps.
COMPUTED_SPREAD, STORED_SPREAD = 10.0, 2.0
# Weights of `analyze_weights` that are in memory together, so that their matrices are spread over the cores, and what
# the objects around a small one take.
BATCH_BYTES = 64 << 20
OBJECT_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class LayerSpectrum:
    """What the spectrum of one layer says. Numbers that can't be computed are NaN.

    Eigenvalues are those of W^T W, squared singular values of the weight; of a convolution, of its kernel
    positions' matrices together, times ``conv_norm``.
    """

    name: str  # dotted module name
    kind: str  # "linear", "conv2d", "conv1d", "conv_transpose2d", "embedding", "in_proj", "experts", ...
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

    @property
    def is_tuned(self) -> bool:
        """Whether the layer has a multiplier of its own: no rule excludes it."""
        return self.excluded_by is None

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dict of JSON types, except that numbers may be NaN or infinite."""
        return {**asdict(self), "shape": list(self.shape)}


def analyze(model: nn.Module, config: TempBalanceConfig | None = None) -> list[LayerSpectrum]:
    """Look at the weights: one `LayerSpectrum` for every matrix-shaped weight, in registration order.

    Layers that a rule excludes from tuning are analysed and marked; of those that are no layer, can't be read, or are
    embeddings that are not tuned, all numbers are NaN. Changes nothing: no weight, no gradient and no state of a
    random number generator. Works wherever the weights are; the fits run on the CPU in float64. Where weights are
    sharded (FSDP2, DeepSpeed ZeRO-3) every process has to call it, and one layer at a time is gathered.

    Raises:
        ValueError: the model has no layer with readable weights. The message lists what it has.
    """
    config = config or TempBalanceConfig()
    layers, analysed = analysed_layers(model, config)
    return in_order(layers, spectra_of(layers, dict.fromkeys(analysed, 0), 0, config))


def analyze_weights(
    weights: Iterable[Weight], config: TempBalanceConfig | None = None
) -> Iterator[tuple[LayerSpectrum, Tensor | None]]:
    """As `analyze` for weights without a model, read as they are needed: small ones together, a large one alone.

    Yields:
        What `analyze` has for each, and its ascending eigenvalues (float64, on the CPU, those of a convolution times
        ``conv_norm``); None where they are not computed.

    Raises:
        ValueError: none of them has a spectrum.
    """
    config = config or TempBalanceConfig()
    layers = mark_layers(weights, **layer_options(config))
    if not any(layer.is_analysed for layer in layers):
        raise ValueError(f"There is nothing to analyse: {describe_layers(layers)}")
    for batch in _batches(layers):
        stacks = {index: layer.weight.stack() for index, layer in enumerate(batch) if layer.is_analysed}
        found = analyze_stacks(batch, stacks, config)
        yield from (found.get(index) or (_layer_spectrum(layer), None) for index, layer in enumerate(batch))


def _batches(layers: list[Layer]) -> Iterator[list[Layer]]:
    """Layers in order, together as long as their weights in float32 fit into `BATCH_BYTES`."""
    batch, size = [], 0
    for layer in layers:
        bytes_of = 4 * math.prod(layer.shape) + OBJECT_BYTES
        if batch and size + bytes_of > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(layer)
        size += bytes_of
    yield batch


def analysed_layers(model: nn.Module, config: TempBalanceConfig) -> tuple[list[Layer], list[int]]:
    """All layers, and the positions of those whose spectrum is computed."""
    model = unwrap(model)
    layers = find_layers(model, **layer_options(config))
    analysed = [index for index, layer in enumerate(layers) if layer.is_analysed]
    if not analysed:
        raise ValueError(f"There is nothing to analyse: {describe(model, layers)}")
    return layers, analysed


def layer_options(config: TempBalanceConfig) -> dict[str, Any]:
    """The arguments of `find_layers` that the settings have."""
    return {
        "exclude_first": config.exclude_first,
        "exclude_last": config.exclude_last,
        "min_eigenvalues": config.min_eigenvalues,
        "embeddings": config.embeddings == "tune",
    }


def spectra_of(
    layers: list[Layer], owners: dict[int, int], rank: int, config: TempBalanceConfig
) -> dict[int, LayerSpectrum]:
    """Position -> spectrum of the layers that this rank owns.

    Every rank has to call it where a layer is sharded: in each round one for every rank is gathered, kept by its owner
    alone, and then all ranks compute at the same time.
    """
    mine = [index for index in owners if owners[index] == rank and not layers[index].weight.is_sharded]
    found, failure = {}, None
    try:
        found = analyze_stacks(layers, {index: layers[index].weight.stack() for index in mine}, config)
    except Exception as error:  # noqa: BLE001  the other ranks need this one to gather the rest
        failure = error
    for index, whole in gathered(layers, owners, rank):
        if failure is None:
            try:
                found |= analyze_stacks(layers, {index: as_stack(whole, layers[index].kind)}, config)
            except Exception as error:  # noqa: BLE001  as above
                failure = error
    if failure is not None:
        raise failure
    return {index: spectrum for index, (spectrum, _) in found.items()}


def gathered(layers: list[Layer], owners: dict[int, int], rank: int) -> Iterator[tuple[int, Tensor]]:
    """Position and whole weight of each sharded layer of this rank's. Every rank has to go through all of it."""
    queues: dict[int, list[int]] = {}
    for index in sorted(owners, key=lambda index: -cost_of(layers[index])):
        if layers[index].weight.is_sharded:
            queues.setdefault(owners[index], []).append(index)
    for batch in zip_longest(*queues.values()):
        kept = None
        for index in filter(lambda index: index is not None, batch):
            whole = layers[index].weight.whole()
            if owners[index] == rank:
                kept = (index, whole)
        if kept is not None:
            yield kept


def in_order(layers: list[Layer], found: dict[int, LayerSpectrum]) -> list[LayerSpectrum]:
    """Of every layer; without numbers where none were found."""
    return [found.get(index) or _layer_spectrum(layer) for index, layer in enumerate(layers)]


def cost_of(layer: Layer) -> float:
    """Of one layer's decomposition, see `decomposition_cost`."""
    return decomposition_cost(*layer.weight.stack_shape)


def decomposition_cost(count: int, rows: int, columns: int) -> float:
    """Gram matrices and eigenvalues of a stack of matrices, in multiplications up to a factor."""
    side, length = sorted((rows, columns))
    return count * side**2 * (length + EIGENVALUE_COST * side)


def analyze_stacks(
    layers: list[Layer], stacks: Mapping[int, MatrixStack], config: TempBalanceConfig
) -> dict[int, tuple[LayerSpectrum, Tensor]]:
    """Position -> spectrum and ascending eigenvalues (float64, on the CPU, scaled) of the layers with these matrices.

    In float64 where float32 can't tell where the tail starts.
    """
    if config.fit in ("fix-finger", "xmin-peak"):
        # The fullest bin of a histogram is another one as soon as a value crosses an edge.
        found = _analyze(layers, {index: InFloat64(stack) for index, stack in stacks.items()}, config)
    else:
        found = _analyze(layers, stacks, config)
        unclear = [index for index in stacks if not _is_resolved(found[index][0], stacks[index])]
        found |= _analyze(layers, {index: InFloat64(stacks[index]) for index in unclear}, config)
    return {i: (_if_it_has_spread(spectrum, values, layers[i]), values) for i, (spectrum, values) in found.items()}


def _if_it_has_spread(spectrum: LayerSpectrum, eigenvalues: Tensor, layer: Layer) -> LayerSpectrum:
    """Without a fit where the values of its tail differ by rounding alone: that exponent is one over an error.

    An eigenvalue is known up to eps * sqrt(side) times the largest, eps being that of the dtype in which weight and
    eigenvalue were computed (float32 for half precision), and up to the eps of the dtype that the weight is stored in.
    """
    stored = layer.weight.tensor.dtype
    side = min(layer.weight.stack_shape[1:])
    computed = torch.finfo(torch.promote_types(stored, torch.float32)).eps * side**0.5
    error = COMPUTED_SPREAD * computed + STORED_SPREAD * torch.finfo(stored).eps
    tail = eigenvalues[(eigenvalues >= spectrum.xmin) & (eigenvalues > 0)]  # empty where nothing was fitted
    if tail.numel() == 0 or tail[-1] - tail[0] > error * tail[-1]:
        return spectrum
    return replace(spectrum, alpha=math.nan, alpha_hat=math.nan, xmin=math.nan, D=math.nan)


def _is_resolved(spectrum: LayerSpectrum, stack: MatrixStack) -> bool:
    """Whether the eigenvalue at which the tail starts stands above the rounding error, which the largest one sets."""
    if stack.dtype == torch.float64 or not 0 < spectrum.spectral_norm < math.inf:
        return True
    return not spectrum.xmin < RESOLUTION * spectrum.spectral_norm  # no fit has no xmin


def _analyze(
    layers: list[Layer], stacks: Mapping[int, MatrixStack], config: TempBalanceConfig
) -> dict[int, tuple[LayerSpectrum, Tensor]]:
    found = squared_singular_values(list(stacks.values()), config.max_batch_bytes)
    # Few numbers: one copy is one synchronisation, and not every accelerator has float64.
    pairs = zip(stacks, found, strict=True)
    scaled = {index: _scaled(layers[index], values.cpu().double(), config) for index, values in pairs}
    fits = _fits(scaled, config)
    return {index: (_layer_spectrum(layers[index], scaled[index], fits.get(index)), scaled[index]) for index in scaled}


def _fits(scaled: dict[int, Tensor], config: TempBalanceConfig) -> dict[int, PowerLawFit]:
    """Position -> fit of the spectra with two eigenvalues or more."""
    tails = {}
    for index, values in scaled.items():
        if config.filter_zeros and (values > config.zero_threshold).any():
            values = values[values > config.zero_threshold]
        if values.numel() >= 2:
            tails[index] = values
    fits = fit_power_laws(list(tails.values()), fit=config.fit, xmin_pos=config.xmin_pos, bins=config.bins)
    return dict(zip(tails, fits, strict=True))


def _layer_spectrum(
    layer: Layer, eigenvalues: Tensor | None = None, fitted: PowerLawFit | None = None
) -> LayerSpectrum:
    """What is said of one layer with these (scaled) eigenvalues; NaN where there are none."""
    if eigenvalues is None or eigenvalues.numel() == 0:
        eigenvalues = torch.full((1,), torch.nan, dtype=torch.float64)
    alpha = xmin = distance = math.nan
    if fitted is not None:
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


def _scaled(layer: Layer, eigenvalues: Tensor, config: TempBalanceConfig) -> Tensor:
    return eigenvalues * config.conv_norm if layer.kind.startswith("conv") else eigenvalues


def _entropy(eigenvalues: Tensor) -> float:
    """Shannon entropy of the eigenvalues as shares of their sum, over its largest possible value."""
    share = eigenvalues[eigenvalues > 0] / eigenvalues.sum()
    if not torch.isfinite(eigenvalues).all() or share.numel() == 0:
        return math.nan
    return 0.0 if share.numel() == 1 else (-(share * share.log()).sum() / math.log(share.numel())).item()
