"""``hf-tempbalance run`` in a forked process: a fresh ``__main__`` without importing torch and transformers again."""

from __future__ import annotations

import os
import runpy
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import sklearn.datasets  # noqa: F401
import torch
import transformers.trainer  # noqa: F401  once, before all forks; it is most of what a small script takes
from transformers import BertForSequenceClassification, GPT2LMHeadModel, ViTForImageClassification  # noqa: F401

import hf_tempbalance.huggingface.recorder_callback
import hf_tempbalance.huggingface.trainer  # noqa: F401
from hf_tempbalance import run


@dataclass
class Ended:
    code: int
    out: str
    err: str


def run_script(folder: Path, *arguments: str) -> Ended:
    """``hf-tempbalance run ARGUMENTS`` in a folder."""
    return _forked(folder, lambda: run.main(arguments))


def run_directly(folder: Path, script: Path | str, *arguments: str) -> Ended:
    """``python SCRIPT ARGUMENTS`` in a folder."""

    def direct() -> None:
        sys.argv[:] = [str(script), *arguments]
        sys.path[0] = str(Path(script).parent)
        runpy.run_path(str(script), run_name="__main__")

    return _forked(folder, direct)


def _forked(folder: Path, task: Callable[[], int | None]) -> Ended:
    out, err = folder / "stdout.txt", folder / "stderr.txt"
    child = os.fork()
    if child == 0:
        code = 70
        try:
            torch.set_num_threads(1)  # OpenMP's threads are not there after a fork
            sys.path.append(str(Path(__file__).parent))  # a script's folder takes the first place, which was this
            os.chdir(folder)
            for number, path in ((1, out), (2, err)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
            warnings.simplefilter("default")
            code = _ended(task)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return Ended(os.waitstatus_to_exitcode(status), out.read_text(), err.read_text())


def _ended(task: Callable[[], int | None]) -> int:
    """The exit code, and what the interpreter prints about an exception."""
    try:
        return task() or 0
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
