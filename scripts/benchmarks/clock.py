"""How long something takes, on a CPU or an accelerator."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch


Result = TypeVar("Result")


def timed(function: Callable[[], Result], device: str) -> tuple[float, Result]:
    """Seconds until the device has done what the function asked of it, and the result."""
    start = time.perf_counter()
    result = function()
    if device != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start, result
