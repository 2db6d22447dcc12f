"""A look that several processes of one thread share, as under DDP: every one holds all weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from benchmarks.clock import timed
from hf_tempbalance import analyze
from hf_tempbalance.balance.spectrum_job import analyze_together


def shared_look(build: Callable[[], nn.Module], processes: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of a look in each round, after one that is not counted: "together" by all, "alone" by one of them.

    Args:
        build: makes the same model in every process; a function of a module.
    """
    queue = mp.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_worker, (processes, build, rounds, str(Path(folder, "meeting")), queue), processes)
    return queue.get()


def _worker(rank: int, processes: int, build: Callable[[], nn.Module], rounds: int, meeting: str, queue: Any) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build()
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=processes)

    def together() -> None:
        analyze_together(model)
        dist.barrier()

    found: dict[str, list[float]] = {"together": [], "alone": []}
    for _ in range(rounds + 1):
        dist.barrier()
        found["together"].append(timed(together)[0])
        if rank == 0:
            found["alone"].append(timed(lambda: analyze(model))[0])
        dist.barrier()
    if rank == 0:
        queue.put({what: seconds[1:] for what, seconds in found.items()})
    dist.destroy_process_group()
