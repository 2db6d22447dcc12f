"""Which layers are analysed, which rule keeps a layer untuned, and which norm follows which layer."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

from torch import Tensor, nn

from .config import BatchNormRule


@dataclass(frozen=True)
class Layer:
    """A Conv2d or Linear of a model."""

    name: str  # dotted module name
    module: nn.Conv2d | nn.Linear
    kind: str  # "conv2d" or "linear"
    shape: tuple[int, ...]  # of the weight
    num_eigenvalues: int  # kernel positions times the smaller side
    excluded_by: str | None = None  # rule that keeps the layer untuned

    @property
    def is_readable(self) -> bool:
        """Whether the weight holds numbers whose spectrum can be computed."""
        return _unreadable(self.module.weight) is None


def unwrap(model: nn.Module) -> nn.Module:
    """The user's model inside DataParallel, DistributedDataParallel and torch.compile."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif (compiled := dict(model.named_children()).get("_orig_mod")) is not None:
            model = compiled
        else:
            return model


def find_layers(
    model: nn.Module, *, exclude_first: bool = True, exclude_last: bool = True, min_eigenvalues: int = 50
) -> list[Layer]:
    """Every Conv2d and Linear (subclasses included) in registration order, excluded ones marked.

    The rules of the reference, in its order: "first" marks the first layer; "last" the last one that is left;
    "min_eigenvalues" those with fewer eigenvalues. Neither of the first two moves on to another layer. Then ours:
    "frozen" (no weight of it is trained), "tied" (the weight was already met in another layer). A weight that
    can't be read is marked "meta", "uninitialized" or "dtype", whatever its position.
    """
    layers = [
        Layer(name, module, _kind(module), _shape(module), _num_eigenvalues(_shape(module)))
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    first = layers[0].name if layers and exclude_first else None
    last = layers[-1].name if layers and exclude_last else None
    met: set[int] = set()
    marked = []
    for layer in layers:
        rule = None
        if not layer.is_readable:
            rule = _unreadable(layer.module.weight)
        elif layer.name in (first, last):
            rule = "first" if layer.name == first else "last"
        elif layer.num_eigenvalues < min_eigenvalues:
            rule = "min_eigenvalues"
        elif not any(p.requires_grad for p in layer.module.parameters() if p.dim() >= 2):
            rule = "frozen"
        elif id(layer.module.weight) in met:
            rule = "tied"
        met.add(id(layer.module.weight))
        marked.append(replace(layer, excluded_by=rule))
    return marked


def find_followers(model: nn.Module, *, batchnorm: BatchNormRule = "name", layernorm: bool = False) -> dict[str, str]:
    """Norm name -> name of the layer whose multiplier it takes. Norms without a layer are absent.

    batchnorm "name": the Conv2d or Linear whose full name is the norm's with every "bn" replaced by "conv".
    "order": the Conv2d registered just before it, no other BatchNorm between. layernorm: the Linear registered
    just before it, no other such norm between, which is not always the layer that it feeds.
    """
    followers: dict[str, str] = {}
    modules = dict(model.named_modules())
    if batchnorm == "name":
        for name, module in modules.items():
            target = name.replace("bn", "conv")
            if _is_batchnorm(module) and isinstance(modules.get(target), (nn.Conv2d, nn.Linear)):
                followers[name] = target
    elif batchnorm == "order":
        followers |= _follow_in_order(modules, nn.Conv2d, _is_batchnorm)
    if layernorm:
        followers |= _follow_in_order(modules, nn.Linear, _is_layernorm)
    return followers


def describe(model: nn.Module, layers: list[Layer]) -> str:
    """What was looked at and why each layer was excluded, for an error message."""
    if not layers:
        kinds = Counter(type(module).__name__ for module in model.modules() if not any(module.children()))
        found = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "no modules"
        return f"only Conv2d and Linear layers are analysed, and this model has {found}"
    rows = (f"{layer.name or '(the model itself)'} {layer.shape}: {layer.excluded_by}" for layer in layers)
    return "each layer is excluded by a rule\n  " + "\n  ".join(rows)


def _kind(module: nn.Module) -> str:
    return "conv2d" if isinstance(module, nn.Conv2d) else "linear"


def _shape(module: nn.Conv2d | nn.Linear) -> tuple[int, ...]:
    # A lazy layer has no shape before its first forward pass; asking for it raises.
    return () if isinstance(module.weight, nn.UninitializedParameter) else tuple(module.weight.shape)


def _num_eigenvalues(shape: tuple[int, ...]) -> int:
    return min(shape[:2]) * math.prod(shape[2:]) if shape else 0


def _unreadable(weight: Tensor) -> str | None:
    if isinstance(weight, nn.UninitializedParameter):
        return "uninitialized"
    if weight.is_meta:
        return "meta"
    return None if weight.is_floating_point() else "dtype"


def _is_batchnorm(module: nn.Module) -> bool:
    # SyncBatchNorm is what BatchNorm2d becomes under convert_sync_batchnorm; the reference knows only the latter.
    return isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm))


def _is_layernorm(module: nn.Module) -> bool:
    # transformers has an RMSNorm class of its own for each architecture, none derived from torch's.
    return isinstance(module, (nn.LayerNorm, nn.RMSNorm)) or type(module).__name__.endswith(("RMSNorm", "LayerNorm"))


def _follow_in_order(modules: dict[str, nn.Module], kind: type[nn.Module], is_norm) -> dict[str, str]:
    followers: dict[str, str] = {}
    before: str | None = None  # the layer just before; None after a norm, and at the start, where the reference raises
    for name, module in modules.items():
        if isinstance(module, kind):
            before = name
        elif is_norm(module):
            if before is not None:
                followers[name] = before
            before = None
    return followers
