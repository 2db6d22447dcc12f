"""``hf-tempbalance run``, a script or ranks in forked processes: without importing torch and transformers again."""

from __future__ import annotations

import os
import runpy
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import sklearn.datasets  # noqa: F401
import torch
import transformers.trainer  # noqa: F401  once, before all forks; it is most of what a small script takes
from torch.distributed.elastic.utils.distributed import get_free_port
from transformers import BertForSequenceClassification, GPT2LMHeadModel, ViTForImageClassification  # noqa: F401

import hf_tempbalance.huggingface.recorder_callback
import hf_tempbalance.huggingface.trainer  # noqa: F401
from hf_tempbalance import run
from hf_tempbalance.cli.main import main
from hf_tempbalance.runs.output import locked


STUDY_SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "study.py"


@dataclass
class Ended:
    code: int
    out: str
    err: str


def run_script(folder: Path, *arguments: str) -> Ended:
    """``hf-tempbalance run ARGUMENTS`` in a folder."""
    return _forked(folder, lambda: run.main(arguments))


def run_command(folder: Path, *arguments: str) -> Ended:
    """``hf-tempbalance ARGUMENTS`` in a folder."""
    return _forked(folder, lambda: main(list(arguments)))


def run_directly(folder: Path, script: Path | str, *arguments: str) -> Ended:
    """``python SCRIPT ARGUMENTS`` in a folder."""
    return _forked(folder, lambda: _as_main(script, *arguments))


def run_aside(script: Path | str, *arguments: str) -> Ended:
    """``python SCRIPT ARGUMENTS`` in a folder of its own, which goes with it."""
    with tempfile.TemporaryDirectory() as folder:
        return run_directly(Path(folder), script, *arguments)


def run_ranks(folder: Path, processes: int, script: Path, *arguments: str, timeout: float = 240) -> list[Ended]:
    """``python SCRIPT ARGUMENTS`` in processes that form a group, with the variables that a launcher gives to them."""
    ranks = []
    port = get_free_port()
    for rank in range(processes):
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}

        def task(group: dict[str, object] = group) -> None:
            os.environ.update({name: str(value) for name, value in group.items()})
            sys.modules.pop("everywhere.rank", None)  # it reads them when imported; another test may have done that
            _as_main(script, *arguments)

        (folder / f"rank-{rank}").mkdir(parents=True)
        ranks.append((_start(folder / f"rank-{rank}", task), folder / f"rank-{rank}"))
    end = time.time() + timeout
    return [_said(of, _code(child, end)) for child, of in ranks]


def run_study(*arguments: str) -> Ended:
    """``scripts/study.py ARGUMENTS``; it starts its runs in processes of their own as ever."""
    return run_aside(STUDY_SCRIPT, *arguments)


def wait_until_free(folder: Path, seconds: float = 60) -> None:
    """After a study was killed: its runs hold its lock until they have died as well, a moment later."""
    end = time.time() + seconds
    while True:
        try:
            with locked(folder):
                return
        except ValueError:
            assert time.time() < end, f"{folder} is still in use"
            time.sleep(0.02)


def _as_main(script: Path | str, *arguments: str) -> None:
    sys.argv[:] = [str(script), *arguments]
    sys.path[0] = str(Path(script).parent)
    runpy.run_path(str(script), run_name="__main__")


def _forked(folder: Path, task: Callable[[], int | None]) -> Ended:
    child = _start(folder, task)
    _, status = os.waitpid(child, 0)
    return _said(folder, os.waitstatus_to_exitcode(status))


def _code(child: int, end: float) -> int:
    """The exit code of a process, which is killed when it goes on after ``end``."""
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.time() > end:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.02)


def _said(folder: Path, code: int) -> Ended:
    return Ended(code, (folder / "stdout.txt").read_text(), (folder / "stderr.txt").read_text())


def _start(folder: Path, task: Callable[[], int | None]) -> int:
    """The number of the process that does the task; what it says goes into files of the folder."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            torch.set_num_threads(1)  # OpenMP's threads are not there after a fork
            sys.path.append(str(Path(__file__).parent))  # a script's folder takes the first place, which was this
            os.chdir(folder)
            for number, name in ((1, "stdout.txt"), (2, "stderr.txt")):
                os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
            warnings.simplefilter("default")
            code = _ended(task)
        finally:
            os._exit(code)
    return child


def _ended(task: Callable[[], int | None]) -> int:
    """The exit code, and what the interpreter prints about an exception."""
    try:
        return task() or 0
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
