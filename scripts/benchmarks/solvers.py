"""Which solver is the fastest for matrices of one side: seconds of each for a batch of square Gram matrices.

On an accelerator the contenders are the ways of hf_tempbalance/spectra/solvers.py, for several batches and both
dtypes, and --write-table FILE writes the table that the package chooses by.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.clock import timed
from hf_tempbalance.files import write_json
from hf_tempbalance.spectra.solvers import TABLE_PATH, WAYS, backend_of, on_cpu


SIDES = (32, 64, 128, 256, 512, 768, 1024, 2048)
# Matrices of one side: as many as a model has, and few enough for a round of seconds.
MOST, NUMBERS = 64, 1 << 23
# On an accelerator; the last is as many numbers as a look has at once.
GPU_SIDES, GPU_BATCHES, GPU_NUMBERS = (*SIDES, 4096, 8192), (1, 8, 64, 512), 1 << 26
PATIENCE = 5.0  # seconds: what is expected to take longer is not tried
CHECKED = 4  # matrices of a batch whose values are compared with those in float64
MARGIN = 1.2  # so many times faster than torch's choice, or the table says torch: other cards and versions differ

Solver = Callable[[Tensor], Tensor]


def solvers(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Milliseconds for a matrix, by side; what a solver can't do is said and is no result."""
    table = target_of(options)
    by_way = options.device != "cpu" or table is not None
    contenders: dict[str, Solver] = WAYS if by_way else ON_CPU
    print(f"{'dtype':>7} {'side':>5} {'matrices':>8} " + " ".join(f"{name:>19}" for name in contenders) + "  fastest")
    rows: list[dict[str, Any]] = []
    for dtype, side, count in cases(options, by_way=by_way):
        slower = next((r for r in reversed(rows) if r["dtype"] == dtype and r["side"] < side), None)
        row = measure(contenders, dtype, side, count, slower, options)
        middle = {name: 1e3 * statistics.median(times) / count for name, times in row["seconds"].items()}
        cells = (f"{middle[name]:16.3f} ms" if name in middle else f"{'-':>19}" for name in contenders)
        fastest = min(middle, key=middle.__getitem__, default="none")
        print(f"{dtype:>7} {side:5} {count:8} {' '.join(cells)}  {fastest}", flush=True)
        rows.append(row)
        if table is not None:
            write_json(table, table_of(rows, options.device))
        yield row
    for reason in {f"{name}: {reason}" for row in rows for name, reason in row["failed"].items()}:
        print(reason)


def target_of(options: argparse.Namespace) -> Path | None:
    """The file of --write-table. Raises ValueError where a CPU's table would become that of the package."""
    table = getattr(options, "write_table", None)
    if table is not None and options.device == "cpu" and Path(table) == TABLE_PATH:
        raise ValueError("--write-table: the package's table is that of a GPU. Give --device cuda, or another FILE.")
    return table


def cases(options: argparse.Namespace, *, by_way: bool) -> Iterator[tuple[str, int, int]]:
    """dtype, side and number of matrices of each row, larger sides later."""
    chosen = getattr(options, "sides", None)
    if not by_way:
        yield from (("float32", side, min(MOST, max(NUMBERS // side**2, 2))) for side in chosen or SIDES)
        return
    for side in chosen or GPU_SIDES:
        for dtype in ("float32", "float64"):
            yield from ((dtype, side, count) for count in GPU_BATCHES if count == 1 or count * side**2 <= GPU_NUMBERS)


def measure(
    contenders: dict[str, Solver],
    dtype: str,
    side: int,
    count: int,
    smaller: dict[str, Any] | None,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """A row: the seconds of each round, and why there are none."""
    random = torch.Generator().manual_seed(side)
    weights = torch.randn(min(count, CHECKED), side, side, generator=random, dtype=getattr(torch, dtype))
    gram = (weights @ weights.mT).to(options.device)
    gram = gram.repeat(math.ceil(count / len(gram)), 1, 1)[:count].contiguous()
    some = gram[:CHECKED].double()
    exact = (on_cpu(some) if side <= 1024 or options.device == "cpu" else torch.linalg.eigvalsh(some)).cpu()
    row: dict[str, Any] = {"dtype": dtype, "side": side, "matrices": count, "seconds": {}, "failed": {}}
    for name, solve in contenders.items():
        try:
            refuse_what_takes_too_long(name, row, smaller)
            first, values = timed(partial(solve, gram), options.device)
            error = (values[:CHECKED].cpu() - exact).abs().max() / exact.max()
            if not error <= 1e-4:  # NaN is no value either
                raise RuntimeError(f"its values are off by {error:.1e} of the largest")
            rounds = options.rounds if first < 0.1 else min(options.rounds, 2)
            again = [timed(partial(solve, gram), options.device)[0] for _ in range(rounds if first < 1 else 0)]
            row["seconds"][name] = again or [first]  # where a start is nothing against it
        except RuntimeError as failure:
            row["failed"][name] = str(failure).splitlines()[0]
    return row


def refuse_what_takes_too_long(name: str, row: dict[str, Any], smaller: dict[str, Any] | None) -> None:
    """By the cube of the side, from a smaller one; torch's choice is what all others are compared with."""
    if smaller is None or name == "torch":
        return
    if smaller["failed"].get(name, "").startswith("too slow"):
        raise RuntimeError(smaller["failed"][name])
    times = smaller["seconds"].get(name)
    if times:
        each = statistics.median(times) / smaller["matrices"] * (row["side"] / smaller["side"]) ** 3
        if each * row["matrices"] > PATIENCE:
            raise RuntimeError(f"too slow: from side {row['side']} more than {PATIENCE:g} s are expected")


def table_of(rows: list[dict[str, Any]], device: str) -> dict[str, Any]:
    """What hf_tempbalance/spectra/solvers.json has: the fastest way of each row, torch's where the lead is small."""
    where = torch.device(device)
    entries = []
    for row in rows:
        middle = {name: statistics.median(times) for name, times in row["seconds"].items()}
        if middle:
            best = min(middle, key=middle.__getitem__)
            way = best if middle[best] * MARGIN < middle.get("torch", math.inf) else "torch"
            entries.append({"side": row["side"], "batch": row["matrices"], "dtype": row["dtype"], "way": way})
    return {
        "backend": backend_of(where),
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else where.type,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "rows": entries,
    }


def in_float64(gram: Tensor) -> Tensor:
    """One on each core."""
    return on_cpu(gram.double())


ON_CPU: dict[str, Solver] = {
    "one on each core": on_cpu,
    "LAPACK's threads": torch.linalg.eigvalsh,
    "in float64": in_float64,
    "svdvals": lambda gram: torch.linalg.svdvals(gram).flip(-1),
}
