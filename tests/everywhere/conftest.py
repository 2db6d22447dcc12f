"""Optimizers that compile their step are traced, and what was traced runs as it is."""

from __future__ import annotations

from functools import partial

import pytest
import torch


@pytest.fixture
def without_a_compiler(monkeypatch):
    # On a CPU torchao's optimizers would spend minutes in C++ compilers, for kernels that are not ours.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
