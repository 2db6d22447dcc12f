"""Which layer's multiplier each parameter of a model takes."""

from __future__ import annotations

from torch import nn

from ..config import TempBalanceConfig
from ..spectra.blocks import block_of, depths
from ..spectra.followers import find_followers
from ..spectra.layers import Exclusions, Layer, check_windows, describe, find_layers
from ..spectra.weights import clean_name


def assign_parameters(model: nn.Module, config: TempBalanceConfig) -> tuple[list[Layer], dict[int, str]]:
    """All layers, and id of each parameter that can be tuned -> name of the layer whose multiplier it takes.

    Depends on the architecture alone: parameters of frozen layers are in it, so that these can be set free in the
    middle of training, and others frozen.

    A layer's own weight and bias belong to it, and those of the norm that follows it; with ``unit="block"`` also every
    other parameter of its block. A parameter used twice belongs to the layer that is met first.

    Raises:
        ValueError: no layer is tuned, or windows are larger than every layer that is.
    """
    exclusions = Exclusions.of(config)
    layers = find_layers(model, exclusions)
    tuned = {layer.name: layer for layer in layers if layer.is_tuned or layer.excluded_by == "frozen"}
    if config.unit == "block" and not any(block_of(layer.name) for layer in layers):
        raise ValueError(
            "unit='block' needs numbered blocks, such as encoder.layer.0, and no layer of this model is in one. Use "
            "unit='layer'."
        )
    if all(layer.excluded_by == "frozen" for layer in tuned.values()):
        raise ValueError(f"There is nothing to balance: {describe(model, layers)}")
    check_windows(layers, exclusions)
    owner: dict[int, str] = {}
    for name, layer in tuned.items():
        for parameter in layer.weight.parameters:
            owner.setdefault(id(parameter), name)
    if config.unit == "block":
        _add_blocks(model, layers, list(tuned), owner)
        return layers, owner
    followers = find_followers(model, layers, batchnorm=config.batchnorm, layernorm=config.layernorm)
    for name, module in model.named_modules():
        layer_name = followers.get(clean_name(name))
        if layer_name in tuned:
            for parameter in module.parameters():
                owner.setdefault(id(parameter), layer_name)
    return layers, owner


def _add_blocks(model: nn.Module, layers: list[Layer], tuned: list[str], owner: dict[int, str]) -> None:
    """Give the other parameters of a block, such as norms, to its first tuned layer.

    What lies before the first block and after the last is treated as a block, where any layer of it is tuned. Layers
    that a rule excludes keep the schedule's rate.
    """
    kept = {id(p) for layer in layers if layer.excluded_by not in FOLLOWING for p in layer.weight.parameters}
    names = {clean_name(name): parameter for name, parameter in model.named_parameters()}
    depth = depths([*names])
    layer_depth = depths([layer.name for layer in layers])
    first_of: dict[str | int, str] = {}
    for name in tuned:
        first_of.setdefault(block_of(name) or layer_depth[name], name)
    for name, parameter in names.items():
        layer = first_of.get(block_of(name) or depth[name])
        if layer is not None and id(parameter) not in kept:
            owner.setdefault(id(parameter), layer)


# Rules of what is no layer by itself, so that it goes with its block.
FOLLOWING = (None, "not_a_layer", "adapter", "frozen")
