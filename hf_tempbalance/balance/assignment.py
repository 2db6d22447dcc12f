"""Which layer's multiplier each parameter of a model takes."""

from __future__ import annotations

from torch import nn

from ..config import TempBalanceConfig
from ..spectra.followers import find_followers
from ..spectra.layers import Exclusions, Layer, check_windows, describe, find_layers
from ..spectra.weights import clean_name


def assign_parameters(model: nn.Module, config: TempBalanceConfig) -> tuple[list[Layer], dict[int, str]]:
    """All layers, and id of each parameter that can be tuned -> name of the layer whose multiplier it takes.

    Depends on the architecture alone: parameters of frozen layers are in it, so that these can be set free in the
    middle of training, and others frozen.

    A layer's own weight and bias belong to it, and those of the norm that follows it; a parameter used twice belongs
    to the layer that is met first.

    Raises:
        ValueError: no layer is tuned, or windows are larger than every layer that is.
    """
    exclusions = Exclusions.of(config)
    layers = find_layers(model, exclusions)
    tuned = {layer.name: layer for layer in layers if layer.is_tuned or layer.excluded_by == "frozen"}
    if all(layer.excluded_by == "frozen" for layer in tuned.values()):
        raise ValueError(f"There is nothing to balance: {describe(model, layers)}")
    check_windows(layers, exclusions)
    owner: dict[int, str] = {}
    followers = find_followers(model, layers, batchnorm=config.batchnorm, layernorm=config.layernorm)
    for name, layer in tuned.items():
        for parameter in layer.weight.parameters:
            owner.setdefault(id(parameter), name)
    for name, module in model.named_modules():
        layer_name = followers.get(clean_name(name))
        if layer_name in tuned:
            for parameter in module.parameters():
                owner.setdefault(id(parameter), layer_name)
    return layers, owner
