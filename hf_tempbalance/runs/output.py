"""The output folder of a run: one process at a time in it, and no run over another by mistake."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .checkpoints import STATE_NAME, last_complete_checkpoint, resolve
from .history import HISTORY_NAME
from .results import RESULTS_NAME


LOCK_NAME = "_lock"  # the Trainer and our script upload no file whose name begins so


@contextmanager
def locked(folder: str | Path) -> Iterator[int]:
    """Keep other processes out of a folder until the end, or until this process and those that inherit the lock die.

    The lock is the kernel's (``flock``): a killed process leaves none. File systems without locks have none here.

    Yields:
        The file descriptor that holds the lock, to be passed on to processes that keep it as well.

    Raises:
        ValueError: another process has the folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_NAME).open("w") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"{folder} is in use: another process is running in it. Wait until that has ended, stop it, or use "
                "another output folder."
            ) from error
        except (ImportError, OSError):  # Windows; a network file system without locks
            pass
        yield file.fileno()


def checkpoint_to_resume(folder: str | Path, wanted: str | None, *, overwrite: bool) -> str | None:
    """What ``Trainer.train(resume_from_checkpoint=...)`` gets.

    Args:
        folder: output folder of the run.
        wanted: as `checkpoints.resolve` takes it.
        overwrite: the run may take the place of an earlier one.

    Raises:
        ValueError: there is no such checkpoint; or the folder has a run and neither way out was chosen, or both were.
    """
    if wanted is not None and overwrite:
        raise ValueError("--resume_from_checkpoint goes on and --overwrite_output_dir starts again. Give one of them.")
    if wanted is None and not overwrite and (found := _remains(folder)):
        raise ValueError(
            f"{folder} has a run already ({found[0].name}). Go on with it: --resume_from_checkpoint last. Put the new "
            "run in its place, which deletes it: --overwrite_output_dir true. Or give another --output_dir."
        )
    try:
        return resolve(folder, wanted)
    except ValueError as error:
        if _remains(folder):
            raise ValueError(f"{error} To start again in its place: --overwrite_output_dir true.") from error
        raise


def remove_run(folder: str | Path) -> None:
    """Delete checkpoints, results and history of an earlier run, so that nothing of it is taken for the new one's.

    Its weights stay until the new ones take their place.
    """
    for path in _remains(folder):
        if path.suffix == ".safetensors":
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            os.unlink(path)


@contextmanager
def telling_how_to_go_on(folder: str | Path) -> Iterator[None]:
    """Train inside this: Ctrl-C then says how to go on, as `how_to_go_on` has it."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(how_to_go_on(folder)) from error


def how_to_go_on(folder: str | Path) -> str:
    """What to do after Ctrl-C, for whoever stopped the run."""
    if last_complete_checkpoint(folder)[0] is not None:
        return "Go on with --resume_from_checkpoint last"
    return "There is no checkpoint yet. Start again with --overwrite_output_dir true"


def _remains(folder: str | Path) -> list[Path]:
    folder = Path(folder)
    names = (RESULTS_NAME, HISTORY_NAME, STATE_NAME)
    found = [folder / name for name in names if (folder / name).is_file()]
    return found + sorted([*folder.glob("checkpoint-[0-9]*"), *folder.glob("model*.safetensors")])
