"""`analyze`: where spectrum, power-law fit and exclusion rules meet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest

import torch
from torch import Tensor, nn

from ..config import TempBalanceConfig
from .blocks import depths
from .eigenvalues import InFloat64, MatrixStack, squared_singular_values
from .layers import Exclusions, Layer, describe, describe_layers, find_layers, mark_layers, unwrap
from .powerlaw import PowerLawFit, fit_power_laws
from .spectrum import LayerSpectrum as LayerSpectrum
from .spectrum import mean_of, summary, without_fit
from .weights import Weight, as_stack
from .windows import Windowing, whole_matrices


# Eigenvalues of an n x n matrix against one multiplication of n x n matrices, in time: measured on CPUs, see
# scripts/benchmarks/distributed.py.
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


@dataclass(frozen=True)
class Decomposition:
    """The first two parts of a method: from a weight to the fits of its spectra.

    Attributes:
        matrices: a layer's stack of matrices (k, m, n) and its kind -> groups of matrices, one spectrum each.
        factor: kind of a layer -> factor on its eigenvalues.
        fit: ascending spectra of any lengths -> their fits; None where there are fewer than two eigenvalues.
        quantile: share of a spectrum at which the tail starts; None where the fit chooses it.
        needs_float64: whether a rounding error of float32 can change which start is chosen.
        max_batch_bytes: bound of memory, see `squared_singular_values`.
    """

    matrices: Callable[[MatrixStack, str], list[MatrixStack]]
    factor: Callable[[str], float]
    fit: Callable[[Sequence[Tensor]], list[PowerLawFit | None]]
    quantile: float | None
    needs_float64: bool
    max_batch_bytes: int

    @classmethod
    def of(cls, config: TempBalanceConfig) -> Decomposition:
        """The decomposition that the settings ask for."""
        windows = Windowing.of(config)
        return cls(
            matrices=whole_matrices if windows is None else windows.groups,
            factor=lambda kind: config.conv_norm if kind.startswith("conv") else 1.0,
            fit=partial(_fits, config=config),
            quantile=1 / config.xmin_pos if config.fit == "median" else None,
            # The fullest bin of a histogram is another one as soon as a value crosses an edge.
            needs_float64=config.fit in ("fix-finger", "xmin-peak"),
            max_batch_bytes=config.max_batch_bytes,
        )


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
    return in_order(layers, spectra_of(layers, dict.fromkeys(analysed, 0), 0, Decomposition.of(config)))


def analyze_weights(
    weights: Iterable[Weight], config: TempBalanceConfig | None = None
) -> Iterator[tuple[LayerSpectrum, Tensor | None]]:
    """Spectra of weights without a model, read as they are needed: small ones together, a large one alone.

    Yields:
        What `analyze` has for each, and its ascending eigenvalues (float64, on the CPU, those of a convolution times
        ``conv_norm``); None where they are not computed.

    Raises:
        ValueError: none of them has a spectrum.
    """
    config = config or TempBalanceConfig()
    layers = mark_layers(weights, Exclusions.of(config))
    if not any(layer.is_analysed for layer in layers):
        raise ValueError(f"There is nothing to analyse: {describe_layers(layers)}")
    decomposition = Decomposition.of(config)
    for batch in _batches(layers):
        analysed = [index for index, layer in enumerate(batch) if layer.is_analysed and config.metric != "depth"]
        found = analyze_stacks(batch, {index: batch[index].weight.stack() for index in analysed}, decomposition)
        yield from (found.get(index) or (summary(layer), None) for index, layer in enumerate(batch))


def _batches(layers: list[Layer]) -> Iterator[list[Layer]]:
    """Layers in order, together as long as their weights in float32 fit into `BATCH_BYTES`."""
    batch: list[Layer] = []
    size = 0
    for layer in layers:
        bytes_of = 4 * math.prod(layer.shape) + OBJECT_BYTES
        if batch and size + bytes_of > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(layer)
        size += bytes_of
    yield batch


def analysed_layers(model: nn.Module, config: TempBalanceConfig) -> tuple[list[Layer], list[int]]:
    """All layers, and the positions of those whose spectrum is computed: none where the score is a layer's depth."""
    model = unwrap(model)
    layers = find_layers(model, Exclusions.of(config))
    analysed = [index for index, layer in enumerate(layers) if layer.is_analysed]
    if not analysed and not any(layer.is_pinned for layer in layers):
        raise ValueError(f"There is nothing to analyse: {describe(model, layers)}")
    return layers, [] if config.metric == "depth" else analysed


def spectra_of(
    layers: list[Layer], owners: dict[int, int], rank: int, decomposition: Decomposition
) -> dict[int, LayerSpectrum]:
    """Position -> spectrum of the layers that this rank owns.

    Every rank has to call it where a layer is sharded: in each round one for every rank is gathered, kept by its owner
    alone, and then all ranks compute at the same time.
    """
    mine = [index for index in owners if owners[index] == rank and not layers[index].weight.is_sharded]
    found, failure = {}, None
    try:
        found = analyze_stacks(layers, {index: layers[index].weight.stack() for index in mine}, decomposition)
    except Exception as error:  # noqa: BLE001  the other ranks need this one to gather the rest
        failure = error
    for index, whole in gathered(layers, owners, rank):
        if failure is None:
            try:
                found |= analyze_stacks(layers, {index: as_stack(whole, layers[index].kind)}, decomposition)
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
    """The spectrum of every layer, in registration order; all numbers of those that were not analysed are NaN."""
    depth = depths([layer.name for layer in layers])
    spectra = [found.get(index) or summary(layer) for index, layer in enumerate(layers)]
    return [replace(spectrum, depth=depth[spectrum.name]) for spectrum in spectra]


def cost_of(layer: Layer) -> float:
    """The cost of one layer's decompositions, see `decomposition_cost`."""
    spectra, matrices, rows, columns = layer.matrices
    return decomposition_cost(spectra * matrices, rows, columns)


def decomposition_cost(count: int, rows: int, columns: int) -> float:
    """Gram matrices and eigenvalues of a stack of matrices, in multiplications up to a factor."""
    side, length = sorted((rows, columns))
    return count * side**2 * (length + EIGENVALUE_COST * side)


def analyze_stacks(
    layers: list[Layer], stacks: Mapping[int, MatrixStack], decomposition: Decomposition
) -> dict[int, tuple[LayerSpectrum, Tensor]]:
    """Position -> spectrum and ascending eigenvalues (float64, on the CPU, scaled) of the layers with these matrices.

    In float64 where float32 can't tell where the tail starts.
    """
    if not stacks:
        return {}
    groups = {
        (index, number): group
        for index, stack in stacks.items()
        for number, group in enumerate(decomposition.matrices(stack, layers[index].kind))
    }
    if decomposition.needs_float64:
        found = _analyze(layers, {key: InFloat64(group) for key, group in groups.items()}, decomposition)
    else:
        found = _analyze(layers, groups, decomposition)
        unclear = [key for key in groups if not _is_resolved(found[key][0], groups[key])]
        found |= _analyze(layers, {key: InFloat64(groups[key]) for key in unclear}, decomposition)
    parts: dict[int, list[tuple[LayerSpectrum, Tensor]]] = {}
    for index, number in groups:
        spectrum, values = found[index, number]
        parts.setdefault(index, []).append((_if_it_has_spread(spectrum, values, layers[index]), values))
    return {index: _joined(of_layer) for index, of_layer in parts.items()}


def _joined(parts: list[tuple[LayerSpectrum, Tensor]]) -> tuple[LayerSpectrum, Tensor]:
    """One layer's spectra in one."""
    if len(parts) == 1:
        return parts[0]
    return mean_of([spectrum for spectrum, _ in parts]), torch.cat([values for _, values in parts]).sort().values


def _if_it_has_spread(spectrum: LayerSpectrum, eigenvalues: Tensor, layer: Layer) -> LayerSpectrum:
    """The summary without its fit where the tail's values differ by rounding alone: alpha is then one over an error.

    An eigenvalue is known up to eps * sqrt(side) times the largest, eps being that of the dtype in which weight and
    eigenvalue were computed (float32 for half precision), and up to the eps of the dtype that the weight is stored in.
    """
    stored = layer.weight.tensor.dtype
    side = min(layer.matrices.rows, layer.matrices.columns)
    computed = torch.finfo(torch.promote_types(stored, torch.float32)).eps * side**0.5
    error = COMPUTED_SPREAD * computed + STORED_SPREAD * torch.finfo(stored).eps
    tail = eigenvalues[(eigenvalues >= spectrum.xmin) & (eigenvalues > 0)]  # empty where nothing was fitted
    has_spread = tail.numel() == 0 or tail[-1] - tail[0] > error * tail[-1]
    return spectrum if has_spread else without_fit(spectrum)


def _is_resolved(spectrum: LayerSpectrum, stack: MatrixStack) -> bool:
    """Whether the eigenvalue at which the tail starts stands above the rounding error, which the largest one sets."""
    if stack.dtype == torch.float64 or not 0 < spectrum.spectral_norm < math.inf:
        return True
    return not spectrum.xmin < RESOLUTION * spectrum.spectral_norm  # no fit has no xmin


def _analyze(
    layers: list[Layer], groups: Mapping[tuple[int, int], MatrixStack], decomposition: Decomposition
) -> dict[tuple[int, int], tuple[LayerSpectrum, Tensor]]:
    """Position of the layer and number of the group -> summary and scaled eigenvalues of that group of matrices."""
    found = squared_singular_values(list(groups.values()), decomposition.max_batch_bytes)
    # Few numbers: one copy is one synchronisation, and not every accelerator has float64.
    factors = [decomposition.factor(layers[index].kind) for index, _ in groups]
    scaled = [values.cpu().double() * factor for values, factor in zip(found, factors, strict=True)]
    fits = decomposition.fit(scaled)
    return {
        key: (summary(layers[key[0]], values, fitted, decomposition.quantile), values)
        for key, values, fitted in zip(groups, scaled, fits, strict=True)
    }


def _fits(spectra: Sequence[Tensor], config: TempBalanceConfig) -> list[PowerLawFit | None]:
    """The power laws of spectra of any lengths; None of those with fewer than two eigenvalues."""
    tails = {}
    for index, values in enumerate(spectra):
        if config.filter_zeros and (values > config.zero_threshold).any():
            values = values[values > config.zero_threshold]
        if values.numel() >= 2:
            tails[index] = values
    fits = fit_power_laws(list(tails.values()), fit=config.fit, xmin_pos=config.xmin_pos, bins=config.bins)
    found = dict(zip(tails, fits, strict=True))
    return [found.get(index) for index in range(len(spectra))]
