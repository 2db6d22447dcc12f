"""What virtual groups cost: an optimizer step with a rate for each layer against the plain one, in turn.

    python scripts/bench_step.py                        ResNet-18, and 400 groups; SGD with momentum, fused AdamW
    python scripts/bench_step.py --device cuda

Columns: "balanced" has another multiplier for every layer; "equal" the same for all, so the views are merged into one;
"real groups" is plain torch with a parameter group for each layer, which is what a layer-wise rate costs torch itself.
Ratios to the plain step, median of pairs with the quartiles.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from hf_tempbalance import TempBalancer


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD, momentum": lambda groups: torch.optim.SGD(groups, lr=1e-4, momentum=0.9, weight_decay=5e-4),
    "AdamW, fused": lambda groups: torch.optim.AdamW(groups, lr=1e-5, fused=True),
}


def resnet18() -> nn.Module:
    import timm

    import hf_tempbalance.tasks.backbones  # noqa: F401  registers the *_cifar networks

    return timm.create_model("resnet18_cifar", num_classes=100)


def many_layers() -> nn.Module:
    """402 linear layers of width 160, 400 of them tuned: 10 million parameters, as ResNet-18 has."""
    return nn.Sequential(*(nn.Linear(160, 160, bias=False) for _ in range(402)))


MODELS = {"ResNet-18": resnet18, "400 groups": many_layers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads, {options.rounds} rounds")
    print("| model | optimizer | groups | plain, ms | balanced | equal | real groups | plain again |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, make in MODELS.items():
        for kind, make_optimizer in OPTIMIZERS.items():
            print("| " + " | ".join([name, kind, *measure(make().to(options.device), make_optimizer, options)]) + " |")


def measure(model: nn.Module, make: Callable[..., torch.optim.Optimizer], options: argparse.Namespace) -> list[str]:
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    balanced, equal = make(model.parameters()), make(model.parameters())
    balancer = TempBalancer(model, balanced)
    balancer.rebalance()
    TempBalancer(model, equal)  # every multiplier is 1 before the first look
    by_rate: dict[float, list[nn.Parameter]] = {}
    multipliers = balancer.lr_multipliers
    for key, parameter in model.named_parameters():
        by_rate.setdefault(multipliers[key], []).append(parameter)
    contenders = {
        "plain": make(model.parameters()),
        "balanced": balanced,
        "equal": equal,
        "real groups": make([{"params": members} for members in by_rate.values()]),
        "plain again": make(model.parameters()),
    }
    for optimizer in contenders.values():
        for _ in range(10):
            optimizer.step()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name in random.sample(list(contenders), len(contenders)):
            times[name].append(timed(contenders[name].step, options.device))
    ratios = {
        name: [other / plain for plain, other in zip(times["plain"], times[name], strict=True)] for name in times
    }
    columns = ("balanced", "equal", "real groups", "plain again")
    milliseconds = f"{statistics.median(times['plain']) * 1e3:.2f}"
    return [str(len(by_rate)), milliseconds, *(spread(ratios[name]) for name in columns)]


def timed(step: Callable[[], None], device: str) -> float:
    synchronise = torch.accelerator.synchronize if device != "cpu" else lambda: None
    synchronise()
    start = time.perf_counter()
    step()
    synchronise()
    return time.perf_counter() - start


def spread(ratios: list[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f} ({low:.3f}-{high:.3f})"


if __name__ == "__main__":
    main()
