"""Reading a study: the file that somebody wrote, and the study.json of a study's folder. Every field is checked."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..files import is_number, parse_yaml, read_json, read_yaml
from ..options import nearest, number
from .plan import METHOD, Metric, Options, Study, Tuning
from .plan_checks import check_label, check_name, check_runs, refuse_shared_options
from .script_study import check_flags, find_script, methods_of, read_metric, with_method


STUDY_NAME = "study.json"
KEYS = ["name", "description", "script", "metric", "maximize", "train", "axes", "methods", "cells", "seeds", "tune"]
KEYS += ["baseline", "controls"]


def load_study(path: str | Path, changes: Iterable[str] = ()) -> Study:
    """Read and check a study file.

    Args:
        path: YAML with the keys ``name``, ``description``, ``train`` (options of every run), ``axes`` (axis -> list of
            values of the option that the axis is called after, or mapping label -> options; the axis "method" lists
            names of ``methods``), ``methods`` (name -> options, or a file of them beside the study), ``cells`` (list
            of axis -> label or labels, with ``set``: options), ``seeds``, ``tune`` (one option with a list of values,
            and ``seeds``), ``baseline`` (one axis -> label) and ``controls`` (label of that axis -> label or labels
            that reports compare it with). ``name`` and labels become names of folders. With ``script`` (a Python file)
            options are its flags, and ``metric`` and ``maximize`` are read too.
        changes: ``key=value`` over the file: ``seeds`` or an option of ``train``.

    Raises:
        ValueError: the file can't be read or is wrong somewhere; the message says where, and what is allowed.
    """
    path = Path(path)
    content = read_yaml(path)
    for key in content:
        if key not in KEYS:
            raise ValueError(f"{path}: unknown key {key!r}. {nearest(str(key), KEYS)}")
    train = dict(_options(path, "train", content.get("train")))
    for change in changes:
        key, separator, text = change.partition("=")
        if not separator or not key:
            raise ValueError(f"--set {change!r} is not KEY=VALUE.")
        value = parse_yaml(text, f"--set {change!r}")
        if key == "seeds":
            content["seeds"] = value
        else:
            train[key] = value
    has_script = content.get("script") is not None
    for key in ("axes", "seeds", "baseline", *(["metric"] if has_script else [])):
        if not content.get(key):
            raise ValueError(f"{path}: {key} is missing.")
    script: dict[str, Any] = {}
    if has_script:
        metric = read_metric(path, content["metric"], content.get("maximize"), train)
        script = {"script": content["script"], "script_path": find_script(path, content["script"]), "metric": metric}
        train = with_method(path, "train", train)
    elif given := [key for key in ("metric", "maximize") if key in content]:
        raise ValueError(f"{path}: {given[0]} belongs to a study that names a script; this one runs scripts/train.py.")
    axes = {
        name: _axis(path, name, values, content) for name, values in _options(path, "axes", content["axes"]).items()
    }
    cells = [_cell(path, entry) for entry in _list(path, "cells", content.get("cells") or [])]
    if has_script:
        cells = [(where, with_method(path, "cells: set", given)) for where, given in cells]
    return _checked(
        path,
        name=content.get("name", path.stem),
        description=_text(path, "description", content.get("description", "")),
        controls=content.get("controls"),
        train=train,
        axes=axes,
        seeds=content["seeds"],
        baseline=content["baseline"],
        cells=tuple(cells),
        tune=_tuning(path, content.get("tune")),
        **script,
    )


def read_study(folder: str | Path) -> Study:
    """The study that a folder belongs to.

    Raises:
        FileNotFoundError: it is not a study's folder.
        ValueError: its study.json is damaged. The message says where.
    """
    path = Path(folder, STUDY_NAME)
    try:
        kept = read_json(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder} has no {STUDY_NAME}; it is not the output folder of a study.") from error
    version = _text(path, "version", kept.get("version"))
    content = _options(path, "study", kept.get("study"))
    tune = content.get("tune")
    if tune is not None:
        tune = _options(path, "tune", tune)
        option = _text(path, "tune.option", tune.get("option"))
        tune = _tuning(path, {option: tune.get("values"), "seeds": tune.get("seeds")})
    cells = []
    for position, entry in enumerate(_list(path, "cells", content.get("cells"))):
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], dict):
            raise ValueError(f"{path}: cells[{position}] must have labels of axes and options.")
        cells.append(_cell(path, entry[0] | {"set": entry[1]}))
    axes = _options(path, "axes", content.get("axes"))
    script, metric = content.get("script"), _options(path, "metric", content.get("metric"))
    try:
        judged = Metric(**metric) if script is not None else None
    except TypeError as error:
        raise ValueError(f"{path} is damaged: metric is {metric}.") from error
    return _checked(
        path,
        name=content.get("name"),
        train=_options(path, "train", content.get("train")),
        axes={name: _labels(path, name, labels) for name, labels in axes.items()},
        seeds=content.get("seeds"),
        baseline=content.get("baseline"),
        cells=tuple(cells),
        tune=tune,
        script=script,
        metric=judged,
        kept_version=version,
        controls=kept.get("controls"),
    )


def _controls(path: Path, controls: Any, axis: str, axes: dict[str, dict[str, Options]]) -> dict[str, list[str]]:
    """Label -> labels to compare it with; one label may stand without a list."""
    named = {
        label: list(map(str, others if isinstance(others, list) else [others]))
        for label, others in _options(path, "controls", controls).items()
    }
    for label, others in named.items():
        for one in (label, *others):
            check_label(path, "controls", axis, one, axes)
        if label in others:
            raise ValueError(f"{path}: controls: {label!r} can't be compared with itself.")
    return named


def _checked(
    path: Path,
    *,
    name: Any,
    axes: dict[str, dict[str, Options]],
    seeds: Any,
    baseline: Any,
    cells: tuple[tuple[dict[str, list[str]], Options], ...],
    controls: Any = None,
    **others: Any,
) -> Study:
    """The study, after what a study file and a study.json must both have.

    name, seeds, baseline, controls: as they are read.
    """
    check_name(path, "name", name)
    if not axes:
        raise ValueError(f"{path}: axes is missing.")
    for axis, labels in axes.items():
        if not labels:
            raise ValueError(f"{path}: axis {axis!r} has no label.")
        for label in labels:
            if "/" in label:
                raise ValueError(
                    f"{path}: {label!r} has a slash and can't name a folder. Use a mapping of labels to options."
                )
            check_name(path, f"axis {axis!r}", label)
    refuse_shared_options(path, axes)
    for where, _ in cells:
        for axis, named in where.items():
            for label in named:
                check_label(path, "cells", axis, label, axes)
    compared = {axis: str(label) for axis, label in _options(path, "baseline", baseline).items()}
    for axis, label in compared.items():
        check_label(path, "baseline", axis, label, axes)
    if len(compared) != 1:
        raise ValueError(f"{path}: baseline must name one axis and its label, such as {{method: sgd}}.")
    ((axis, _),) = compared.items()
    others["controls"] = _controls(path, controls, axis, axes)
    study = Study(name=name, axes=axes, seeds=_seeds(path, "seeds", seeds), baseline=compared, cells=cells, **others)
    if study.script is not None:
        parts = [study.train, *(part for labels in axes.values() for part in labels.values())]
        check_flags(path, [*parts, *(given for _, given in cells)], study.tune.option if study.tune else None)
    check_runs(path, study)
    return study


def _axis(path: Path, name: str, values: Any, content: dict[str, Any]) -> dict[str, Options]:
    has_script = content.get("script") is not None
    if isinstance(values, dict) and has_script and name == METHOD:
        return methods_of(path, values, None)
    if isinstance(values, dict):
        labels = _labels(path, name, values)
        return {k: with_method(path, f"{name}.{k}", v) for k, v in labels.items()} if has_script else labels
    if not isinstance(values, list) or not values:
        raise ValueError(f"{path}: axis {name!r} must be a list of values or a mapping of labels to options.")
    for value in values:
        if isinstance(value, dict | list | None):
            raise ValueError(
                f"{path}: axis {name!r}: {value!r} is no label. Use text, a number, or a mapping of labels to options."
            )
    if len(set(map(str, values))) < len(values):
        raise ValueError(f"{path}: axis {name!r} has a value twice: {values}.")
    if name != METHOD:
        return {str(value): {name: value} for value in values}
    methods = content.get("methods") or {}
    if isinstance(methods, str):
        try:
            methods = read_yaml(path.parent / methods)
        except ValueError as error:
            raise ValueError(f"{path}: methods: {error}") from error
    if has_script:
        return methods_of(path, values, methods)
    methods = _labels(path, "methods", methods)
    for method in map(str, values):
        if method not in methods:
            raise ValueError(f"{path}: method {method!r} does not exist. {nearest(method, list(methods))}")
    return {str(method): methods[str(method)] for method in values}


def _labels(path: Path, name: str, labels: Any) -> dict[str, Options]:
    """Label -> options; a label may be a number, and no options at all are null."""
    if not isinstance(labels, dict):
        raise ValueError(f"{path}: {name}: {labels!r} must be a mapping of labels to options.")
    return {str(label): _options(path, f"{name}.{label}", options) for label, options in labels.items()}


def _cell(path: Path, entry: Any) -> tuple[dict[str, list[str]], Options]:
    if not isinstance(entry, dict) or not isinstance(entry.get("set"), dict):
        raise ValueError(f"{path}: cells: {entry!r} must have labels of axes and 'set' with options.")
    where = {axis: labels if isinstance(labels, list) else [labels] for axis, labels in entry.items() if axis != "set"}
    where = {axis: [str(label) for label in labels] for axis, labels in where.items()}
    return where, _options(path, "cells: set", entry["set"])


def _seeds(path: Path, key: str, seeds: Any) -> tuple[int, ...]:
    if (
        not isinstance(seeds, list)
        or not all(type(seed) is int and 0 <= seed < 1 << 32 for seed in seeds)
        or not seeds
    ):
        raise ValueError(f"{path}: {key}={seeds!r} must be a list of whole numbers from 0 to {(1 << 32) - 1}.")
    if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        raise ValueError(f"{path}: {key} has {', '.join(map(str, twice))} twice.")
    return tuple(seeds)


def _tuning(path: Path, tune: Any) -> Tuning | None:
    if tune is None:
        return None
    options = [key for key in tune if key != "seeds"] if isinstance(tune, dict) else []
    if len(options) != 1 or not isinstance(options[0], str) or "seeds" not in tune:
        raise ValueError(f"{path}: tune must have one option with a list of values, and seeds.")
    values = tune[options[0]]
    if isinstance(values, list):
        values = [number(value) for value in values]  # YAML's 1e-5 is text
    if not isinstance(values, list) or not values or not all(is_number(value) for value in values):
        raise ValueError(
            f"{path}: tune must have one option with a list of values, which are numbers, and seeds; "
            f"{options[0]}={values!r} is none."
        )
    if len({f"{value:g}" for value in values}) < len(values):
        raise ValueError(f"{path}: tune.{options[0]} has a value twice, to six digits: {values}.")
    return Tuning(options[0], tuple(values), _seeds(path, "tune.seeds", tune["seeds"]))


def _options(path: Path, key: str, options: Any) -> Options:
    """A mapping whose keys are text; null is an empty one."""
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise ValueError(f"{path}: {key}: {options!r} must be a mapping.")
    for name in options:
        if not isinstance(name, str):
            raise ValueError(f"{path}: {key}: {name!r} is no name. Put it in quotes.")
    return options


def _text(path: Path, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{path}: {key}: {value!r} must be text.")
    return value


def _list(path: Path, key: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{path}: {key}: {value!r} must be a list.")
    return value
