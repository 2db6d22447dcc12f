"""From a study file to its runs: axes, methods, seeds, and the rate that each cell is tuned over."""

from __future__ import annotations

import fnmatch
import hashlib
import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from ..config import nearest


Options = dict[str, Any]  # of scripts/train.py


@dataclass(frozen=True)
class Tuning:
    """Every cell is run with each value of one option; the best on held-out images is the one that counts.

    option: of scripts/train.py. values: tried for every cell alike. seeds: of the trial runs, which count among the
    runs of a cell where they are seeds of the study.
    """

    option: str
    values: tuple[Any, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """One training run. name: of its folder, cell, value that is tuned and seed. cell: axis -> label."""

    name: str
    cell: dict[str, str]
    seed: int
    options: Options
    tuned: Any = None


@dataclass(frozen=True)
class Study:
    """A study file, checked and resolved.

    train: options of every run. axes: axis -> label -> options. cells: (axis -> labels, options) that are set where
    all axes have one of the labels, later ones over earlier ones. baseline: axis -> label to compare with.
    """

    name: str
    train: Options
    axes: dict[str, dict[str, Options]]
    seeds: tuple[int, ...]
    baseline: dict[str, str]
    cells: tuple[tuple[dict[str, list[str]], Options], ...] = ()
    tune: Tuning | None = None
    description: str = field(default="", compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Everything that decides what is run, in JSON types."""
        value = {option.name: getattr(self, option.name) for option in fields(self) if option.compare}
        return json.loads(json.dumps(value | {"tune": self.tune and vars(self.tune)}))

    @property
    def version(self) -> str:
        """Of the settings: the same for the same runs."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]

    def combinations(self) -> list[dict[str, str]]:
        """The cells of the study: a label of each axis."""
        return [dict(zip(self.axes, labels, strict=True)) for labels in itertools.product(*self.axes.values())]

    def options_of(self, cell: dict[str, str]) -> Options:
        """Of every run in a cell; an option that is a mapping is merged, anything else replaced."""
        options: Options = {}
        parts = [self.train, *(self.axes[axis][label] for axis, label in cell.items())]
        parts += [given for where, given in self.cells if all(cell[axis] in where[axis] for axis in where)]
        for part in parts:
            for key, value in part.items():
                both = isinstance(value, dict) and isinstance(options.get(key), dict)
                options[key] = options[key] | value if both else value
        return options

    def run(self, cell: dict[str, str], seed: int, tuned: Any = None) -> Run:
        """The run of a cell with a seed."""
        tag = [] if tuned is None else [f"{self.tune.option}={tuned:g}"]
        name = "--".join([*cell.values(), *tag, f"seed{seed}"])
        options = self.options_of(cell) | ({} if tuned is None else {self.tune.option: tuned}) | {"seed": seed}
        return Run(name, cell, seed, options, tuned)

    def trials(self) -> list[Run]:
        """The runs that the tuned value is chosen from; none without tuning."""
        if self.tune is None:
            return []
        chosen = itertools.product(self.tune.seeds, self.combinations(), self.tune.values)
        return [self.run(cell, seed, value) for seed, cell, value in chosen]

    def finals(self, chosen: dict[tuple[str, ...], Any]) -> list[Run]:
        """The runs that are compared; with tuning those of cells whose value has been chosen, seed by seed."""
        runs = []
        for seed, cell in itertools.product(self.seeds, self.combinations()):
            key = tuple(cell.values())
            if self.tune is None or key in chosen:
                runs.append(self.run(cell, seed, chosen.get(key)))
        return runs

    def possible_runs(self) -> list[Run]:
        """Every run that there can be, whichever values are chosen."""
        values = (None,) if self.tune is None else self.tune.values
        finals = [self.run(cell, s, v) for s in self.seeds for cell in self.combinations() for v in values]
        return list({run.name: run for run in (*self.trials(), *finals)}.values())


def matching(runs: Iterable[Run], pattern: str | None) -> list[Run]:
    """The runs whose name matches a shell pattern; all without one.

    Raises:
        ValueError: none does; the message has some names.
    """
    runs = list(runs)
    found = [run for run in runs if pattern is None or fnmatch.fnmatch(run.name, pattern)]
    if runs and not found:
        some = ", ".join(run.name for run in runs[:3])
        raise ValueError(f"--only {pattern!r} matches no run. Names look like {some}.")
    return found


KEYS = ("name", "description", "train", "axes", "methods", "cells", "seeds", "tune", "baseline")


def load_study(path: str | Path, changes: Iterable[str] = ()) -> Study:
    """Read and check a study file.

    Args:
        path: YAML with the keys ``name``, ``description``, ``train`` (options of every run), ``axes`` (axis -> list of
            values of the option that the axis is called after, or mapping label -> options; the axis "method" lists
            names of ``methods``), ``methods`` (name -> options, or a file of them beside the study), ``cells`` (list
            of axis -> label or labels, with ``set``: options), ``seeds``, ``tune`` (one option with a list of values,
            and ``seeds``) and ``baseline`` (one axis -> label).
        changes: ``key=value`` over the file: ``seeds`` or an option of ``train``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is wrong somewhere; the message says where, and what is allowed.
    """
    path = Path(path)
    content = _read(path)
    for change in changes:
        key, separator, text = change.partition("=")
        if not separator:
            raise ValueError(f"--set {change!r} is not KEY=VALUE.")
        value = yaml.safe_load(text)
        if key == "seeds":
            content["seeds"] = value
        else:
            content["train"] = (content.get("train") or {}) | {key: value}
    for key in content:
        if key not in KEYS:
            raise ValueError(f"{path}: unknown key {key!r}. {nearest(key, list(KEYS))}")
    for key in ("axes", "seeds", "baseline"):
        if not content.get(key):
            raise ValueError(f"{path}: {key} is missing.")
    axes = {name: _axis(path, name, values, content) for name, values in content["axes"].items()}
    _refuse_shared_options(path, axes)
    cells = tuple(_cell(path, entry, axes) for entry in content.get("cells") or [])
    baseline = content["baseline"]
    _check_labels(path, "baseline", baseline, axes)
    if len(baseline) != 1:
        raise ValueError(f"{path}: baseline must name one axis and its label, such as {{method: sgd}}.")
    study = Study(
        name=content.get("name", path.stem),
        description=content.get("description", ""),
        train=content.get("train") or {},
        axes=axes,
        seeds=_seeds(path, "seeds", content["seeds"]),
        baseline=baseline,
        cells=cells,
        tune=_tuning(path, content.get("tune")),
    )
    for label in itertools.chain(*axes.values()):
        if "/" in label:
            raise ValueError(
                f"{path}: {label!r} has a slash and can't name a folder. Use a mapping of labels to options."
            )
    return study


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must have 'key: value' lines.")
    return content


def _axis(path: Path, name: str, values: Any, content: dict[str, Any]) -> dict[str, Options]:
    if isinstance(values, dict):
        return {str(label): options or {} for label, options in values.items()}
    if not isinstance(values, list) or not values:
        raise ValueError(f"{path}: axis {name!r} must be a list of values or a mapping of labels to options.")
    if len(set(map(str, values))) < len(values):
        raise ValueError(f"{path}: axis {name!r} has a value twice: {values}.")
    if name != "method":
        return {str(value): {name: value} for value in values}
    methods = content.get("methods") or {}
    if isinstance(methods, str):
        methods = _read(path.parent / methods)
    for method in values:
        if method not in methods:
            raise ValueError(f"{path}: method {method!r} does not exist. {nearest(str(method), list(methods))}")
    return {method: methods[method] or {} for method in values}


def _refuse_shared_options(path: Path, axes: dict[str, dict[str, Options]]) -> None:
    """An option belongs to one axis, except that mappings (such as optimizer_args) are merged by their keys."""
    owner: dict[str, str] = {}
    for axis, labels in axes.items():
        for key in {key for options in labels.values() for key in options}:
            if owner.setdefault(key, axis) != axis:
                raise ValueError(
                    f"{path}: the axes {owner[key]!r} and {axis!r} both set {key!r}. Leave it to one of them, or set "
                    "it for single cells under 'cells'."
                )


def _cell(path: Path, entry: Any, axes: dict[str, dict[str, Options]]) -> tuple[dict[str, list[str]], Options]:
    if not isinstance(entry, dict) or not isinstance(entry.get("set"), dict):
        raise ValueError(f"{path}: cells: {entry!r} must have labels of axes and 'set' with options.")
    where = {axis: labels if isinstance(labels, list) else [labels] for axis, labels in entry.items() if axis != "set"}
    where = {axis: [str(label) for label in labels] for axis, labels in where.items()}
    for axis, labels in where.items():
        for label in labels:
            _check_labels(path, "cells", {axis: label}, axes)
    return where, entry["set"]


def _check_labels(path: Path, key: str, where: Any, axes: dict[str, dict[str, Options]]) -> None:
    if not isinstance(where, dict):
        raise ValueError(f"{path}: {key}: {where!r} must be a mapping of axes to labels.")
    for axis, label in where.items():
        if axis not in axes:
            raise ValueError(f"{path}: {key}: axis {axis!r} does not exist. {nearest(axis, list(axes))}")
        if str(label) not in axes[axis]:
            hint = nearest(str(label), list(axes[axis]))
            raise ValueError(f"{path}: {key}: axis {axis!r} has no {label!r}. {hint}")


def _seeds(path: Path, key: str, seeds: Any) -> tuple[int, ...]:
    if not isinstance(seeds, list) or not all(type(seed) is int and seed >= 0 for seed in seeds) or not seeds:
        raise ValueError(f"{path}: {key}={seeds!r} must be a list of whole numbers.")
    if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        raise ValueError(f"{path}: {key} has {', '.join(map(str, twice))} twice.")
    return tuple(seeds)


def _tuning(path: Path, tune: Any) -> Tuning | None:
    if tune is None:
        return None
    options = [key for key in tune if key != "seeds"] if isinstance(tune, dict) else []
    if len(options) != 1 or not isinstance(tune[options[0]], list) or "seeds" not in tune:
        raise ValueError(f"{path}: tune must have one option with a list of values, and seeds.")
    return Tuning(options[0], tuple(tune[options[0]]), _seeds(path, "tune.seeds", tune["seeds"]))
