"""What is raced: this package, a plain loop in the shape of the published codes, and WeightWatcher."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hf_tempbalance import TempBalanceConfig, analyze
from hf_tempbalance.cli.sources import open_source
from hf_tempbalance.config import Fit
from hf_tempbalance.spectra.analysis import analyze_weights
from hf_tempbalance.spectra.layers import find_layers


def ours(model: nn.Module, fit: Fit) -> dict[str, float]:
    """Layer -> alpha, by `analyze`."""
    return {s.name: s.alpha for s in analyze(model, TempBalanceConfig(fit=fit))}


def ours_file(model: nn.Module, fit: Fit, path: str) -> dict[str, float]:
    """The same of a safetensors file, as ``hf-tempbalance analyze`` does it."""
    config = TempBalanceConfig(fit=fit, exclude_first=False, exclude_last=False)
    return {s.name: s.alpha for s, _ in analyze_weights(open_source(path).weights, config)}


@torch.no_grad()
def loop(model: nn.Module, fit: Fit) -> dict[str, float]:
    """Singular values of one layer after the other, and a loop over the starts of the tail where the fit needs one."""
    found = {}
    for layer in find_layers(model):
        if layer.is_analysed:
            eigenvalues = torch.linalg.svdvals(layer.weight.stack()).square().flatten().sort().values
            fitted = median(eigenvalues) if fit == "median" else goodness_of_fit(eigenvalues)
            found[layer.name] = float(fitted)
    return found


def weightwatcher(model: nn.Module, fit: Fit) -> dict[str, float]:
    """WeightWatcher's ``analyze()`` with its defaults."""
    from weightwatcher import WeightWatcher

    details = WeightWatcher(model=model).analyze()
    return dict(zip(details["longname"], details["alpha"], strict=True))


def median(eigenvalues: Tensor) -> Tensor:
    tail = eigenvalues[len(eigenvalues) // 2 :]
    return 1 + len(tail) / (tail.log().sum() - len(tail) * tail[0].log())


def goodness_of_fit(eigenvalues: Tensor) -> Tensor:
    """alpha at the start with the smallest Kolmogorov-Smirnov distance, one start at a time."""
    eigenvalues = eigenvalues.double()
    logs = eigenvalues.log()
    best, best_alpha = 1.0, logs.new_zeros(())
    for i in range(len(eigenvalues) - 1):
        tail, n = eigenvalues[i:], len(eigenvalues) - i
        alpha = 1 + n / (logs[i:].sum() - n * logs[i])
        if alpha > 1:
            rank = torch.arange(n, device=tail.device) / n
            distance = (1 - (tail / tail[0]) ** (1 - alpha) - rank).abs().max()
            if distance < best:
                best, best_alpha = distance, alpha
    return best_alpha


CONTENDERS: dict[str, Callable[..., dict[str, float]]] = {
    "ours": ours,
    "ours, from a file": ours_file,
    "loop": loop,
    "WeightWatcher": weightwatcher,
}
