"""Several processes: who analyses which layer, and how all come to hold the same results to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.distributed as dist


def rank_and_size() -> tuple[int, int]:
    """This process's number and how many there are in the default process group; (0, 1) without one."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def share_out(costs: Sequence[float], size: int) -> list[int]:
    """The rank that does each job, so that the largest sum of costs of a rank is small; the same on every rank.

    Largest job first, each to the rank with the least to do: at most 4/3 of the best possible (Graham, "Bounds on
    multiprocessing timing anomalies", 1969).
    """
    load = [0.0] * size
    owners = [0] * len(costs)
    for job in sorted(range(len(costs)), key=lambda job: -costs[job]):
        owners[job] = min(range(size), key=load.__getitem__)
        load[owners[job]] += costs[job]
    return owners


def exchange(value: Any) -> list[Any]:
    """Every rank's value (anything that can be pickled), in the order of ranks. Each rank has to call it."""
    _, size = rank_and_size()
    if size == 1:
        return [value]
    values: list[Any] = [None] * size
    dist.all_gather_object(values, value)
    return values


def from_first_rank(value: Any) -> Any:
    """Rank 0's value on every rank. Each rank has to call it."""
    _, size = rank_and_size()
    if size == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]
