"""Which layers a model has, and which rule keeps a layer untuned."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import nn

from ..config import Embeddings, TempBalanceConfig
from .blocks import block_of
from .weights import Unreadable, Weight, find_weights
from .windows import MatrixShape, Windowing


Rule = (
    Literal["not_a_layer", "adapter", "embedding", "excluded", "no_block", "first", "last", "min_eigenvalues"]
    | Literal["frozen", "tied"]
    | Unreadable
)


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer of a model: one matrix-shaped weight and the rule, if any, that keeps it untuned."""

    weight: Weight
    matrices: MatrixShape  # that are decomposed
    excluded_by: Rule | None = None
    is_vocabulary: bool = False  # of the shape of the model's largest embedding: a language model's head
    is_pinned: bool = False  # tuned with the largest multiplier, without a spectrum

    @property
    def name(self) -> str:
        """Dotted name of the module, or of the parameter where a module holds several weights."""
        return self.weight.name

    @property
    def kind(self) -> str:
        """Kind of the weight, see `Weight`."""
        return self.weight.kind

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return self.weight.shape

    @property
    def num_eigenvalues(self) -> int:
        """Matrices in the weight (kernel positions, experts; windows) times the smaller side of one."""
        return self.matrices.num_eigenvalues

    @property
    def is_tuned(self) -> bool:
        """Whether the layer has a multiplier of its own: no rule excludes it."""
        return self.excluded_by is None

    @property
    def is_analysed(self) -> bool:
        """Whether the spectrum is computed, tuned or not; a vocabulary's takes long and nobody asked for it."""
        is_skipped = self.is_pinned or self.excluded_by in ("not_a_layer", "adapter", "embedding")
        is_skipped |= self.is_vocabulary and self.excluded_by in ("excluded", "last", "tied")
        return self.weight.unreadable is None and not is_skipped


@dataclass(frozen=True)
class Exclusions:
    """The settings that decide which layers are tuned; `find_layers` has the rules.

    Attributes:
        exclude_first, exclude_last, min_eigenvalues, exclude, embeddings: as in `TempBalanceConfig`.
        needs_block: whether layers outside of numbered blocks are left out, as with ``unit="block"``.
        windows: what is decomposed, and so how many eigenvalues a layer has; None for whole matrices.
    """

    exclude_first: bool = True
    exclude_last: bool = True
    min_eigenvalues: int = 50
    exclude: tuple[str, ...] = ()
    embeddings: Embeddings = "exclude"
    needs_block: bool = False
    windows: Windowing | None = None

    @classmethod
    def of(cls, config: TempBalanceConfig) -> Exclusions:
        """The exclusions that the settings ask for."""
        return cls(
            exclude_first=config.exclude_first,
            exclude_last=config.exclude_last,
            min_eigenvalues=config.min_eigenvalues,
            exclude=config.exclude,
            embeddings=config.embeddings,
            needs_block=config.unit == "block" and config.metric != "depth",
            windows=Windowing.of(config),
        )

    def matrices_of(self, weight: Weight) -> MatrixShape:
        """The matrices that a weight is decomposed as."""
        if self.windows is None:
            return MatrixShape(1, *weight.stack_shape)
        return self.windows.shape(weight.kind, weight.stack_shape)

    def counts(self, layer: Layer) -> bool:
        """Whether it can be the first or the last layer of the model, whatever else excludes it."""
        # An embedding is not what the reference means by the first layer, and an unreadable layer keeps its position.
        if layer.kind in ("parameter", "embedding") or layer.weight.is_part_of_adapter:
            return False
        is_listed = self.windows is None or layer.kind.startswith("conv")
        return is_listed or layer.num_eigenvalues >= self.min_eigenvalues

    def rule_by_name(self, layer: Layer) -> Rule | None:
        """ "embedding", "excluded" or "no_block", where that is what the settings say of this kind or name."""
        if layer.kind == "embedding" and self.embeddings == "exclude":
            return "embedding"
        if any(fnmatchcase(layer.name, pattern) for pattern in self.exclude):
            return "excluded"
        return "no_block" if self.needs_block and block_of(layer.name) is None and not self.pins(layer) else None

    def pins(self, layer: Layer) -> bool:
        """Whether it is an embedding or a head that takes the largest multiplier."""
        if self.embeddings != "largest" or layer.kind == "parameter":
            return False
        words = re.split(r"[._]", layer.name)
        is_named_so = any(re.fullmatch("embed(s|ding|dings)?|heads?", word) for word in words)
        return layer.kind == "embedding" or layer.is_vocabulary or is_named_so


def unwrap(model: nn.Module) -> nn.Module:
    """The user's model inside DataParallel, DistributedDataParallel and torch.compile.

    Raises:
        ValueError: the model is wrapped by FSDP1, whose flat parameters have no matrices.
    """
    inside: Any = model
    while True:
        if any(type(module).__name__ == "FullyShardedDataParallel" for module in inside.modules()):
            raise ValueError(
                "The model is wrapped by FullyShardedDataParallel (FSDP1), which flattens its weights, so that they "
                "have no spectrum. Use FSDP2: torch.distributed.fsdp.fully_shard, or fsdp_version: 2 in the settings."
            )
        if isinstance(inside, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inside = inside.module
        elif (compiled := dict(inside.named_children()).get("_orig_mod")) is not None:
            inside = compiled
        elif type(inside).__name__ == "DeepSpeedEngine":
            inside = inside.module
        else:
            unwrapped: nn.Module = inside
            return unwrapped


def find_layers(model: nn.Module, exclusions: Exclusions | None = None) -> list[Layer]:
    """Every matrix-shaped weight in registration order, excluded ones marked with the name of the rule.

    The first of `Rule` that applies, in this order: "not_a_layer" (a parameter that belongs to no known kind of
    layer), "adapter" (part of an adapter that is not added to a weight), "uninitialized", "meta", "quantized", "dtype"
    (its numbers can't be read), "embedding" (with ``embeddings="exclude"``), "excluded" (a pattern matches its name),
    "no_block" (with ``unit="block"``, outside of numbered blocks).
    Then the rules of the reference, in its order: "first" marks the first layer of the model, embeddings apart, "last"
    the last one, and neither moves on to another where a rule above has it already; "min_eigenvalues" those with fewer
    eigenvalues. Then ours: "frozen" (no weight of it is trained), "tied" (already met in another layer).

    With windows, layers with too few eigenvalues are counted neither as first nor as last, as FARMS does, unless they
    are convolutions.

    With ``embeddings="largest"`` embeddings and the head (a layer of the vocabulary's shape, tied to it or not, or
    with "embed" or "head" as a word of its name) are pinned: tuned, but not analysed, and none of the rules from
    "first" on applies to them except "frozen". They take the largest multiplier of the tuned layers, and where these
    are all excluded ``max_ratio``, which the balance room sees to.
    """
    return mark_layers(find_weights(model), exclusions or Exclusions())


def mark_layers(weights: Iterable[Weight], exclusions: Exclusions) -> list[Layer]:
    """The layers of these weights, by the rules of `find_layers`."""
    weights = list(weights)
    tables = [weight.shape for weight in weights if weight.kind == "embedding"]
    vocabulary = max(tables, key=math.prod, default=None)
    layers = [Layer(w, exclusions.matrices_of(w), is_vocabulary=w.shape == vocabulary) for w in weights]
    counted = [layer for layer in layers if exclusions.counts(layer)]
    first = counted[0] if counted and exclusions.exclude_first else None
    last = counted[-1] if counted and exclusions.exclude_last else None
    met: set[int] = set()
    marked = []
    for layer in layers:
        is_pinned = exclusions.pins(layer)
        rule = _intrinsic_rule(layer) or exclusions.rule_by_name(layer)
        if rule is None and not is_pinned:
            if layer is first or layer is last:
                rule = "first" if layer is first else "last"
            elif layer.num_eigenvalues < exclusions.min_eigenvalues:
                rule = "min_eigenvalues"
        if rule is None and not layer.weight.is_trained:
            rule = "frozen"
        if rule is None and not is_pinned and id(layer.weight.tensor) in met:
            rule = "tied"
        if isinstance(layer.weight.tensor, nn.Parameter):  # not one that a parametrization computes at each access
            met.add(id(layer.weight.tensor))
        marked.append(replace(layer, excluded_by=rule, is_pinned=is_pinned and rule is None))
    return marked


def check_windows(layers: list[Layer], exclusions: Exclusions) -> None:
    """Check that a window of full size fits into a layer that is tuned; into the others smaller ones go.

    Raises:
        ValueError: none fits.
    """
    windows = exclusions.windows
    tuned = [layer for layer in layers if layer.is_tuned and not layer.is_pinned]
    if windows is None or not tuned or any(windows.fits(layer.kind, layer.weight.stack_shape) for layer in tuned):
        return
    largest = max(tuned, key=lambda layer: min(layer.weight.stack_shape[1:]))
    _, rows, columns = largest.weight.stack_shape
    raise ValueError(
        f"window_rows={windows.rows} with window_aspect={windows.aspect} makes windows of {windows.rows} x "
        f"{int(windows.rows * windows.aspect)}, and no tuned layer has a matrix that large; {largest.name} has "
        f"{rows} x {columns}. Make it smaller, or 0 for whole matrices."
    )


def _intrinsic_rule(layer: Layer) -> Rule | None:
    """The rule that keeps a layer untuned whatever the settings are."""
    if layer.weight.is_part_of_adapter:
        return "adapter"
    return "not_a_layer" if layer.kind == "parameter" else layer.weight.unreadable


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
