"""What a study of any script has in its file: the script, the metric, methods, and flags that it may not set."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..files import masked
from ..options import nearest, shown
from ..presets import PRESETS
from ..run import PLAIN, settings_of
from ..runs.measured import direction
from ..runs.run import Run as Record
from .command import RESERVED
from .plan import METHOD, Metric, Options, Study


FLAG = re.compile(r"[A-Za-z_][\w.-]*")


def find_script(path: Path, name: Any) -> Path:
    """The script that a study file names: beside the file, or in the working directory.

    Raises:
        ValueError: it is in neither.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"{path}: script: {shown(name)} must be the path of a Python file.")
    for found in (path.parent / name, Path(name)):
        if found.is_file():
            return found.resolve()
    raise ValueError(
        f"{path}: script: {name} is neither beside the study file nor in the working directory. Give the Python file "
        "that trains."
    )


def read_metric(path: Path, metric: Any, maximize: Any, train: Options) -> Metric:
    """The metric of a study file.

    Args:
        metric: a name, or ``{choose: NAME, report: NAME}``.
        maximize: true or false for both, ``{choose: ..., report: ...}``, or None where the names tell.
        train: flags of every run; ``metric_for_best_model`` and ``greater_is_better`` tell as well.

    Raises:
        ValueError: it is none of these, or nothing tells which direction is better.
    """
    names = metric if isinstance(metric, dict) else {"choose": metric, "report": metric}
    if set(names) != {"choose", "report"} or not all(isinstance(n, str) and n for n in names.values()):
        raise ValueError(
            f"{path}: metric: {shown(metric)} must be a name such as eval_accuracy, or {{choose: eval_accuracy, "
            "report: test_accuracy}: tuned values are chosen on the first, the second is compared."
        )
    larger = maximize if isinstance(maximize, dict) else dict.fromkeys(names, maximize)
    if not larger.keys() <= names.keys() or not all(isinstance(value, bool | None) for value in larger.values()):
        raise ValueError(f"{path}: maximize: {shown(maximize)} must be true, false, or both under choose and report.")
    told = {role: direction(name, [Record(path, arguments=train)]) for role, name in names.items()}
    found: dict[str, bool] = {}
    for role, name in names.items():
        value = larger.get(role)
        if value is None and told[role] is None:
            raise ValueError(
                f"{path}: whether a larger {name} is better is not in its name. Say maximize: true or maximize: false."
            )
        if not isinstance(maximize, dict) and value is not None and len({*told.values()} - {None}) == 2:
            raise ValueError(
                f"{path}: maximize: {str(value).lower()} can't hold for both {names['choose']} and {names['report']}. "
                "Leave it out, or write maximize: {choose: ..., report: ...}."
            )
        found[role] = told[role] == "higher" if value is None else value
    return Metric(names["choose"], names["report"], found["choose"], found["report"])


def methods_of(path: Path, values: Any, methods: Any) -> dict[str, Options]:
    """Labels of the method axis -> options.

    Args:
        values: list of names of ``methods``, "none" and names of presets; or itself a mapping as ``methods``.
        methods: name -> "none" or a preset's name, or ``{preset: NAME, FIELD: VALUE, ..., flags: {...}}``.
    """
    if isinstance(values, dict):
        return {str(label): _method(path, str(label), value) for label, value in values.items()}
    known = {str(label): value for label, value in methods.items()} if isinstance(methods, dict) else {}
    presets = dict.fromkeys((PLAIN, *PRESETS))
    for label in map(str, values):
        if label not in known and label not in presets:
            raise ValueError(
                f"{path}: method {label!r} is neither in methods nor a preset. {nearest(label, [*known, *presets])}"
            )
    return {str(label): _method(path, str(label), known.get(str(label))) for label in values}


def _method(path: Path, label: str, value: Any) -> Options:
    """Options of a method: flags of the script, and the settings of TempBalance under METHOD."""
    if value is None or isinstance(value, str):
        value = {"preset": value} if value is not None else {}
    if not isinstance(value, dict) or not isinstance(value.get("flags", {}), dict):
        raise ValueError(
            f"{path}: methods.{label}: {shown(value)} must be none, the name of a preset, or a mapping of preset, "
            "options of TempBalanceConfig and flags."
        )
    named = label if label == PLAIN or label in PRESETS else "tempbalance"
    settings = {"preset": named} | {key: item for key, item in value.items() if key != "flags"}
    return value.get("flags", {}) | {METHOD: settings}


def with_method(path: Path, where: str, options: Options) -> Options:
    """Options with ``method: NAME`` written as ``method: {preset: NAME}``. Raises ValueError where it is neither."""
    method = options.get(METHOD, {})
    if isinstance(method, str):
        method = {"preset": method}
    if not isinstance(method, dict):
        raise ValueError(
            f"{path}: {where}: method: {shown(method)} must be {PLAIN}, the name of a preset, or a mapping of preset "
            "and options of TempBalanceConfig."
        )
    return options | {METHOD: method} if METHOD in options else options


def check_flags(path: Path, options: Iterable[Options], tuned: str | None) -> None:
    """Raise ValueError where one sets what is not the script's to set, or what can't be a flag."""
    for name in dict.fromkeys([key for part in options for key in part] + ([tuned] if tuned else [])):
        if name in RESERVED:
            hint = "Seeds stand under seeds." if name == "seed" else "Every run gets its own."
            raise ValueError(f"{path}: {name} is set by the study itself. {hint}")
        if not FLAG.fullmatch(name):
            raise ValueError(f"{path}: {name!r} is no name of a flag. Write it without the dashes in front.")
    for part in options:
        for name, value in part.items():
            if name == METHOD:
                continue
            if isinstance(value, dict | list) and masked(value) != value:
                raise ValueError(
                    f"{path}: {name} has a secret inside, which would stand on a command line. Put it into an "
                    "environment variable that the script reads."
                )


def check_methods(study: Study) -> None:
    """Whether every cell has a method, with settings that are allowed.

    Raises:
        ValueError: one has none, or a preset or an option does not exist or may not have its value. It names the cell.
    """
    seen = set()
    for cell in study.combinations():
        settings = study.options_of(cell).get(METHOD)
        name = "--".join(cell.values())
        if not isinstance(settings, dict) or "preset" not in settings:
            raise ValueError(
                f"{name} has no method. Add an axis method, such as method: [{PLAIN}, tempbalance], or "
                f"train: {{method: {{preset: {PLAIN}}}}}."
            )
        if (key := repr(settings)) in seen:
            continue
        seen.add(key)
        preset = settings["preset"]
        if not isinstance(preset, str):
            raise ValueError(f"{name}: preset {shown(preset)} must be {PLAIN} or the name of a preset.")
        if preset != PLAIN and preset not in PRESETS:
            raise ValueError(f"{name}: unknown preset {shown(preset)}. {nearest(preset, [PLAIN, *PRESETS])}")
        try:
            settings_of(preset, {key: value for key, value in settings.items() if key != "preset"})
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
