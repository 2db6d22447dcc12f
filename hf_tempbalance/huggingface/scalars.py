"""The numbers that a look gives to the trackers: few enough for a dashboard, however many layers there are."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from ..balance.look import Look
from ..spectra.analysis import LayerSpectrum


LogLayers = Literal["parts", "all"]
LAYER_KEYS = ("tempbalance/alpha/", "tempbalance/multiplier/")
FEWEST_PARTS, MOST_PARTS = 4, 16


def summary(look: Look) -> dict[str, float]:
    """Mean, deviation and range of the tuned layers' alpha, mean and range of their multipliers, time of the look."""
    alphas = [s.alpha for s in look.spectra if s.is_tuned and math.isfinite(s.alpha)]
    scalars = {
        "multiplier_mean": look.multiplier_mean,
        "multiplier_min": min(look.multipliers.values()),
        "multiplier_max": max(look.multipliers.values()),
        "seconds": look.seconds,
    }
    if look.in_force != look.step:  # it went on beside training
        scalars["waited"] = look.waited
    if alphas:
        scalars |= {
            "alpha_mean": float(np.mean(alphas)),
            "alpha_min": min(alphas),
            "alpha_max": max(alphas),
            "alpha_std": float(np.std(alphas)),
        }
    return {f"tempbalance/{key}": value for key, value in sorted(scalars.items())}


def per_layer(spectra: list[LayerSpectrum], multipliers: dict[str, float], which: LogLayers) -> dict[str, float]:
    """alpha and multiplier of each tuned layer ("all"), or their means over the parts of the network ("parts").

    The keys are ``tempbalance/alpha/NAME`` and ``tempbalance/multiplier/NAME``. A layer without a finite alpha has no
    alpha here.
    """
    tuned = [s for s in spectra if s.is_tuned]
    names = [s.name for s in tuned]
    part_of = dict(zip(names, names, strict=True)) if which == "all" else parts(names)
    numbers: dict[str, list[float]] = {}
    for spectrum in tuned:
        if math.isfinite(spectrum.alpha):
            numbers.setdefault(f"{LAYER_KEYS[0]}{part_of[spectrum.name]}", []).append(spectrum.alpha)
        multiplier = multipliers.get(spectrum.name, 1.0)
        numbers.setdefault(f"{LAYER_KEYS[1]}{part_of[spectrum.name]}", []).append(multiplier)
    return {key: float(np.mean(values)) for key, values in numbers.items()}


def parts(names: list[str]) -> dict[str, str]:
    """Divide layers, in order, into at most 16 parts by their names: stages of a ResNet, blocks of a transformer.

    The names are cut at the first dot that leaves 4 parts or more; more than 16 are joined with their neighbours.

    Returns:
        Layer -> name of its part, such as "layer1" or, of joined ones, "model.layers.0-model.layers.1".

    >>> parts(["layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "layer3.0.conv1", "layer4.0.conv1"])
    {'layer1.0.conv1': 'layer1', 'layer1.0.conv2': 'layer1', 'layer2.0.conv1': 'layer2', ...}
    """
    depth = 1
    deepest = max((name.count(".") + 1 for name in names), default=1)
    while depth < deepest and len({_cut(name, depth) for name in names}) < FEWEST_PARTS:
        depth += 1
    prefixes = list(dict.fromkeys(_cut(name, depth) for name in names))
    size = math.ceil(len(prefixes) / MOST_PARTS) or 1
    part_of_prefix: dict[str, str] = {}
    for start in range(0, len(prefixes), size):
        joined = prefixes[start : start + size]
        label = joined[0] if len(joined) == 1 else f"{joined[0]}-{joined[-1]}"
        part_of_prefix |= dict.fromkeys(joined, label)
    return {name: part_of_prefix[_cut(name, depth)] for name in names}


def _cut(name: str, depth: int) -> str:
    return ".".join(name.split(".")[:depth])
