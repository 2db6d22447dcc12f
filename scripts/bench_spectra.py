"""Time and memory of a look at the weights, as ratios to plain loops in the same run.

    python scripts/bench_spectra.py --json runs/bench_spectra.json        # 3 minutes on 2 cores

Contenders: torch.linalg.svdvals on one layer after the other, and a loop over every possible start of the tail.
A ratio above 1 means that this package is faster. Memory is the growth of the resident set during one look, over the
size of all Gram matrices of one size and dtype in the model (the largest such batch).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from hf_tempbalance import analyze
from hf_tempbalance.layers import find_layers
from hf_tempbalance.parser import run
from hf_tempbalance.powerlaw import fit_power_law
from hf_tempbalance.spectra import squared_singular_values
from hf_tempbalance.weights import as_stack


def resnet(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        import hf_tempbalance.backbones  # noqa: F401  registers the name

        return timm.create_model(name, num_classes=100)

    return build


def bert_shapes(layers: int = 12) -> nn.Module:
    """The matrices of BERT-base's encoder: 4 of 768x768 and 2 of 768x3072 in each layer."""
    shapes = [(768, 768)] * 4 + [(768, 3072), (3072, 768)]
    return nn.Sequential(*(nn.Linear(a, b) for _ in range(layers) for a, b in shapes))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "ResNet18": resnet("resnet18_cifar"),
    "ResNet34": resnet("resnet34_cifar"),
    "VGG16": resnet("vgg16_cifar"),
    "WRN16-8": resnet("wrn16_8_cifar"),
    "BERT-base shapes": bert_shapes,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="timed repetitions of each contender")
    parser.add_argument("--device", default="cpu", help="where the weights are")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--memory-of", choices=MODELS, help=argparse.SUPPRESS)
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    options = parser.parse_args()
    if options.memory_of is not None:
        print(json.dumps(measure_memory(MODELS[options.memory_of]())))
        return
    rows = []
    print(f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads, {options.repeats} repeats")
    print(f"{'model':18} {'look':>9} {'svdvals loop':>13} {'ratio (min-max)':>20} {'memory / largest batch':>24}")
    for name, build in MODELS.items():
        torch.manual_seed(0)
        model = build().to(options.device)
        look, loop = race(lambda m=model: analyze(m), lambda m=model: svdvals_loop(m), options.repeats, options.device)
        memory = {} if options.device != "cpu" else memory_in_fresh_process(name)
        rows.append({"model": name, "look_seconds": look, "svdvals_seconds": loop, **memory})
        share = f"{memory['extra_bytes'] / memory['largest_batch_bytes']:.2f}" if memory else "-"
        print(f"{name:18} {min(look):8.3f}s {min(loop):12.3f}s {ratios(look, loop):>20} {share:>24}")
    torch.manual_seed(0)
    eigenvalues = eigenvalues_of_conv(512, options.device)
    fast, loop = race(
        lambda: fit_power_law(eigenvalues, fit="goodness-of-fit"),
        lambda: goodness_of_fit_loop(eigenvalues),
        options.repeats,
        options.device,
    )
    alpha = fit_power_law(eigenvalues, fit="goodness-of-fit").alpha.item()
    rows.append({"fit": "goodness-of-fit", "eigenvalues": len(eigenvalues), "seconds": fast, "loop_seconds": loop})
    print(f"goodness-of-fit over {len(eigenvalues)} eigenvalues: {min(fast):.4f}s, loop over xmin {min(loop):.4f}s,")
    print(f"ratio {ratios(fast, loop)}; alpha {alpha:.6f}, of the loop {goodness_of_fit_loop(eigenvalues):.6f}")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": options.device}
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n", encoding="utf-8")


def race(ours: Callable, other: Callable, repeats: int, device: str) -> tuple[list[float], list[float]]:
    """Seconds of each repetition, the two in turn, after one run of each that is not counted."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for contender, times in zip((ours, other), seconds, strict=True):
            start = time.perf_counter()
            contender()
            if device != "cpu":
                torch.accelerator.synchronize()
            if repeat:
                times.append(time.perf_counter() - start)
    return seconds


def ratios(ours: list[float], other: list[float]) -> str:
    each = [b / a for a, b in zip(ours, other, strict=True)]
    return f"{sum(other) / sum(ours):.2f} ({min(each):.2f}-{max(each):.2f})"


@torch.no_grad()
def svdvals_loop(model: nn.Module) -> None:
    """What a plain implementation does: singular values of each layer, one layer after the other."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            torch.linalg.svdvals(as_stack(module.weight, "conv2d")).square().flatten().sort()


def eigenvalues_of_conv(channels: int, device: str) -> torch.Tensor:
    conv = nn.Conv2d(channels, channels, 3, device=device)
    return squared_singular_values([as_stack(conv.weight, "conv2d")])[0].double()


def goodness_of_fit_loop(eigenvalues: torch.Tensor) -> float:
    """alpha at the start of the tail with the smallest Kolmogorov-Smirnov distance, found one start at a time."""
    logs = eigenvalues.log()
    best, best_alpha = 1.0, 0.0
    for i in range(len(eigenvalues) - 1):
        tail, n = eigenvalues[i:], len(eigenvalues) - i
        alpha = 1 + n / (logs[i:].sum() - n * logs[i])
        if alpha > 1:
            rank = torch.arange(n, device=tail.device) / n
            distance = (1 - (tail / tail[0]) ** (1 - alpha) - rank).abs().max()
            if distance < best:
                best, best_alpha = distance, alpha
    return float(best_alpha)


def memory_in_fresh_process(name: str) -> dict[str, int]:
    command = [sys.executable, __file__, "--memory-of", name]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure_memory(model: nn.Module) -> dict[str, int]:
    """Growth of the resident set to its peak during one look (Linux), after a small look that loads the libraries."""
    analyze(nn.Sequential(*(nn.Linear(64, 64) for _ in range(4))))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    analyze(model)
    batches: dict[int, int] = {}
    for layer in find_layers(model):
        side = min(layer.shape[:2])
        batches[side] = batches.get(side, 0) + layer.num_eigenvalues // side * side * side * 4
    return {"extra_bytes": resident("VmHWM") - before, "largest_batch_bytes": max(batches.values())}


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    run(main)
