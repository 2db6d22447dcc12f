"""Looks that differ in what is computed: whole matrices, windows of one aspect ratio, no spectrum at all."""

from __future__ import annotations

import argparse
import statistics
from functools import partial
from typing import Any

from benchmarks.clock import timed
from benchmarks.models import MODELS
from hf_tempbalance import TempBalanceConfig, analyze


PRESETS = ["tempbalance", "farms", "shape-free", "llrd"]


def methods(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds of a look under some presets, in turn, and their ratios to the plain one."""
    rows = []
    for name in options.model or ["ResNet18", "BERT-base"]:
        model = MODELS[name]().to(options.device)
        configs = {preset: TempBalanceConfig.preset(preset) for preset in PRESETS}
        seconds: dict[str, list[float]] = {preset: [] for preset in PRESETS}
        for _ in range(options.rounds + 1):
            for preset, config in configs.items():
                seconds[preset].append(timed(partial(analyze, model, config), options.device)[0])
        plain = statistics.median(seconds["tempbalance"][1:])
        for preset, times in seconds.items():
            middle = statistics.median(times[1:])  # the first warms up
            print(f"{name:12} {preset:14} {middle:8.3f} s, {middle / plain:.2f} of the plain look", flush=True)
        rows.append({"model": name, "seconds": {preset: times[1:] for preset, times in seconds.items()}})
    return rows
