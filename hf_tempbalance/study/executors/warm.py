"""The process that local runs are forked from; `local.LocalExecutor` starts it.

It imports what nearly every run imports, once, and forks for each run. The child leaves the loop and becomes the run
at the top of the interpreter, so that exit codes, tracebacks, signals and what is called at exit are Python's own.
`own_process` says which runs get an interpreter of their own instead.

Not multiprocessing's fork server: its children fork their own workers differently from a fresh process, import the
main module of the runner again, and keep their server alive when the runner is killed.
"""

from __future__ import annotations

import gc
import importlib
import os
import re
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path

from ...files import is_secret
from ..job import Job
from . import LOG_NAME, die_with_parent


RUN = ["-m", "hf_tempbalance.run"]
# What Trainer scripts import; what is not installed is left out.
PRELOADED = (
    "torch",
    "transformers.trainer",
    "datasets",
    "hf_tempbalance.huggingface.parser",
    "hf_tempbalance.huggingface.recorder_callback",
    "hf_tempbalance.huggingface.trainer",
    "hf_tempbalance.tasks.backbones",
    "hf_tempbalance.tasks.data",
    "hf_tempbalance.tasks.image_classification",
    "hf_tempbalance.tasks.metrics",
)
ASKS_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"
LATE = ("CUDA_VISIBLE_DEVICES",)  # read when the first GPU is used
SETS_ENVIRONMENT = re.compile(
    r"environ\s*(\[[^\]]*\]\s*=[^=]|\.\s*(update|setdefault|pop|clear)\b|\|=)|del\s+os\.environ|putenv|load_dotenv"
)


def main() -> None:
    """Serve the runner at the other end of the connection whose descriptor is the first argument."""
    server = Server(Connection(int(sys.argv[1])), is_fresh="--fresh" in sys.argv[2:])
    environment = dict(os.environ)  # imports change it
    job = server.serve()
    if job is not None:
        become(job, server, environment)


class Server:
    """Forks for each run and tells the runner how it ended."""

    def __init__(self, connection: Connection, *, is_fresh: bool) -> None:
        self.connection, self.is_fresh = connection, is_fresh
        self.is_warm = self.has_gpu = False
        self.trouble: str | None = None  # why no run can be forked with what was imported
        self.children: dict[int, int] = {}  # process id -> the runner's number of the run

    def serve(self) -> Job | None:
        """Answer the runner until it has closed the connection or died. Returns the job in the process of a run."""
        wakeup, wakes = os.pipe()
        os.set_blocking(wakes, False)
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the runner and the runs
        signal.signal(signal.SIGCHLD, lambda *_: None)  # it only wakes up
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        server = os.getpid()
        while True:
            ready = wait([self.connection, wakeup])
            if wakeup in ready:
                os.read(wakeup, 4096)
                self._tell_ended()
            if self.connection not in ready:
                continue
            try:
                number, job, slot = self.connection.recv()
            except (EOFError, OSError):  # the runner has gone
                self._terminate(list(self.children.values()))
                os._exit(0)  # there is nothing to clear away
            if job is None:
                self._terminate([number])
                continue
            if own_process(job, self.is_fresh) is None:
                self.warm_up()
            try:
                child = os.fork()
            except OSError as error:
                self._tell(number, 1, f"no process could be made for it: {error}")
                continue
            if child:
                self.children[child] = number
                continue
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, interrupt)
            die_with_parent(server)
            os.close(wakeup)
            os.close(wakes)
            self.connection.close()
            job.environment.update(slot)
            return job

    def warm_up(self) -> None:
        """Import, once. What fails is left to the runs, whose logs then tell."""
        if self.is_warm:
            return
        self.is_warm = True
        # Asked whether there is a GPU, torch otherwise initialises CUDA, which does not survive a fork.
        kept = os.environ.get(ASKS_NVML)
        os.environ[ASKS_NVML] = "1"
        try:
            for name in PRELOADED:
                with suppress(ModuleNotFoundError):
                    importlib.import_module(name)
            self.has_gpu = sys.modules["torch"].cuda.device_count() > 0
            gc.collect()
            gc.freeze()  # no run looks through all that at its end: 0.5 s instead of 2.8
        except Exception as error:
            self.trouble = f"importing {name} failed ({type(error).__name__}: {error})"
        finally:
            if kept is None:
                del os.environ[ASKS_NVML]
            else:
                os.environ[ASKS_NVML] = kept

    def _terminate(self, numbers: list[int]) -> None:
        for child, number in self.children.items():
            if number in numbers:
                os.kill(child, signal.SIGTERM)

    def _tell_ended(self) -> None:
        while self.children:
            child, status = os.waitpid(-1, os.WNOHANG)
            if child == 0:
                return
            if child in self.children:
                self._tell(self.children.pop(child), os.waitstatus_to_exitcode(status))

    def _tell(self, number: int, code: int, why: str = "") -> None:
        with suppress(OSError):  # the runner has gone, which the next message shows
            self.connection.send((number, code, why))


def own_process(job: Job, is_fresh: bool) -> str | None:
    """Why a run needs an interpreter of its own, as far as that is known before the imports; None: it does not."""
    if is_fresh:
        return "--fresh"
    if sys.platform != "linux":
        return f"{sys.platform}, where libraries do not survive a fork"
    if job.arguments[0] == "-m" and job.arguments[:2] != RUN:
        return f"it is started by {job.arguments[1]}"
    early = [name for name in job.environment if name not in LATE and not is_secret(name)]
    if early:
        return f"{early[0]} is set for it"
    script = script_of(job)
    if script is None:
        return "it runs no Python file that is there"
    try:
        text = script.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return str(error)
    return f"{script.name} sets environment variables" if SETS_ENVIRONMENT.search(text) else None


def script_of(job: Job) -> Path | None:
    """The Python file that a job runs; None where there is none, which the run itself will tell."""
    return next((Path(text) for text in job.arguments if text.endswith(".py") and os.path.isfile(text)), None)


def shadowing(script: Path) -> str | None:
    """A module beside the script that it would import in place of one that is imported already."""
    for path in sorted(script.resolve().parent.iterdir()):
        is_package = (path / "__init__.py").is_file()
        module = sys.modules.get(path.stem if path.suffix == ".py" else path.name if is_package else "")
        if module is not None and path.stem != "__main__":
            found = getattr(module, "__file__", None)
            if found is None or os.path.realpath(found) != str(path / "__init__.py" if is_package else path):
                return path.name
    return None


def become(job: Job, server: Server, environment: dict[str, str]) -> None:
    """Be the run, to the end of this process."""
    with (job.folder / LOG_NAME).open("ab") as log:
        for number in (1, 2):
            os.dup2(log.fileno(), number)
    os.environ.update(job.environment)
    reason = own_process(job, server.is_fresh) or server.trouble
    script = script_of(job)
    if reason is None and script is not None and (name := shadowing(script)) is not None:
        reason = f"{name} beside {script.name} has the name of a module that is imported already"
    if reason is None and server.has_gpu and _is_cuda_spoiled():
        reason = "a library has initialised CUDA when it was imported"
    if reason is not None:
        if not server.is_fresh:
            os.write(2, f"study: this run is an interpreter of its own: {reason}\n".encode())
        os.execve(sys.executable, [sys.executable, *job.arguments], environment | job.environment)
    _draw_seeds()

    from ... import run

    if not sys.flags.safe_path:
        sys.path.insert(0, os.getcwd())  # the script's folder takes its place
    if job.arguments[:2] == RUN:
        sys.argv[0] = run.__file__
        sys.exit(run.main(job.arguments[2:]))
    path, *arguments = job.arguments
    run.run_as_main(path, arguments, Path(path).read_bytes())


def _is_cuda_spoiled() -> bool:
    import torch

    return torch.cuda._is_in_bad_fork()


def _draw_seeds() -> None:
    """What a fresh process takes from the system's entropy at import; Python's own generator does so at each fork."""
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    if "datasets" in sys.modules:  # names of cached files
        sys.modules["datasets.fingerprint"].fingerprint_rng.seed()
