"""From matrices to eigenvalues: stacks of matrices -> ascending squared singular values."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor

from .cores import on_cores
from .solvers import WAYS, backend_of, by_torch, way_of


# Gram matrices held at once, for all layers whose smaller side is equal. An accelerator wants large batches; LAPACK
# solves a batch one by one, so on a CPU small chunks cost nothing and can be spread over the cores.
MAX_BATCH_BYTES = 256 << 20
CPU_BATCH_BYTES = 1 << 20
GRAM_BLOCK = 128


class MatrixStack(Protocol):
    """A stack of k matrices (m, n): a 3-d tensor, or an object that computes each matrix when it is asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(k, m, n)."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the numbers."""

    @property
    def device(self) -> torch.device:
        """Where they are."""

    def __getitem__(self, k: Any) -> Any:
        """One matrix, or with a slice a stack of several."""


class InFloat64:
    """A stack in float64, cast when they are asked for; on the CPU where an accelerator lacks the dtype."""

    def __init__(self, stack: MatrixStack) -> None:
        self._stack = stack
        self.shape, self.dtype = stack.shape, torch.float64
        self.device = stack.device if stack.device.type in ("cpu", "cuda") else torch.device("cpu")

    def __getitem__(self, k: Any) -> Any:
        """One matrix in float64, or with a slice several that are still to be cast."""
        return InFloat64(self._stack[k]) if isinstance(k, slice) else self._stack[k].to(self.device).double()


@torch.no_grad()
def squared_singular_values(stacks: Sequence[MatrixStack], max_batch_bytes: int = MAX_BATCH_BYTES) -> list[Tensor]:
    r"""Eigenvalues of W^T W for every matrix of every stack, pooled by stack.

    They are computed as eigenvalues of the smaller Gram matrix, W W^T or W^T W, which has the same non-zero ones.

    Args:
        stacks: each (k, m, n), any floating-point dtype and device. float64 stays float64; half-precision dtypes
            are cast up to float32, one matrix at a time.
        max_batch_bytes: of Gram matrices that are held at once, by each core; a larger one is held alone. The values
            do not depend on it; on a GPU by rounding errors, where another batch has another solver.

    Returns:
        For each stack its k * min(m, n) values, 1-d, ascending, on its device, in units of weight squared. Values
        below the rounding error of the solver (eps * sqrt(min(m, n)) times the largest of the matrix) are 0:
        nothing can be said about them. All values of a stack with NaN or infinity (or whose squares overflow) are NaN;
        other stacks are not affected.
    """
    chunks = list(_chunks(stacks, max_batch_bytes))
    on_cpu = [chunk for chunk in chunks if stacks[chunk[0][0]].device.type == "cpu"]
    solved = dict(zip(map(id, on_cpu), on_cores(lambda chunk: _solve(stacks, chunk), on_cpu), strict=True))
    pooled: list[list[Tensor]] = [[] for _ in stacks]
    for chunk in chunks:
        values = solved[id(chunk)] if id(chunk) in solved else _solve(stacks, chunk)
        for (index, _), row in zip(chunk, values, strict=True):
            pooled[index].append(row)
    return [_pool(rows, stack) for rows, stack in zip(pooled, stacks, strict=True)]


def _compute_dtype(stack: MatrixStack) -> torch.dtype:
    return torch.promote_types(stack.dtype, torch.float32)


def _chunks(stacks: Sequence[MatrixStack], max_batch_bytes: int) -> Iterator[list[tuple[int, int]]]:
    """Matrices, as (stack, position in it), whose Gram matrices have one size, dtype and device. Largest first."""
    groups: dict[tuple[int, torch.dtype, torch.device], list[tuple[int, int]]] = defaultdict(list)
    for index, stack in enumerate(stacks):
        if math.prod(stack.shape):
            side = min(stack.shape[1:])
            groups[side, _compute_dtype(stack), stack.device].extend((index, k) for k in range(stack.shape[0]))
    for side, dtype, device in sorted(groups, key=lambda key: -key[0]):
        limit = min(max_batch_bytes, CPU_BATCH_BYTES) if device.type == "cpu" else max_batch_bytes
        size = max(limit // (side * side * dtype.itemsize), 1)
        matrices = groups[side, dtype, device]
        yield from (matrices[start : start + size] for start in range(0, len(matrices), size))


@torch.no_grad()  # grad mode belongs to a thread, and this one may run on a worker
def _solve(stacks: Sequence[MatrixStack], chunk: list[tuple[int, int]]) -> Tensor:
    """Ascending eigenvalues (len(chunk), side) of the chunk's Gram matrices."""
    first = stacks[chunk[0][0]]
    side = min(first.shape[1:])
    gram = torch.empty((len(chunk), side, side), dtype=_compute_dtype(first), device=first.device)
    row = 0
    for index, run in groupby(chunk, key=lambda pair: pair[0]):
        positions = [k for _, k in run]
        part = stacks[index][positions[0] : positions[-1] + 1]
        _fill_grams(gram[row : row + len(positions)], part)
        row += len(positions)
    # The diagonal bounds every entry, so it alone tells whether all are finite; LAPACK raises on NaN.
    finite = torch.isfinite(gram.diagonal(dim1=1, dim2=2)).all(1)
    gram[~finite] = 0
    values = _eigvalsh(gram).to(gram.device)
    noise = values[:, -1:] * torch.finfo(gram.dtype).eps * side**0.5
    values = torch.where(values > noise, values, 0)
    return torch.where(finite.unsqueeze(1), values, torch.nan)


def _fill_grams(grams: Tensor, part: MatrixStack) -> None:
    """Gram matrices (k, side, side) of k matrices; their lower triangles at least, all that `_eigvalsh` reads."""
    count, side, _ = grams.shape
    if grams.device.type != "cpu" and isinstance(part, Tensor) and part.is_contiguous() and side <= GRAM_BLOCK:
        matrices = part.to(grams.dtype)  # small ones, windows above all: one kernel instead of one for each
        matrices = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
        torch.bmm(matrices, matrices.mT, out=grams)
        return
    for k in range(count):
        # A kernel position's numbers are strided; each product below would gather them again.
        matrix = part[k].to(grams.dtype).contiguous()
        if matrix.shape[0] > matrix.shape[1]:
            matrix = matrix.mT
        for start in range(0, side, GRAM_BLOCK):
            # The lower triangle alone: 5/8 of the work with four blocks, 9/16 with eight.
            stop = min(start + GRAM_BLOCK, side)
            torch.mm(matrix[start:stop], matrix[:stop].mT, out=grams[k, start:stop, :stop])


def _eigvalsh(gram: Tensor) -> Tensor:
    way = way_of(gram.shape[-1], gram.shape[0], gram.dtype, backend_of(gram.device))
    if way != "torch":
        # What was fastest where the table was made can be missing in this build of torch, or fail to converge.
        with suppress(RuntimeError):
            return WAYS[way](gram)
    try:
        return by_torch(gram)
    except (NotImplementedError, torch.linalg.LinAlgError):
        # Not every backend has the solver (MPS), and cuSOLVER's batched one can fail to converge. LAPACK's does not.
        return by_torch(gram.cpu())


def _pool(rows: list[Tensor], stack: MatrixStack) -> Tensor:
    if not rows:
        return torch.empty(0, dtype=_compute_dtype(stack), device=stack.device)
    values = torch.cat(rows)
    # One bad kernel position makes the layer's spectrum unusable: half of it would look like a healthy layer.
    return values.sort().values if torch.isfinite(values).all() else torch.full_like(values, torch.nan)
