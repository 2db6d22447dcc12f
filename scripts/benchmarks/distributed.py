"""A look shared by several processes against one process alone, one thread each, on the matrices of BERT-base.

Also what a set of eigenvalues costs in products of two such matrices: the ratio behind the shares.
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.clock import timed
from benchmarks.processes import shared_look
from benchmarks.race import ratio
from hf_tempbalance.balance.distributed import share_out
from hf_tempbalance.spectra.analysis import decomposition_cost


BLOCK = [(768, 768)] * 4 + [(768, 3072), (3072, 768)]
SIDES = (128, 256, 512, 768, 1024)


def bert_matrices() -> nn.Module:
    """The 72 matrices of the encoder."""
    return nn.Sequential(*(nn.Linear(*shape) for shape in BLOCK * 12))


def distributed(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds of one process and of several, and the ratio of the rounds."""
    costs = {side: eigenvalue_cost(side) for side in SIDES}
    print(f"eigenvalues / matrix product, by side: {', '.join(f'{side}: {cost:.1f}' for side, cost in costs.items())}")
    owners = share_out([decomposition_cost(1, *shape) for shape in BLOCK * 12], options.processes)
    print(f"layers of each process: {[owners.count(rank) for rank in range(options.processes)]}")
    seconds = shared_look(bert_matrices, options.processes, options.rounds)
    middle, low, high = ratio(seconds["alone"], seconds["together"])
    alone, together = (statistics.median(seconds[what]) for what in ("alone", "together"))
    print(
        f"one process {alone:.2f} s, {options.processes} processes {together:.2f} s: "
        f"{middle:.2f} ({low:.2f}-{high:.2f}) of its time"
    )
    return [{"processes": options.processes, "seconds": seconds, "eigenvalue_cost": costs}]


def eigenvalue_cost(side: int) -> float:
    """Time of the eigenvalues of a side x side matrix over that of one product of two such matrices, by one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    matrix = torch.randn(side, side)
    gram = matrix @ matrix.mT
    jobs = (partial(torch.linalg.eigvalsh, gram), partial(torch.matmul, matrix, matrix))
    eigenvalues, product = (min(timed(job)[0] for _ in range(10)) for job in jobs)
    torch.set_num_threads(threads)
    return eigenvalues / product
