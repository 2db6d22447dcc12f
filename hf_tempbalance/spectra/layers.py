"""Which layers are analysed, which rule keeps a layer untuned, and which norm follows which layer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from torch import nn

from ..config import BatchNormRule
from .weights import Weight, clean_name, find_weights


# The reference knows BatchNorm2d alone; SyncBatchNorm is what it becomes under convert_sync_batchnorm.
_BATCHNORM_OF = {
    "conv1d": nn.BatchNorm1d,
    "conv2d": (nn.BatchNorm2d, nn.SyncBatchNorm),
    "conv3d": nn.BatchNorm3d,
}
_BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer of a model: one matrix-shaped weight and the rule, if any, that keeps it untuned."""

    weight: Weight
    excluded_by: str | None = None
    is_vocabulary: bool = False  # of the shape of the model's largest embedding: a language model's head

    @property
    def name(self) -> str:
        """Dotted name of the module, or of the parameter where a module holds several weights."""
        return self.weight.name

    @property
    def kind(self) -> str:
        """As in `Weight`."""
        return self.weight.kind

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return self.weight.shape

    @property
    def num_eigenvalues(self) -> int:
        """Matrices in the weight (kernel positions, experts) times the smaller side of one."""
        count, rows, columns = self.weight.stack_shape
        return count * min(rows, columns)

    @property
    def is_tuned(self) -> bool:
        """Whether the layer has a multiplier of its own: no rule excludes it."""
        return self.excluded_by is None

    @property
    def is_analysed(self) -> bool:
        """Whether the spectrum is computed, tuned or not; a vocabulary's takes long and nobody asked for it."""
        is_skipped = self.excluded_by in ("not_a_layer", "adapter", "embedding")
        is_skipped |= self.is_vocabulary and self.excluded_by in ("last", "tied")
        return self.weight.unreadable is None and not is_skipped


def unwrap(model: nn.Module) -> nn.Module:
    """The user's model inside DataParallel, DistributedDataParallel and torch.compile.

    Raises:
        ValueError: the model is wrapped by FSDP1, whose flat parameters have no matrices.
    """
    while True:
        if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
            raise ValueError(
                "The model is wrapped by FullyShardedDataParallel (FSDP1), which flattens its weights, so that they "
                "have no spectrum. Use FSDP2: torch.distributed.fsdp.fully_shard, or fsdp_version: 2 in the settings."
            )
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif (compiled := dict(model.named_children()).get("_orig_mod")) is not None:
            model = compiled
        elif type(model).__name__ == "DeepSpeedEngine":
            model = model.module
        else:
            return model


def find_layers(
    model: nn.Module,
    *,
    exclude_first: bool = True,
    exclude_last: bool = True,
    min_eigenvalues: int = 50,
    embeddings: bool = False,
) -> list[Layer]:
    """Every matrix-shaped weight in registration order, excluded ones marked with the name of the rule.

    In this order: "not_a_layer" (a parameter that belongs to no known kind of layer), "adapter" (part of an adapter
    that is not added to a weight), "uninitialized", "meta", "quantized", "dtype" (its numbers can't be read),
    "embedding" (unless ``embeddings``). Then the rules of the reference, in its order: "first" marks the first layer
    that no rule above has, "last" the last one that is left, and neither moves on to another; "min_eigenvalues" those
    with fewer eigenvalues. Then ours: "frozen" (no weight of it is trained), "tied" (already met in another layer).
    """
    return mark_layers(
        find_weights(model),
        exclude_first=exclude_first,
        exclude_last=exclude_last,
        min_eigenvalues=min_eigenvalues,
        embeddings=embeddings,
    )


def mark_layers(
    weights: Iterable[Weight], *, exclude_first: bool, exclude_last: bool, min_eigenvalues: int, embeddings: bool
) -> list[Layer]:
    """The layers of these weights, by the rules of `find_layers`."""
    weights = list(weights)
    # An embedding is not what the reference means by the first layer, and an unreadable layer keeps its position.
    positions = [w for w in weights if w.kind not in ("parameter", "embedding") and not w.is_part_of_adapter]
    first = positions[0] if positions and exclude_first else None
    last = positions[-1] if positions and exclude_last else None
    met: set[int] = set()
    embeddings_found = [weight.shape for weight in weights if weight.kind == "embedding"]
    vocabulary = max(embeddings_found, key=math.prod, default=None)
    layers = []
    for weight in weights:
        layer = Layer(weight)
        rule = None
        if weight.kind == "parameter" and not weight.is_part_of_adapter:
            rule = "not_a_layer"
        elif weight.is_part_of_adapter:
            rule = "adapter"
        elif weight.unreadable is not None:
            rule = weight.unreadable
        elif weight.kind == "embedding" and not embeddings:
            rule = "embedding"
        elif weight is first or weight is last:
            rule = "first" if weight is first else "last"
        elif layer.num_eigenvalues < min_eigenvalues:
            rule = "min_eigenvalues"
        elif not weight.is_trained:
            rule = "frozen"
        elif id(weight.tensor) in met:
            rule = "tied"
        if isinstance(weight.tensor, nn.Parameter):  # not one that a parametrization computes anew at each access
            met.add(id(weight.tensor))
        layers.append(Layer(weight, rule, is_vocabulary=weight.shape == vocabulary))
    return layers


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


def describe(model: nn.Module, layers: list[Layer]) -> str:
    """What was looked at and why each layer was excluded, for an error message."""
    if not layers:
        kinds = Counter(type(module).__name__ for module in model.modules() if not any(module.children()))
        found = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "no modules"
        return f"linear and convolution layers are analysed, and this model has {found}"
    return describe_layers(layers)


def describe_layers(layers: list[Layer]) -> str:
    """Why each of these layers was excluded."""
    rows = (f"{layer.name or '(the model itself)'} {layer.shape}: {layer.excluded_by}" for layer in layers)
    return "each layer is excluded by a rule\n  " + "\n  ".join(rows)


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
