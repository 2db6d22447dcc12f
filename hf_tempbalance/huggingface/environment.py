"""Where a training ran: versions, commit, machine."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments


PACKAGES = ("hf_tempbalance", "torch", "transformers", "accelerate", "timm", "datasets", "numpy")


def environment(args: TrainingArguments) -> dict[str, Any]:
    """Versions of the packages, commit of this repository, device, number of processes and seed, as JSON types."""
    changes = _git("status", "--porcelain")
    return {
        "versions": {"python": platform.python_version()} | _versions(),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if changes is None else bool(changes),
        "device": torch.cuda.get_device_name() if args.device.type == "cuda" else args.device.type,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "processes": args.world_size,
        "threads": torch.get_num_threads(),
        "seed": args.seed,
    }


def _versions() -> dict[str, str]:
    """Versions of those packages that are installed: timm, datasets and others are extras."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _git(*command: str) -> str | None:
    here = Path(__file__).parent
    try:
        done = subprocess.run(["git", *command], cwd=here, capture_output=True, text=True, check=False)
    except OSError:  # git is not installed
        return None
    return done.stdout.strip() if done.returncode == 0 else None
