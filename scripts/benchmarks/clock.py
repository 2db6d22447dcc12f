"""How long something takes, on a CPU or an accelerator: the clock of every part."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch


Result = TypeVar("Result")


def now(device: str) -> float:
    """Seconds on a clock without a date, read once the device has done what it was asked to."""
    if device != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


def timed(function: Callable[[], Result], device: str = "cpu") -> tuple[float, Result]:
    """Seconds until the device has done what the function asked of it, and the result."""
    start = now(device)
    result = function()
    return now(device) - start, result
