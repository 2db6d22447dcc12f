"""Which solver computes the eigenvalues on an accelerator: the fastest one of a table that was measured there."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from ..files import read_json
from .cores import on_cores


TABLE_PATH = Path(__file__).with_name("solvers.json")
NEAR = 1.5  # an entry speaks for sides up to this factor from its own

_library = Lock()  # torch's preference is one for all threads


def way_of(side: int, batch: int, dtype: torch.dtype, backend: str) -> str:
    """The name in `WAYS` of the fastest solver for a batch of matrices.

    That of the entry with the nearest side, and of those the nearest batch, both as ratios. Where the table has no
    entry for the dtype whose side is within a factor of 1.5, or is of another backend, torch chooses. The CPU's
    cores are chosen only where as many are free as when they were measured.
    """
    table = solver_table()
    if table.get("backend") != backend:
        return "torch"
    name = str(dtype).removeprefix("torch.")
    rows = [row for row in table["rows"] if row["dtype"] == name]
    near = [row for row in rows if max(row["side"] / side, side / row["side"]) <= NEAR]
    if not near:
        return "torch"
    row = min(near, key=lambda row: (abs(math.log(row["side"] / side)), abs(math.log(row["batch"] / batch))))
    way = str(row["way"])
    has_cores = way != "cpu" or torch.get_num_threads() >= table["threads"]
    return way if way in WAYS and has_cores else "torch"


@functools.cache
def solver_table() -> dict[str, Any]:
    """The table of this installation: ``backend``, ``threads``, and ``rows`` of side, batch, dtype and way."""
    return read_json(TABLE_PATH)


def backend_of(device: torch.device) -> str:
    """What a table is made for: "cpu", "cuda", "rocm", "mps" ..."""
    return "rocm" if device.type == "cuda" and torch.version.hip is not None else device.type


def by_torch(gram: Tensor) -> Tensor:
    """As torch chooses; on a GPU by the side, the batch and the versions of its libraries."""
    # LAPACK's matrices are stored by columns: seen so, the lower triangle is the upper, and nothing is transposed.
    values: Tensor = torch.linalg.eigvalsh(gram.mT, UPLO="U")
    return values


def one_by_one(gram: Tensor) -> Tensor:
    """Without a batched solver; for larger matrices this is divide and conquer."""
    return torch.stack([by_torch(matrix) for matrix in gram])


def by_library(library: str, gram: Tensor) -> Tensor:
    """By cuSOLVER or MAGMA."""
    with _library:
        before = torch.backends.cuda.preferred_linalg_library()
        torch.backends.cuda.preferred_linalg_library(library)
        try:
            return by_torch(gram)
        finally:
            torch.backends.cuda.preferred_linalg_library(before)


def by_jacobi(gram: Tensor) -> Tensor:
    """As singular values, which are the eigenvalues of a positive semidefinite matrix; torch has it for them only."""
    whole = gram.tril() + gram.tril(-1).mT
    values: Tensor = torch.linalg.svdvals(whole, driver="gesvdj").flip(-1)
    return values


def on_cpu(gram: Tensor) -> Tensor:
    """By LAPACK on a copy, every core with matrices of its own."""
    return torch.stack(on_cores(by_torch, list(gram.cpu())))


# Gram matrices (k, side, side), of which the lower triangle is read -> eigenvalues (k, side), ascending.
WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "torch": by_torch,
    "one by one": one_by_one,
    "cusolver": functools.partial(by_library, "cusolver"),
    "magma": functools.partial(by_library, "magma"),
    "jacobi": by_jacobi,
    "cpu": on_cpu,
}
