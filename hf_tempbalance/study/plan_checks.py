"""Whether a study's names can be folders, its axes fit together, and its runs can be told apart."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..options import nearest
from .plan import METHOD, Options, Study


MAX_RUNS = 100_000
MAX_NAME = 200  # characters of a folder's name; a character can take several bytes, and file systems allow 255


def check_runs(path: Path, study: Study) -> None:
    """Raise ValueError where there are too many runs, or two or one whose name can't be a folder of its own."""
    values = len(study.tune.values) if study.tune else 1
    seeds = len(study.seeds) + (len(study.tune.seeds) if study.tune else 0)
    if (count := math.prod(map(len, study.axes.values())) * values * seeds) > MAX_RUNS:
        raise ValueError(f"{path} has up to {count} runs; at most {MAX_RUNS} are allowed.")
    seen: dict[str, dict[str, str]] = {}
    for run in study.possible_runs():
        if len(run.name.encode()) > 250:
            raise ValueError(
                f"{path}: the run name {run.name[:60] + '...'!r} is too long for a folder. Shorten labels."
            )
    for cell in study.combinations():
        if (name := "--".join(cell.values())) in seen:
            raise ValueError(f"{path}: the cells {seen[name]} and {cell} would share the folder {name!r}. Rename one.")
        seen[name] = cell


def check_name(path: Path, field: str, name: Any) -> None:
    """Raise ValueError where a text can't name a folder below another one."""
    if not isinstance(name, str):
        raise ValueError(f"{path}: {field}: {name!r} is no text. Put it in quotes.")
    is_folder = name.strip(" .") and name.isprintable() and "/" not in name and "\\" not in name
    if not is_folder or len(name) > MAX_NAME or name.startswith("-"):
        shown = repr(name) if len(name) <= MAX_NAME else f"{name[:40]!r}..."
        raise ValueError(
            f"{path}: {field}: {shown} can't name a folder. Use up to {MAX_NAME} letters, digits, spaces and marks, "
            "no slash or backslash, and none of '.', '..' and a '-' in front."
        )


def refuse_shared_options(path: Path, axes: dict[str, dict[str, Options]]) -> None:
    """An option belongs to one axis; of the settings of a method each does."""
    owner: dict[str, str] = {}
    for axis, labels in axes.items():
        names = [key for options in labels.values() for key in options if key != METHOD]
        settings = [key for options in labels.values() for key in options.get(METHOD) or []]
        for key in dict.fromkeys([*names, *(f"{METHOD}.{key}" for key in settings)]):
            if owner.setdefault(key, axis) != axis:
                raise ValueError(
                    f"{path}: the axes {owner[key]!r} and {axis!r} both set {key!r}. Leave it to one of them, or set "
                    "it for single cells under 'cells'."
                )


def check_label(path: Path, key: str, axis: Any, label: str, axes: dict[str, dict[str, Options]]) -> None:
    """Raise ValueError where there is no such axis, or it has no such label."""
    if axis not in axes:
        raise ValueError(f"{path}: {key}: axis {axis!r} does not exist. {nearest(str(axis), list(axes))}")
    if label not in axes[axis]:
        raise ValueError(f"{path}: {key}: axis {axis!r} has no {label!r}. {nearest(label, list(axes[axis]))}")
