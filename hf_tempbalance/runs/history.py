"""``tempbalance_history.jsonl``: one JSON object a look. Read by the callback, plots and reports."""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ..files import finite, is_number, write_whole


HISTORY_NAME = "tempbalance_history.jsonl"
NO_METRIC = ("_runtime", "_per_second", "_model_preparation_time")  # ends of what an evaluation logs besides metrics


def append_look(path: str | Path, look: dict[str, Any]) -> None:
    """Append one look as a line of strict JSON; NaN and infinity are written as null.

    The line is on disk when this returns, so that a killed process loses no finished look.

    Raises:
        OSError: it could not be written; what had been written of the line was taken back.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(finite(look), allow_nan=False).encode() + b"\n"
    # A descriptor and no file object: the latter's buffer, which the disk had no room for, is written again when the
    # file is cut back or closed.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        try:
            while line:
                line = line[os.write(descriptor, line) :]  # a disk that is nearly full takes a part
            os.fsync(descriptor)
        except BaseException:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def read_history(path: str | Path) -> list[dict[str, Any]]:
    """All looks, oldest first; null numbers of a layer come back as NaN.

    A last line without its end, as a killed process leaves it, is ignored.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not a look. The message names the file and the line.
    """
    text = Path(path).read_text(encoding="utf-8")
    looks = []
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            look = json.loads(line)
            look["layers"] = [with_nan(layer) for layer in look["layers"]]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}, line {number} is not a look of a TempBalance history: {error!r}") from error
        looks.append(look)
    return looks


def continue_history(path: str | Path, last_step: int, layers: list[str]) -> str | None:
    """Get the file ready for the looks after ``last_step``: later ones, of a run that was cut off, are dropped.

    A file with lines that can't be read, or of other layers, is moved aside under a new name; its readable lines are
    taken over, those of other layers are not. The file is replaced in one move; a missing file stays missing.

    Args:
        last_step: of the last look that is kept; -1 starts anew.
        layers: names of this model's layers, in order.

    Returns:
        What was wrong with the file and where it is now, as a sentence; None where nothing was.

    Raises:
        ValueError: the file can't be read or written. The message names it and says what to do.
    """
    path = Path(path)
    try:
        if not os.path.lexists(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path.parent).close()  # a folder that takes no file is noticed now
            return None
        with _regular(path).open("r+b") as file:
            content = file.read().decode("utf-8", errors="replace")
        looks, problem = _sift(content, layers)
        kept = [line for step, line in looks if step <= last_step]
        aside: Path | None = None
        if problem is not None:
            aside = _free_name(path)
            shutil.copyfile(path, aside)
        write_whole(path, "".join(line + "\n" for line in kept))
    except OSError as error:
        raise ValueError(
            f"{path} can't be used for the history of this run: {error.strerror}. Make it a file that can be read and "
            "written, or choose another output folder."
        ) from error
    return None if aside is None else f"{path}: {problem}. The file as it was is now {aside.name}."


def _regular(path: Path) -> Path:
    """The path of a file. Raises OSError where a link that leads nowhere, a device or the like is there."""
    if not path.exists():
        raise OSError(errno.ENOENT, f"It is a link to {os.readlink(path)}, which does not exist")
    if not path.is_file() and not path.is_dir():  # open says of a folder what it is; a pipe would wait for ever
        raise OSError(errno.EINVAL, "It is a device, a pipe or a socket")
    return path


def _sift(content: str, layers: list[str]) -> tuple[list[tuple[int, str]], str | None]:
    """The usable looks as (step, line), and what is wrong with the others."""
    *lines, rest = content.split("\n")
    looks, problem = [], None
    for number, line in enumerate(lines, start=1):
        try:
            look = json.loads(line)
            step, names = int(look["step"]), [layer["name"] for layer in look["layers"]]
        except (ValueError, TypeError, KeyError):
            problem = problem or f"line {number} is not a look"
            continue
        if names == layers:
            looks.append((step, line))
        else:
            problem = problem or f"line {number} is a look at other layers, of another model or other software"
    return looks, problem or ("the last line is cut off" if rest else None)


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.stem}.damaged-{number}{path.suffix}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())


def with_nan(layer: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `finite` for the numbers of a layer."""
    # `excluded_by` is the one field of a layer that is null without being a number.
    return {key: math.nan if value is None and key != "excluded_by" else value for key, value in layer.items()}


def is_tuned(layer: dict[str, Any]) -> bool:
    """Whether a layer of a look or of results.json is given a multiplier: no rule excludes it."""
    return layer["excluded_by"] is None


def metric_keys(entry: dict[str, Any]) -> list[str]:
    """The metrics in an entry of Trainer's ``log_history``: what an evaluation found, without its times and speeds.

    They are numbers, NaN among them; what else a ``compute_metrics`` gives, such as a list of each class's, is none.
    """
    found = [key for key, value in entry.items() if key.startswith("eval_") and is_number(value, finite=False)]
    return [key for key in found if not key.endswith(NO_METRIC)]


def cost_of_looks(looks: list[dict[str, Any]]) -> float:
    """The cost of TempBalance: seconds that training stood still for these looks of a history.

    That is all of a look's computation, unless it went on beside training.
    """
    return float(sum(look.get("waited", look.get("wait_seconds", look["seconds"])) for look in looks))


def cost_in_log(log: list[dict[str, Any]]) -> float:
    """The cost of TempBalance from the entries of looks in Trainer's ``log_history``."""
    keys = [f"tempbalance/{name}" for name in ("waited", "wait_seconds", "seconds")]  # wait_seconds: before 0.1
    costs = [[entry[key] for key in keys if entry.get(key) is not None] for entry in log]
    return float(sum(found[0] for found in costs if found))
