"""`LocalExecutor`: runs on this machine, forked from a process that has imported torch and transformers once."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path

from ..job import Job
from . import Handle
from .devices import slot_environments, usable_cores, visible_gpus


# Without the working directory in the path, which ``python script.py`` does not have there either.
START = f"import sys; sys.flags.safe_path or sys.path.pop(0); from {__package__}.warm import main; main()"


class LocalExecutor:
    """Up to ``jobs`` runs at a time on this machine.

    Args:
        jobs: runs at a time.
        cpus: threads of each run; the cores divided by ``jobs`` if not given.
        gpus: GPUs of each run, as `slot_environments` takes them.
        fresh: every run starts an interpreter of its own.

    Raises:
        ValueError: a run shall have more GPUs than there are.
    """

    def __init__(
        self, jobs: int = 1, *, cpus: int | None = None, gpus: int | None = None, fresh: bool = False
    ) -> None:
        self.capacity: float = jobs
        self.threads = cpus or max(usable_cores() // jobs, 1)
        self.slots = slot_environments(jobs, visible_gpus(), gpus)
        self.fresh = fresh
        self.running: dict[int, _LocalHandle] = {}  # by slot
        self._numbers = itertools.count()
        self._server: _Server | None = None

    def start(self, folder: Path, job: Callable[[], Job], lock: int) -> Handle:
        """See `Executor`."""
        made = job()
        slot = next(slot for slot in range(len(self.slots)) if slot not in self.running)
        if self._server is None:
            self._server = _Server(lock, self.threads, fresh=self.fresh)
        handle = self.running[slot] = _LocalHandle(self._server, next(self._numbers))
        self._server.send((handle.number, made, self.slots[slot]))
        return handle

    def wait(self, seconds: float) -> None:
        """See `Executor`."""
        if self._server is None:
            return
        ended = self._server.ended(seconds)
        if ended is None:  # killed, and its runs with it; the next run gets another one
            ended = dict.fromkeys((handle.number for handle in self.running.values()), self._server.end())
            self._server = None
        for slot, handle in list(self.running.items()):
            if handle.number in ended:
                handle.code, handle.why = ended[handle.number]
                del self.running[slot]

    def close(self) -> None:
        """See `Executor`."""
        if self._server is not None:
            self._server.end()


class _LocalHandle:
    def __init__(self, server: _Server, number: int) -> None:
        self.code: int | None = None
        self.why = ""
        self.server, self.number = server, number

    def poll(self) -> int | None:
        return self.code

    def terminate(self) -> None:
        self.server.send((self.number, None, {}))


class _Server:
    """The process that runs are forked from, see `warm`."""

    def __init__(self, lock: int, threads: int, *, fresh: bool) -> None:
        self.connection, theirs = Pipe()
        self.errors = tempfile.TemporaryFile()
        number = theirs.fileno()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", START, str(number), *(["--fresh"] if fresh else [])],
                stdin=subprocess.DEVNULL,  # nobody answers a run's questions
                stdout=subprocess.DEVNULL,
                stderr=self.errors,
                env=os.environ | {"OMP_NUM_THREADS": str(threads)},
                pass_fds=[number, lock],
            )

    def send(self, message: tuple[int, Job | None, dict[str, str]]) -> None:
        with suppress(OSError):  # it has died, which `ended` tells
            self.connection.send(message)

    def ended(self, seconds: float) -> dict[int, tuple[int, str]] | None:
        """Runs that have ended, after the first or this time: exit code and what is known beside the log.

        None when the server itself has ended.
        """
        found: dict[int, tuple[int, str]] = {}
        try:
            while self.connection.poll(0 if found else seconds):
                number, *how = self.connection.recv()
                found[number] = (how[0], how[1])
        except (EOFError, OSError):
            return found or None
        return found

    def end(self) -> tuple[int, str]:
        """End it and its runs. Returns its exit code and its last words, which it has if it failed before."""
        self.connection.close()
        self.process.terminate()
        code = self.process.wait()
        with self.errors:
            self.errors.seek(0)
            lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return code, lines[-1] if code > 0 and lines else ""
