"""The matrix-shaped weights of a model: where they are, whether they can be read, and their stacks of matrices."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


Unreadable = Literal["uninitialized", "meta", "quantized", "dtype"]
_KINDS: dict[type[nn.Module], str] = {
    nn.Linear: "linear",
    nn.Conv1d: "conv1d",
    nn.Conv2d: "conv2d",
    nn.Conv3d: "conv3d",
    nn.ConvTranspose1d: "conv_transpose1d",
    nn.ConvTranspose2d: "conv_transpose2d",
    nn.ConvTranspose3d: "conv_transpose3d",
    nn.Embedding: "embedding",
    nn.EmbeddingBag: "embedding",
}
_ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
# PEFT's tuners whose merged weight is the layer's plus `get_delta_weight`, each tried against `merge_and_unload`
# (tests/everywhere/test_adapters.py). Others rotate, scale or replace the weight, have nothing to merge, or are new.
_ADDING_TUNERS = frozenset(
    "adalora adamss c3a deft delora fourierft frod gralora loha lokr lora osf peanut psoft pvera randlora shira "
    "supertuning tinylora unilora vblora vera waveft".split()
)


@dataclass(frozen=True, eq=False)
class Weight:
    """A matrix-shaped weight and the parameters that share its learning rate.

    kind: the layer's; "in_proj" (query, key and value of `nn.MultiheadAttention` in one), "experts" (a mixture's,
    one matrix each), or "parameter": of no layer that is known here.
    """

    name: str  # dotted name of the module, or of the parameter where a module holds several; without wrappers' parts
    kind: str
    tensor: Tensor  # under an adapter that of the layer inside
    parameters: tuple[Tensor, ...]
    adapters: tuple[Any, ...] = ()  # PEFT layers around the layer, the outer first; each adds to the weight
    is_part_of_adapter: bool = False  # ... that can't be merged with its layer's weight

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole weight, also where this process holds a shard; () for a lazy layer."""
        if isinstance(self.tensor, nn.UninitializedParameter):
            return ()
        return tuple(getattr(self.tensor, "ds_shape", self.tensor.shape))

    @property
    def stack_shape(self) -> tuple[int, int, int]:
        """Shape of `stack`, (matrices, rows, columns); zeros where there is no shape yet."""
        shape = self.shape
        if self.kind == "in_proj":
            return 3, shape[0] // 3, shape[1]
        if self.kind == "experts":
            return shape[0], shape[1], shape[2]
        return (math.prod(shape[2:]), shape[0], shape[1]) if len(shape) > 1 else (0, 0, 0)

    @property
    def unreadable(self) -> Unreadable | None:
        """Why its numbers have no spectrum: "uninitialized", "meta", "quantized" or "dtype"; None if they have."""
        if isinstance(self.tensor, nn.UninitializedParameter):
            return "uninitialized"
        if self.tensor.is_meta:
            return "meta"
        if self.tensor.is_complex() or self.tensor.dtype is torch.bool:
            return "dtype"
        is_wrapped = is_traceable_wrapper_subclass(self.tensor) and not _is_dtensor(self.tensor)
        if not self.tensor.is_floating_point() or not _has_numbers(self.tensor.dtype) or is_wrapped:
            return "quantized"
        return None

    @property
    def is_trained(self) -> bool:
        """Whether a matrix-shaped parameter of it is trained, or any parameter of an adapter: VeRA trains vectors."""
        own = {id(p) for p in self.adapters[-1].base_layer.parameters()} if self.adapters else None
        return any(
            p.requires_grad and (_is_matrix(p) or (own is not None and id(p) not in own)) for p in self.parameters
        )

    @property
    def is_sharded(self) -> bool:
        """Whether reading it takes all processes together (DTensor as under FSDP2, DeepSpeed ZeRO-3)."""
        return any(_is_dtensor(p) or hasattr(p, "ds_id") for p in (self.tensor, *self.parameters))

    def whole(self) -> Tensor:
        """The weight as the layer uses it, adapter merged and shards gathered, detached.

        A view where that is possible. Every process of the group has to call it where `is_sharded`.
        """
        gather: AbstractContextManager[Any] = nullcontext()
        if any(hasattr(p, "ds_id") for p in self.parameters):
            import deepspeed

            gather = deepspeed.zero.GatheredParameters([p for p in self.parameters if hasattr(p, "ds_id")])
        with gather, torch.no_grad():
            tensor = self.tensor.detach()
            for adapter in self.adapters:
                for name in () if adapter.merged else _active(adapter):
                    tensor = tensor + adapter.get_delta_weight(name).to(tensor.dtype)
            whole: Tensor = getattr(tensor, "full_tensor", lambda: tensor)()
            return whole.clone() if hasattr(self.tensor, "ds_id") else whole

    def stack(self) -> Tensor | MergedStack:
        """The weight as matrices (k, m, n), a view; lazily merged under an adapter. For weights not `is_sharded`."""
        return MergedStack(self) if self.adapters else as_stack(self.whole(), self.kind)


class MergedStack:
    """The matrices of a weight with its adapter, merged when they are asked for: no copy of a model is ever held."""

    def __init__(self, weight: Weight) -> None:
        self.weight = weight
        self.shape, self.dtype, self.device = weight.stack_shape, weight.tensor.dtype, weight.tensor.device

    def __getitem__(self, k: int | slice) -> Tensor:
        return as_stack(self.weight.whole(), self.weight.kind)[k]


def as_stack(weight: Tensor, kind: str) -> Tensor:
    """A weight as a stack of matrices, shape (k, m, n), a view without a copy.

    A linear layer's (also stored as (in, out), and an embedding's): k = 1. A convolution's (out, in/groups, ...), a
    transposed one's (in, out/groups, ...): one matrix of the first two dimensions for each of the k kernel
    positions, never (out, in * positions). "in_proj" (3 e, e): k = 3. "experts" (k, m, n): as it is.
    """
    if kind == "experts":
        return weight
    if kind == "in_proj":
        return weight.reshape(3, -1, weight.shape[1])
    return weight.unsqueeze(0) if weight.dim() == 2 else weight.flatten(2).permute(2, 0, 1)


def find_weights(model: nn.Module) -> Iterator[Weight]:
    """Every parameter with two dimensions or more, in registration order, in the `Weight` of its layer."""
    inside: set[int] = set()  # modules that a layer above accounts for
    parts: set[int] = set()  # modules of an adapter that can't be merged
    for full_name, module in model.named_modules():
        if id(module) in inside:
            continue
        name = clean_name(full_name)
        base: Any = module
        adapters: list[Any] = []
        while _is_adapter(base):
            adapters.append(base)
            base = base.base_layer
        kind = _kind(base)
        if kind is not None and all(_adds(adapter, base) for adapter in adapters):
            inside |= {id(child) for child in module.modules()}
            yield Weight(
                name,
                kind,
                base.weight,
                tuple(module.parameters()),
                adapters=tuple(adapters),
                is_part_of_adapter=id(module) in parts,
            )
        else:
            if adapters:
                parts |= {id(child) for child in module.modules()} - {id(c) for c in module.base_layer.modules()}
            yield from _own_weights(module, name, id(module) in parts)


def clean_name(name: str) -> str:
    """A module's or parameter's dotted name without what torch.compile, FSDP and activation checkpointing add."""
    for part in ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"):
        name = name.replace(f"{part}.", "").removesuffix(f".{part}")
    return name


def _own_weights(module: nn.Module, prefix: str, is_part_of_adapter: bool) -> Iterator[Weight]:
    """Matrix-shaped parameters that a module holds itself, without being a layer with one weight."""
    own = dict(module.named_parameters(recurse=False))
    for key, parameter in own.items():
        is_lazy = isinstance(parameter, nn.UninitializedParameter)
        shape: tuple[int, ...] = () if is_lazy else tuple(getattr(parameter, "ds_shape", parameter.shape))
        if not is_lazy and len(shape) < 2:
            continue
        kind, names = "parameter", [key]
        if isinstance(module, nn.MultiheadAttention) and key in _ATTENTION_WEIGHTS:
            is_fused = key == "in_proj_weight"
            kind, names = ("in_proj", [key, "in_proj_bias"]) if is_fused else ("linear", [key])
        elif len(shape) == 3 and shape[0] == getattr(module, "num_experts", None):
            kind, names = "experts", [key, f"{key}_bias"]
        parameters = tuple(own[name] for name in names if own.get(name) is not None)
        yield Weight(f"{prefix}.{key}".lstrip("."), kind, parameter, parameters, is_part_of_adapter=is_part_of_adapter)
    for key, buffer in module.named_buffers(recurse=False):
        if key == "qweight":  # GPTQ and AWQ keep packed integers in a buffer and have no weight
            yield Weight(prefix, "linear", buffer, tuple(own.values()))


def _kind(module: Any) -> str | None:
    if not isinstance(getattr(module, "weight", None), Tensor):
        return None
    # transformers' Conv1D (GPT-2) is a linear layer whose weight is stored as (in, out).
    if type(module).__name__ == "Conv1D" and module.weight.dim() == 2:
        return "linear"
    return next((kind for layer, kind in _KINDS.items() if isinstance(module, layer)), None)


def _active(adapter: Any) -> list[str]:
    held = {name for key in getattr(adapter, "adapter_layer_names", ()) for name in getattr(adapter, key, ())}
    return [] if adapter.disable_adapters else [name for name in adapter.active_adapters if name in held]


def _is_adapter(module: nn.Module) -> bool:
    """Whether it is a tuner layer of PEFT around a layer; a `base_layer` alone is none (timm's DLA)."""
    is_tuner = any(c.__name__ == "BaseTunerLayer" and c.__module__.startswith("peft.") for c in type(module).__mro__)
    return is_tuner and isinstance(getattr(module, "base_layer", None), nn.Module)


def _adds(adapter: Any, base: Any) -> bool:
    """Whether the merged weight is the layer's plus `get_delta_weight`: the home of its methods tells the tuner."""
    methods = [getattr(type(adapter), name, None) for name in ("get_delta_weight", "merge")]
    homes = [getattr(method, "__module__", "").split(".") for method in methods]
    if any(home[:2] != ["peft", "tuners"] for home in homes) or homes[0][2] not in _ADDING_TUNERS:
        return False
    tuner = homes[0][2]
    if tuner in ("lora", "adalora") and getattr(base, "groups", 1) > 1:
        return False  # PEFT does not merge these either
    if tuner in ("fourierft", "waveft") and adapter.fan_in_fan_out:
        return False  # their `get_delta_weight` is not transposed as the weight is
    return not getattr(adapter, "lora_variant", None)  # DoRA and others do more than add


def _is_matrix(parameter: Tensor) -> bool:
    return len(getattr(parameter, "ds_shape", parameter.shape)) >= 2


def _is_dtensor(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def _has_numbers(dtype: torch.dtype) -> bool:
    """Whether torch can compute with this floating-point dtype; not with 8 bits and fewer."""
    try:
        return torch.promote_types(dtype, torch.float32) in (torch.float32, torch.float64)
    except RuntimeError:
        return False
