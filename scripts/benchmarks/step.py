"""What virtual groups cost: an optimizer step with a rate for each layer against the plain one, in turn.

ResNet-18, and 400 groups; SGD with momentum, fused AdamW. Columns: "tuned" has another multiplier for every layer;
"both" multiplies the weight decay as well; "equal" the same for all, so the views are merged into one; "real groups"
is plain torch with a parameter group for each rate, which is what a layer-wise rate costs torch itself. Ratios to the
plain step, and of "both" to "real groups"; median of pairs with the quartiles.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from benchmarks.clock import timed
from benchmarks.models import TINY, build
from hf_tempbalance import TempBalanceConfig, TempBalancer


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD, momentum": lambda groups: torch.optim.SGD(groups, lr=1e-4, momentum=0.9, weight_decay=5e-4),
    "AdamW, fused": lambda groups: torch.optim.AdamW(groups, lr=1e-5, fused=True),
}


def many_layers(count: int = 402) -> nn.Module:
    """Linear layers of width 160, all but two of them tuned: 402 have 10 million parameters, as ResNet-18 has."""
    return nn.Sequential(*(nn.Linear(160, 160, bias=False) for _ in range(count)))


COLUMNS = ("tuned", "both", "equal", "real groups", "plain again")
MODELS = {"ResNet-18": partial(build, "ResNet18"), "400 groups": many_layers, TINY: partial(many_layers, 6)}


def steps(options: argparse.Namespace) -> list[dict[str, str]]:
    """A table: milliseconds of a plain step, and the ratios of the others to it."""
    rounds = 40 * options.rounds  # a step takes milliseconds
    columns = ["model", "optimizer", "rates", "plain, ms", *COLUMNS, "both / real groups"]
    print(f"{rounds} pairs\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    rows = []
    for name in [TINY] if options.tiny else [name for name in MODELS if name != TINY]:
        for kind, make_optimizer in OPTIMIZERS.items():
            cells = [name, kind, *measure(MODELS[name]().to(options.device), make_optimizer, options.device, rounds)]
            print(f"| {' | '.join(cells)} |", flush=True)
            rows.append(dict(zip(columns, cells, strict=True)))
    return rows


def measure(model: nn.Module, make: Callable[..., torch.optim.Optimizer], device: str, rounds: int) -> list[str]:
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    tuned, both, equal = (make(model.parameters()) for _ in range(3))
    balancer = TempBalancer(model, tuned)
    balancer.rebalance()
    TempBalancer(model, both, TempBalanceConfig(target="both")).rebalance()
    TempBalancer(model, equal)  # every multiplier is 1 before the first look
    by_rate: dict[float, list[nn.Parameter]] = {}
    multipliers = balancer.lr_multipliers
    for key, parameter in model.named_parameters():
        by_rate.setdefault(multipliers[key], []).append(parameter)
    contenders = {
        "plain": make(model.parameters()),
        "tuned": tuned,
        "both": both,
        "equal": equal,
        "real groups": make([{"params": members} for members in by_rate.values()]),
        "plain again": make(model.parameters()),
    }
    for optimizer in contenders.values():
        for _ in range(10):
            optimizer.step()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name in random.sample(list(contenders), len(contenders)):
            times[name].append(timed(contenders[name].step, device)[0])
    ratios = {
        name: [other / plain for plain, other in zip(times["plain"], times[name], strict=True)] for name in times
    }
    milliseconds = f"{statistics.median(times['plain']) * 1e3:.2f}"
    against_groups = [one / other for one, other in zip(times["both"], times["real groups"], strict=True)]
    return [str(len(by_rate)), milliseconds, *(spread(ratios[name]) for name in COLUMNS), spread(against_groups)]


def spread(ratios: list[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f} ({low:.3f}-{high:.3f})"
