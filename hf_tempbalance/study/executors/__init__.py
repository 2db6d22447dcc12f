"""Where the runs of a study take place: `Executor`, on this machine (`local`) or on a Ray cluster (`on_ray`)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ..job import Job


LOG_NAME = "log.txt"


class Handle(Protocol):
    """A run that has been started."""

    why: str  # it ended as it did, where that is known from elsewhere than its log; otherwise empty

    def poll(self) -> int | None:
        """The exit code of its process, negative for a signal; None while it goes on or waits for its turn."""

    def terminate(self) -> None:
        """End it; one that is over stays as it is."""


class Executor(Protocol):
    """Starts runs, each as a process of its own would run, with its output in ``log.txt`` of its folder."""

    capacity: float  # how many runs may be started and not over

    def start(self, folder: Path, job: Callable[[], Job], lock: int) -> Handle:
        """Start a run.

        Args:
            folder: of the run, an absolute path.
            job: makes the `Job`. It is called where and when the run starts, and again when it is started anew after
                its machine has died, so that it finds the newest checkpoint.
            lock: descriptor of the study's lock, which runs on this machine keep as well.
        """

    def wait(self, seconds: float) -> None:
        """Return when a run has ended, or after this time."""

    def close(self) -> None:
        """End what still runs and give back what was taken."""


def die_with_parent(parent: int) -> None:
    """Let this process get SIGTERM when its parent dies (Linux): no run goes on behind the back of a new runner.

    parent: its process id, which tells whether it has died already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
