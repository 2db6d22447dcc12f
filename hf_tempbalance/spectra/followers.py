"""Which normalisation layer takes the multiplier of which layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from ..config import BatchNormRule
from .layers import Layer
from .weights import clean_name


# The reference knows BatchNorm2d alone; SyncBatchNorm is what it becomes under convert_sync_batchnorm.
_BATCHNORM_OF: dict[str, type | tuple[type, ...]] = {
    "conv1d": nn.BatchNorm1d,
    "conv2d": (nn.BatchNorm2d, nn.SyncBatchNorm),
    "conv3d": nn.BatchNorm3d,
}
_BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def find_followers(
    model: nn.Module, layers: list[Layer], *, batchnorm: BatchNormRule = "name", layernorm: bool = False
) -> dict[str, str]:
    """Norm name -> name of the layer whose multiplier it takes. Norms without a layer are absent.

    batchnorm "name": the convolution or linear layer whose full name is the norm's with every "bn" replaced by "conv".
    "order": the convolution of as many dimensions registered just before it, no other BatchNorm between. layernorm:
    the linear layer registered just before it, no other such norm between, which is not always the one it feeds.
    """
    followers: dict[str, str] = {}
    modules = {clean_name(name): module for name, module in model.named_modules()}
    kind_of = {layer.name: layer.kind for layer in layers}
    if batchnorm == "name":
        for name, module in modules.items():
            target = name.replace("bn", "conv")
            if isinstance(module, _BATCHNORMS) and kind_of.get(target) in ("linear", *_BATCHNORM_OF):
                followers[name] = target
    elif batchnorm == "order":
        for kind, norms in _BATCHNORM_OF.items():
            followers |= _follow_in_order(modules, kind_of, kind, partial(_is_one_of, norms))
    if layernorm:
        followers |= _follow_in_order(modules, kind_of, "linear", _is_layernorm)
    return followers


def _is_one_of(kinds: type | tuple[type, ...], module: nn.Module) -> bool:
    return isinstance(module, kinds)


def _is_layernorm(module: nn.Module) -> bool:
    # transformers has an RMSNorm class of its own for each architecture, none derived from torch's.
    return isinstance(module, (nn.LayerNorm, nn.RMSNorm)) or type(module).__name__.endswith(("RMSNorm", "LayerNorm"))


def _follow_in_order(
    modules: dict[str, nn.Module], kind_of: dict[str, str], kind: str, is_norm: Callable[[nn.Module], bool]
) -> dict[str, str]:
    followers: dict[str, str] = {}
    before: str | None = None  # the layer just before; None after a norm, and at the start, where the reference raises
    for name, module in modules.items():
        if kind_of.get(name) == kind:
            before = name
        elif is_norm(module):
            if before is not None:
                followers[name] = before
            before = None
    return followers
