"""What a GPU has to show, and what the rows of a part say about it."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gpu.stages import CNNS, TRANSFORMERS


Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Bar:
    """A bar, the part that measures it, and what its rows say: the number with its spread, and whether it holds."""

    what: str
    target: str
    stage: str
    part: str
    judge: Callable[[Rows], tuple[str, bool]]


def spread(values: list[float], form: str = ".2f") -> str:
    """Median (smallest-largest)."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:{form}} ({low:{form}}-{high:{form}})"


def loop_ratios(rows: Rows) -> list[float]:
    """Seconds of the loop over ours, of each round."""
    seconds = rows[0]["seconds"]
    return [theirs / ours for ours, theirs in zip(seconds["ours"], seconds["loop"], strict=True)]


def faster(times: float) -> Callable[[Rows], tuple[str, bool]]:
    def judge(rows: Rows) -> tuple[str, bool]:
        ratios = loop_ratios(rows)
        return f"{spread(ratios)} times", statistics.median(ratios) >= times

    return judge


def shares(rows: Rows) -> list[float]:
    """Seconds of a look over those of the training between two, of each round."""
    (row,) = rows
    return [look / (row["steps"] * step) for look, step in zip(row["look"], row["step"], strict=True)]


def at_most(share: float) -> Callable[[Rows], tuple[str, bool]]:
    def judge(rows: Rows) -> tuple[str, bool]:
        found = shares(rows)
        return spread(found, ".3%"), statistics.median(found) <= share

    return judge


def waits(rows: Rows) -> tuple[str, bool]:
    """Of the runs with overlap: the wait as a share of the time between two looks."""
    found = [row["waited"] / row["between"] for row in rows if row["mode"] == "overlapped" and row["between"]]
    if not found:
        return "no look was made", False
    return spread(found, ".3%"), statistics.median(found) < 0.002


def throughput(rows: Rows) -> tuple[str, bool]:
    """Trainer's images per second over those of a loop over the same batches."""
    by_name = {row["contender"]: row["images_per_second"] for row in rows}
    ratios = [a / b for a, b in zip(by_name["trainer"], by_name["pipeline"], strict=True)]
    return spread(ratios), statistics.median(ratios) >= 0.9


BARS = [
    *(Bar(f"look, {name}", "10 times the svdvals loop", "analysis", name, faster(10)) for name in CNNS),
    *(Bar(f"look, {name}", "5 times the svdvals loop", "analysis", name, faster(5)) for name in TRANSFORMERS),
    Bar("look beside an epoch of ResNet18, bf16", "at most 1 %", "share", "ResNet18", at_most(0.01)),
    Bar("look beside 100 steps of Llama-1B, 8 x 1,024 tokens", "at most 2 %", "share", "Llama-1B", at_most(0.02)),
    Bar("wait of looks beside training, every 20 steps", "below 0.2 %", "training", "overlap", waits),
    Bar("images per second, to a loop without Trainer", "at least 0.9", "training", "throughput", throughput),
]
