"""Shares of one machine: GPUs and CPU cores of each run."""

from __future__ import annotations

import os
from collections.abc import Sequence


VISIBLE = "CUDA_VISIBLE_DEVICES"


def slot_environments(jobs: int, visible: Sequence[str], gpus: int | None = None) -> list[dict[str, str]]:
    """The variables of each of ``jobs`` runs at a time: which GPUs it sees.

    A run never sees more than its share, so what it computes does not depend on how many GPUs the machine has
    (Trainer would spread the batch over all). With more runs than shares several have the same one.

    Args:
        visible: names of the GPUs to share, as ``CUDA_VISIBLE_DEVICES`` has them.
        gpus: GPUs of each run; None for one, or none where there are none.

    Raises:
        ValueError: a run shall have more GPUs than there are.
    """
    if gpus is None:
        gpus = 1 if visible else 0
    if gpus > len(visible):
        raise ValueError(
            f"--gpus {gpus} is more than this machine shows ({len(visible)}). Ask for fewer, or see {VISIBLE}."
        )
    if gpus == 0:
        return [{VISIBLE: ""} if visible else {} for _ in range(jobs)]
    shares = [",".join(visible[first : first + gpus]) for first in range(0, len(visible) - gpus + 1, gpus)]
    return [{VISIBLE: shares[slot % len(shares)]} for slot in range(jobs)]


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, without initialising one."""
    named = os.environ.get(VISIBLE)
    if named is not None:
        names = [name.strip() for name in named.split(",")]
        end = next((n for n, name in enumerate(names) if name in ("", "-1")), len(names))  # CUDA reads no further
        return names[:end]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def usable_cores() -> int:
    """CPU cores that this process may use, which on a shared machine are not all there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
