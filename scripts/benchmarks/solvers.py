"""Which solver is the fastest for matrices of one side: seconds of each for a batch of square Gram matrices."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.clock import timed
from hf_tempbalance.spectra.cores import on_cores


SIDES = (32, 64, 128, 256, 512, 768, 1024, 2048)
# Matrices of one side: as many as a model has, and few enough for a round of seconds.
MOST, NUMBERS = 64, 1 << 23

Solver = Callable[[Tensor], Tensor]


def solvers(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds for a matrix, by side; what a solver can't do is said and is no result."""
    contenders = ON_CPU if options.device == "cpu" else ON_CUDA
    print(f"{'side':>5} {'matrices':>8} " + " ".join(f"{name:>19}" for name in contenders) + "  fastest")
    rows = []
    for side in SIDES:
        count = min(MOST, max(NUMBERS // side**2, 2))
        weights = torch.randn(count, side, side, generator=torch.Generator().manual_seed(side)).to(options.device)
        gram = weights @ weights.mT
        row: dict[str, Any] = {"side": side, "matrices": count, "seconds": {}, "failed": {}}
        exact = torch.linalg.eigvalsh(gram.cpu())
        for name, solve in contenders.items():
            try:
                error = (solve(gram).cpu() - exact).abs().max() / exact.max()
                if error > 1e-4:
                    raise RuntimeError(f"its values are off by {error:.1e} of the largest")
                row["seconds"][name] = [timed(partial(solve, gram), options.device)[0] for _ in range(options.rounds)]
            except RuntimeError as failure:
                row["failed"][name] = str(failure).splitlines()[0]
        middle = {name: 1e3 * statistics.median(times) / count for name, times in row["seconds"].items()}
        cells = (f"{middle[name]:16.3f} ms" if name in middle else f"{'-':>19}" for name in contenders)
        print(f"{side:5} {count:8} {' '.join(cells)}  {min(middle, key=middle.get)}", flush=True)
        rows.append(row)
    for reason in {f"{name}: {reason}" for row in rows for name, reason in row["failed"].items()}:
        print(reason)
    return rows


def one_on_each_core(gram: Tensor) -> Tensor:
    """LAPACK's eigenvalues, every core with matrices of its own; from a GPU they are copied."""
    return torch.stack(on_cores(torch.linalg.eigvalsh, list(gram.cpu())))


def in_float64(gram: Tensor) -> Tensor:
    """On a CPU one on each core; on a GPU torch's choice."""
    gram = gram.double()
    return torch.linalg.eigvalsh(gram) if gram.is_cuda else one_on_each_core(gram)


def one_after_the_other(gram: Tensor) -> Tensor:
    """Without a batched solver."""
    return torch.stack([torch.linalg.eigvalsh(matrix) for matrix in gram])


def by_library(library: str, gram: Tensor) -> Tensor:
    """A batch of eigenvalues by cuSOLVER or MAGMA."""
    before = torch.backends.cuda.preferred_linalg_library()
    torch.backends.cuda.preferred_linalg_library(library)
    try:
        return torch.linalg.eigvalsh(gram)
    finally:
        torch.backends.cuda.preferred_linalg_library(before)


def singular_values(driver: str | None, gram: Tensor) -> Tensor:
    """The same values of a Gram matrix; the drivers, Jacobi's method among them, are of these alone."""
    return torch.linalg.svdvals(gram, driver=driver).flip(-1)


ON_CPU: dict[str, Solver] = {
    "one on each core": one_on_each_core,
    "LAPACK's threads": torch.linalg.eigvalsh,
    "in float64": in_float64,
    "svdvals": partial(singular_values, None),
}
ON_CUDA: dict[str, Solver] = {
    "torch's choice": torch.linalg.eigvalsh,
    "in float64": in_float64,
    "one after the other": one_after_the_other,
    "cuSOLVER": partial(by_library, "cusolver"),
    "MAGMA": partial(by_library, "magma"),
    "Jacobi (gesvdj)": partial(singular_values, "gesvdj"),
    "batched (gesvda)": partial(singular_values, "gesvda"),
    "on the CPU's cores": one_on_each_core,
}
