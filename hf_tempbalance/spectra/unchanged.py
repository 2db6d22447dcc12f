"""Frozen weights that did not change since the last look are not decomposed again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

import torch
from torch import Tensor

from .weights import Weight


Result = TypeVar("Result")
Fingerprint = tuple[tuple[int, int, torch.dtype, tuple[int, ...]], ...]


class Unchanged(Generic[Result]):
    """Results of weights, as long as torch's version counters say that nobody has written into them.

    Only of weights that are frozen with all that belongs to them: an optimizer of others may write past the counters
    (through ``.data``, or in a kernel of its own), and a stale exponent would steer it.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Fingerprint, Result]] = {}

    def get(self, weight: Weight) -> Result | None:
        """The result that was kept of this weight; None if there is none, or the weight may have changed."""
        kept = self._kept.get(weight.name)
        return kept[1] if kept is not None and kept[0] == _fingerprint(weight) else None

    def keep(self, results: Iterable[tuple[Weight, Result]]) -> None:
        """Keep the results of those weights that can be known not to change."""
        prints = [(weight, _fingerprint(weight), result) for weight, result in results]
        self._kept = {weight.name: (mark, result) for weight, mark, result in prints if mark is not None}


def _fingerprint(weight: Weight) -> Fingerprint | None:
    """Which memory, and how often it was written; None where that can't be known."""
    if weight.adapters:  # switched on and off, scaled and merged without a tensor being written into
        return None
    tensors = (weight.tensor, *weight.parameters)
    if any(tensor.requires_grad or hasattr(tensor, "ds_id") for tensor in tensors):
        return None
    return tuple(_state_of(getattr(tensor, "_local_tensor", tensor)) for tensor in tensors)


def _state_of(tensor: Tensor) -> tuple[int, int, torch.dtype, tuple[int, ...]]:
    # A tensor made under inference mode has no counter, and nothing can be written into it outside.
    version = 0 if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version, tensor.dtype, tuple(tensor.shape)
