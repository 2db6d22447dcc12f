"""A look shared by several processes against one process alone, one thread each, on a stack of BERT-base shapes.

    python scripts/bench_distributed.py                 2 processes, DDP
    python scripts/bench_distributed.py --processes 4

Every process holds all weights, as under DDP, and decomposes its share; the results are exchanged.
Also prints what one multiplication of two matrices and one set of eigenvalues cost, the ratio behind the shares.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from hf_tempbalance import analyze
from hf_tempbalance.balance.distributed import share_out
from hf_tempbalance.balance.spectrum_job import analyze_together


def bert_shapes() -> nn.Module:
    """The 72 matrices of the encoder of BERT-base."""
    torch.manual_seed(0)
    block = [(768, 768)] * 4 + [(768, 3072), (3072, 768)]
    return nn.Sequential(*(nn.Linear(*shape) for _ in range(12) for shape in block))


def worker(rank: int, processes: int, repeats: int, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    model = bert_shapes()
    dist.init_process_group("gloo", rank=rank, world_size=processes)
    shared, alone = [], []
    for _ in range(repeats + 1):
        dist.barrier()
        shared.append(timed(lambda: analyze_together(model)))
        dist.barrier()
        alone.append(timed(lambda: analyze(model)) if rank == 0 else 0.0)
        dist.barrier()
    if rank == 0:
        ratios = [one / other for one, other in zip(shared[1:], alone[1:], strict=True)]
        seconds, seconds_shared = statistics.mean(alone[1:]), statistics.mean(shared[1:])
        print(f"one process {seconds:.2f} s, {processes} processes {seconds_shared:.2f} s")
        print(f"ratio {statistics.mean(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f}) over {repeats} repeats")
    dist.destroy_process_group()


def timed(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def eigenvalue_cost(side: int) -> float:
    """Time of the eigenvalues of a side x side matrix over that of one product of two such matrices."""
    torch.set_num_threads(1)
    matrix = torch.randn(side, side)
    gram = matrix @ matrix.mT
    product = min(timed(lambda: matrix @ matrix) for _ in range(10))
    return min(timed(lambda: torch.linalg.eigvalsh(gram)) for _ in range(10)) / product


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--port", type=int, default=29561)
    options = parser.parse_args()
    costs = ", ".join(f"{side}: {eigenvalue_cost(side):.1f}" for side in (128, 256, 512, 768, 1024))
    print(f"eigenvalues / matrix product, by side: {costs}")
    owners = share_out([1.0] * 48 + [2.5] * 24, options.processes)
    print(f"layers of each process: {[owners.count(rank) for rank in range(options.processes)]}")
    mp.spawn(worker, (options.processes, options.repeats, options.port), options.processes)


if __name__ == "__main__":
    main()
