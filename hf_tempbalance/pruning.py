"""AlphaPruning: how much of each layer to prune, from the heavy tail of its spectrum, and pruning by magnitude."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from torch import Tensor, nn
from torch.nn.utils import prune

from .config import Unit
from .options import plain, require, shown
from .spectra.blocks import block_of
from .spectra.layers import unwrap
from .spectra.weights import clean_name


if TYPE_CHECKING:
    from .spectra.analysis import LayerSpectrum

# Rules of `find_layers` for weights that are not there to be pruned, that another layer has, or that the user named.
_NOT_PRUNED = ("excluded", "adapter", "uninitialized", "meta", "quantized", "dtype", "tied")


class _Sized(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


Prunable = TypeVar("Prunable", bound=_Sized)


def layer_sparsities(
    spectra: Iterable[LayerSpectrum], sparsity: float, spread: float = 0.3, unit: Unit = "block"
) -> dict[str, float]:
    r"""AlphaPruning: the share of each layer's weights to set to zero, larger where the tail is lighter.

        s_i = min(1, c r_i)      r_i = 1 - e + 2 e (q_i - min q) / (max q - min q)

    with q_i the mean alpha of the layers of unit i, e = ``spread``, and c such that sum_i d_i s_i = ``sparsity``
    sum_i d_i, d_i being numbers of weights: what is cut at 1 is given to the other units, in proportion to r.

    Equal scores: ``sparsity`` for all. A unit without a finite alpha gets ``sparsity`` and changes no other; within a
    block, layers without one do not count in the mean.

    Args:
        spectra: of a whole model, as `analyze` returns them; the paper's are those of ``fit="fix-finger"``. See
            `prunable` for those that count.
        sparsity: share of zeros over all prunable weights together, 0 to 1.
        spread: 0 (uniform) to 1.
        unit: "block" (all layers of a numbered block have one sparsity) or "layer".

    Returns:
        Name of each prunable layer -> its sparsity, 0 to 1, in the order of ``spectra``.

    Raises:
        ValueError: a value is not allowed, or no layer can be pruned.

    Source:
        Lu et al., "AlphaPruning: Using Heavy-Tailed Self Regularization Theory for Improved Layer-wise Pruning of
        Large Language Models", NeurIPS 2024.
    """
    sparsity, spread = checked_share("sparsity", sparsity), checked_share("spread", spread)
    units = units_of(prunable(spectra, unit), unit)
    scores = {name: mean_alpha(layers) for name, layers in units.items()}
    scored = [name for name in units if math.isfinite(scores[name])]
    sizes = [sum(math.prod(layer.shape) for layer in units[name]) for name in scored]
    filled = _fill(_ratios([scores[name] for name in scored], spread), sizes, sparsity)
    sparsity_of = dict.fromkeys(units, sparsity) | dict(zip(scored, filled, strict=True))
    return {layer.name: sparsity_of[name] for name, layers in units.items() for layer in layers}


def checked_share(name: str, value: float) -> float:
    """The value as a float. Raises ValueError where it is no number from 0 to 1."""
    share = float(plain(name, value, float))
    require(0 <= share <= 1, name, value, "between 0 and 1")
    return share


def prunable(layers: Iterable[Prunable], unit: Unit = "block") -> list[Prunable]:
    """The linear layers of numbered blocks, so not embedding and head.

    All linear ones where ``unit`` is "layer" and the network has no numbered blocks. Adapters, weights without
    readable numbers and layers that the option ``exclude`` names are left out.

    Raises:
        ValueError: there are none, or the unit is unknown.
    """
    unit = plain("unit", unit, Unit)
    layers = list(layers)
    linear = [layer for layer in layers if _is_prunable(layer)]
    found = [layer for layer in linear if block_of(layer.name) is not None] or (linear if unit == "layer" else [])
    if not found:
        advice = " unit='layer' prunes linear layers outside of them." if linear else ""
        raise ValueError(
            f"There is nothing to prune: of {len(layers)} layers none is a linear one with readable weights in a "
            f"numbered block, such as 'layers.0.fc'.{advice}"
        )
    return found


def units_of(spectra: Iterable[LayerSpectrum], unit: Unit) -> dict[str, list[LayerSpectrum]]:
    """Name of each unit -> its layers, in order."""
    units: dict[str, list[LayerSpectrum]] = {}
    for layer in spectra:
        units.setdefault((block_of(layer.name) if unit == "block" else None) or layer.name, []).append(layer)
    return units


def mean_alpha(layers: Sequence[LayerSpectrum]) -> float:
    """Mean alpha of the layers that have a finite one; NaN without any."""
    alphas = [layer.alpha for layer in layers if math.isfinite(layer.alpha)]
    return math.fsum(alphas) / len(alphas) if alphas else math.nan  # fsum: equal blocks are equal in any order


def prune_by_magnitude(model: nn.Module, sparsities: Mapping[str, float], *, permanent: bool = True) -> None:
    """Set the smallest weights of each named layer to zero, in place: round(sparsity * number of weights) of them.

    Weights that are zero already count. The parameters stay the same objects, so that an optimizer keeps them.

    Args:
        model: whole, on any device; not sharded, and adapters merged.
        sparsities: name of the layer -> share of zeros, as from `layer_sparsities`.
        permanent: False leaves the masks of `torch.nn.utils.prune` in place, which hold the zeros in training;
            ``prune.remove(layer, "weight")`` makes them permanent later.

    Raises:
        ValueError: a name is not a layer of the model with a weight that can be pruned, or a value is outside 0 to 1.
            Nothing has been changed then.
    """
    modules = {clean_name(name): module for name, module in unwrap(model).named_modules()}
    chosen = [
        (*_parameter_of(modules, name), checked_share(f"sparsity of {name!r}", share))
        for name, share in sparsities.items()
    ]
    for module, parameter, share in chosen:
        if hasattr(module, f"{parameter}_mask"):
            prune.remove(module, parameter)  # otherwise torch would prune so many of those that are left
        size = getattr(module, parameter).numel()
        prune.l1_unstructured(module, parameter, amount=round(share * size))
        if permanent:
            prune.remove(module, parameter)


def _is_prunable(layer: _Sized) -> bool:
    is_excluded = getattr(layer, "excluded_by", None) in _NOT_PRUNED or getattr(layer, "unreadable", None) is not None
    is_excluded |= getattr(layer, "is_part_of_adapter", False)
    return layer.kind == "linear" and math.prod(layer.shape) > 0 and not is_excluded


def _ratios(scores: Sequence[float], spread: float) -> list[float]:
    """Scores mapped linearly onto 1 - spread ... 1 + spread; 1 where all are equal."""
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    if low == high:
        return [1.0] * len(scores)
    return [1 + spread * (2 * (score - low) / (high - low) - 1) for score in scores]


def _fill(ratios: Sequence[float], sizes: Sequence[int], sparsity: float) -> list[float]:
    """Sparsities min(1, c r_i) with c such that their mean, weighted by sizes, is ``sparsity``: water-filling.

    Units whose ratio is 0 get something only when all others are at 1.
    """
    if len(set(ratios)) <= 1:
        return [sparsity] * len(ratios)  # to the last digit
    full: set[int] = set()
    while True:
        rest = [i for i in range(len(ratios)) if i not in full]
        budget = max(0.0, sparsity * sum(sizes) - sum(sizes[i] for i in full))
        weights = {i: ratios[i] for i in rest} if any(ratios[i] > 0 for i in rest) else dict.fromkeys(rest, 1.0)
        total = math.fsum(sizes[i] * weights[i] for i in rest)
        filled = {i: budget / total * weights[i] for i in rest}
        above = {i for i in rest if filled[i] >= 1}
        if not above:
            return [filled.get(i, 1.0) for i in range(len(ratios))]
        full |= above


def _parameter_of(modules: Mapping[str, nn.Module], name: str) -> tuple[nn.Module, str]:
    """The module and the name in it of the weight that `LayerSpectrum.name` stands for."""
    parent, _, last = name.rpartition(".")
    module, parameter = (modules.get(name), "weight") if name in modules else (modules.get(parent), last)
    if hasattr(module, "base_layer"):
        raise ValueError(
            f"{name} has an adapter, whose sum with the weight is what would have to be pruned. Merge it."
        )
    weight = getattr(module, parameter, None) if module is not None else None
    has_mask = hasattr(module, f"{parameter}_mask")
    if module is None or not isinstance(weight, nn.Parameter) and not (has_mask and isinstance(weight, Tensor)):
        raise ValueError(f"{shown(name)} is no layer of this model with a weight that can be pruned.")
    if not weight.is_floating_point() or weight.is_meta or hasattr(weight, "full_tensor"):
        raise ValueError(f"{name}: a weight that is quantized, sharded or without numbers can't be pruned.")
    return module, parameter
