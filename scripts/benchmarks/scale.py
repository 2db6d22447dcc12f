"""Time of a look for large models on many ranks: from measured costs of single matrices and the shares that are made.

Not in it: gathering sharded weights, which depends on the network, and the exchange of the results (a few kB).
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.clock import timed
from benchmarks.processes import shared_look
from hf_tempbalance.balance.distributed import share_out
from hf_tempbalance.spectra.analysis import decomposition_cost
from hf_tempbalance.spectra.eigenvalues import squared_singular_values


Shape = tuple[int, int]
# Name -> blocks, width, width of keys and values, width inside. Sizes of the published Llama models.
LLAMAS = {
    "1B": (16, 2048, 512, 8192),
    "8B": (32, 4096, 1024, 14336),
    "70B": (80, 8192, 1024, 28672),
    "405B": (126, 16384, 1024, 53248),
}
RANKS = (1, 8, 64, 256, 1024)
SIDES = (256, 512, 1024, 2048)
MEASURED = (6, 512, 256, 2048)  # of the model that is really shared here


def shapes_of(blocks: int, width: int, keys: int, inside: int) -> list[Shape]:
    """The matrices of a Llama without its vocabulary."""
    block = [(width, width)] * 2 + [(keys, width)] * 2 + [(inside, width)] * 3
    return block * blocks


def scale(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Predictions, and the same prediction beside runs of 1, 2 and 4 processes on this machine."""
    costs = measure_costs(options.device, options.rounds)
    print(
        "one matrix, one thread: " + ", ".join(f"{side} x {side}: {seconds:.3g} s" for side, seconds in costs.items())
    )
    rows = compare(costs, options.rounds) if options.device == "cpu" else []
    print(f"{'model':>6} " + " ".join(f"{f'{ranks} ranks':>12}" for ranks in RANKS))
    for name, sizes in LLAMAS.items():
        predicted = {ranks: predict(shapes_of(*sizes), ranks, costs) for ranks in RANKS}
        print(f"{name:>6} " + " ".join(f"{seconds:10.1f} s" for seconds in predicted.values()))
        rows.append({"model": name, "predicted": predicted})
    return rows


def measure_costs(device: str, rounds: int) -> dict[int, float]:
    """Side of a square matrix -> seconds of its decomposition, by one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {}
    for side in SIDES:
        matrix = torch.randn(1, side, side, device=device)
        squared_singular_values([matrix])
        look = partial(squared_singular_values, [matrix])
        found[side] = statistics.median(timed(look, device)[0] for _ in range(rounds))
    torch.set_num_threads(threads)
    return found


def seconds_of(shape: Shape, costs: dict[int, float]) -> float:
    """Seconds of one matrix: those of the nearest measured side, scaled by `decomposition_cost`."""
    nearest = min(costs, key=lambda side: abs(math.log(side / min(shape))))
    return costs[nearest] * decomposition_cost(1, *shape) / decomposition_cost(1, nearest, nearest)


def predict(shapes: list[Shape], ranks: int, costs: dict[int, float]) -> float:
    """Seconds until the rank with the most to do has ended, by the shares that the package makes."""
    owners = share_out([decomposition_cost(1, *shape) for shape in shapes], ranks)
    load = [0.0] * ranks
    for shape, owner in zip(shapes, owners, strict=True):
        load[owner] += seconds_of(shape, costs)
    return max(load)


def small_model() -> nn.Module:
    """The matrices that are measured here."""
    return nn.ModuleList(nn.Linear(columns, rows, bias=False) for rows, columns in shapes_of(*MEASURED))


def compare(costs: dict[int, float], rounds: int) -> list[dict[str, Any]]:
    """Prediction and measurement of a small model, shared by processes of one thread."""
    rows = []
    cores = os.cpu_count() or 1
    for processes in (1, 2, 4):
        # More processes than cores take turns.
        predicted = predict(shapes_of(*MEASURED), processes, costs) * max(1, processes / cores)
        measured = statistics.median(shared_look(small_model, processes, rounds)["together"])
        error = predicted / measured - 1
        print(f"{processes} processes here: predicted {predicted:.2f} s, measured {measured:.2f} s ({error:+.0%})")
        rows.append({"processes": processes, "predicted": predicted, "measured": measured})
    return rows
