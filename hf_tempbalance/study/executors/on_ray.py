"""`RayExecutor`: runs on the machines of a Ray cluster, with the study's folder on a file system that they share."""

from __future__ import annotations

import logging
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from ..job import Job
from . import LOG_NAME, Handle, die_with_parent
from .devices import VISIBLE


logger = logging.getLogger(__name__)
RETRIES = 3  # after the death of a machine; what stops the run itself is not tried again
CONNECT_SECONDS = 10
# A run of a machine that is lost for Ray may go on for a moment, and a network file system keeps its locks longer.
RELEASE_SECONDS = 180


class RayExecutor:
    """A run is a task of Ray: its queue decides where and when it starts.

    Args:
        address: of the cluster, ``HOST:PORT``; ``RAY_ADDRESS``, or the cluster that this machine is part of.
        jobs: runs at a time; None for as many as the cluster has room for.
        cpus: cores that Ray sets aside for a run, which has as many threads.
        gpus: GPUs that Ray sets aside for a run; with 0.5 two runs share one.

    Raises:
        ValueError: the cluster can't be reached.
        ImportError: Ray is not installed.
    """

    def __init__(
        self, address: str | None = None, *, jobs: int | None = None, cpus: float = 1, gpus: float = 0
    ) -> None:
        self.capacity: float = jobs or math.inf
        self.ray = connect(address)
        self.threads, self.gpus = max(int(cpus), 1), gpus
        self.task = self.ray.remote(run_job).options(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)
        self.running: dict[Any, _RayHandle] = {}  # by reference of the task
        needs = {"CPU": cpus, "GPU": gpus}
        if not any(_has(node, needs) for node in self.ray.nodes()):
            logger.warning("no machine of the cluster has --cpus %g and --gpus %g; runs wait for one", cpus, gpus)

    def start(self, folder: Path, job: Callable[[], Job], lock: int) -> Handle:
        """See `Executor`."""
        folder.mkdir(parents=True, exist_ok=True)
        task = self.task.remote(folder, job, os.getcwd(), self.threads, has_gpu=self.gpus > 0)
        self.running[task] = _RayHandle(partial(self.ray.cancel, task, force=True))
        return self.running[task]

    def wait(self, seconds: float) -> None:
        """See `Executor`."""
        if not self.running:
            return
        over, _ = self.ray.wait(list(self.running), num_returns=1, timeout=seconds)
        for task in over:
            handle = self.running.pop(task)
            handle.code, handle.why = self._end_of(task)

    def close(self) -> None:
        """See `Executor`."""
        self.ray.shutdown()

    def _end_of(self, task: Any) -> tuple[int, str]:
        errors = self.ray.exceptions
        try:
            return self.ray.get(task)
        except errors.RayTaskError as error:
            return 1, f"{type(error.cause).__name__}: {error.cause}"
        except errors.RayError as error:  # its machine died, or Ray took the memory back, once too often
            reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            return 1, f"Ray could not bring it to its end ({reason})"


class _RayHandle:
    def __init__(self, cancel: Callable[[], None]) -> None:
        self.code: int | None = None
        self.why = ""
        self.terminate = cancel

    def poll(self) -> int | None:
        return self.code


def connect(address: str | None) -> ModuleType:
    """Ray, connected to a cluster.

    Raises:
        ValueError: there is none, it can't be reached, or it has other versions.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    address = address or os.environ.get("RAY_ADDRESS") or "auto"
    way_out = "Give --address HOST:PORT of its head, and see that this machine reaches it: docs/cluster.md."
    if address not in ("auto", "local"):
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError(f"address {address!r} of the Ray cluster is not HOST:PORT. {way_out}")
        host = host.strip("[]")
        if host in ("localhost", "127.0.0.1", "::1"):  # where Ray looks then
            host = ray.util.get_node_ip_address()
        try:  # Ray itself asks for minutes
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise ValueError(f"the Ray cluster at {address} can't be reached ({error}). {way_out}") from error
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError) as error:
        where = "was found" if address == "auto" else f"answers at {address}"
        raise ValueError(f"no Ray cluster {where}: {' '.join(str(error).split())} {way_out}") from error
    return ray


def run_job(folder: Path, job: Callable[[], Job], directory: str, threads: int, *, has_gpu: bool) -> tuple[int, str]:
    """What a machine of the cluster does for a run. Returns the exit code, and what is known beside the log.

    Started anew on another machine, it makes the `Job` anew, which then goes on from the newest checkpoint.
    """
    if not (folder.is_dir() and os.path.isdir(directory)):
        missing = directory if folder.is_dir() else folder
        return 1, f"{socket.gethostname()} has no {missing}: put it on a file system that all machines share."
    os.chdir(directory)
    with (folder / LOG_NAME).open("ab") as log:
        if not _held(log):
            return 1, f"another process still writes into {folder}. Stop it, or wait, and start the study again."
        made = job()
        # Ray has named the GPUs of the task, if it has any.
        devices = {} if has_gpu else {VISIBLE: ""}
        process = subprocess.Popen(
            [sys.executable, *made.arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)} | devices | made.environment,
            preexec_fn=partial(die_with_parent, os.getpid()),
        )
    return process.wait(), ""


def _held(log: BinaryIO) -> bool:
    """Lock the log, which the process of the run then holds to its end: no second one writes beside it."""
    import fcntl

    end = time.monotonic() + RELEASE_SECONDS
    while True:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.2)
        except OSError:  # a file system without locks
            return True


def _has(node: dict[str, Any], needs: dict[str, float]) -> bool:
    return bool(node["Alive"]) and all(node["Resources"].get(name, 0) >= amount for name, amount in needs.items())
