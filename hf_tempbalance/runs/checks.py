"""Whether the files of a run have what their readers go on: each field that is used, by type and range."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from ..files import damaged, is_count, is_number
from .history import is_tuned


NUMBERS = (
    "alpha",
    "alpha_relative",
    "multiplier",
    "D",
    "stable_rank",
)  # of a layer; NaN where one could not be computed


def check_results(path: Path, results: dict[str, Any]) -> None:
    """Check results.json and turn each entry of its epochs into numbers, as `checked_log` does.

    Raises:
        ValueError: a field is not what a run writes. The message names file and field.
    """
    _text(path, "status", results.get("status"))
    results["epochs"] = checked_log(path, "epochs", results.get("epochs", []))
    for name in ("config", "arguments", "environment"):
        _mapping(path, name, results.get(name, {}))
    _mapping(path, "environment.versions", results.get("environment", {}).get("versions", {}))
    if not isinstance(results.get("config", {}).get("settings", {}), dict | None):
        raise damaged(path, "config.settings", results["config"]["settings"], "an object")
    if not is_number(rate := results.get("arguments", {}).get("learning_rate", 0)):
        raise damaged(path, "arguments.learning_rate", rate, "a number")
    for name in ("seconds", "tempbalance_seconds"):
        value = results.get(name)
        if value is not None and not is_number(value):
            raise damaged(path, name, value, "a number of seconds")
        if value is not None:  # negative where an older version's clock was set back
            results[name] = max(float(value), 0.0)
    for position, layer in enumerate(_list(path, "layers", results.get("layers", []))):
        where = f"layers[{position}]"
        _mapping(path, where, layer)
        _text(path, f"{where}.name", layer.get("name"))
        _rule(path, where, layer)
        for name in ("alpha_start", "alpha_end"):
            if layer.get(name) is not None and not is_number(layer[name], finite=False):
                raise damaged(path, f"{where}.{name}", layer[name], "a number or null")


def checked_log(path: Path, field: str, log: Any) -> list[dict[str, Any]]:
    """The entries of a Trainer's ``log_history``, oldest first, with their numbers alone; other metrics are left out.

    Epoch and step are 0 in what was logged before training.

    Raises:
        ValueError: it is no list of objects, or an epoch or a step is no number.
    """
    entries = []
    for position, entry in enumerate(_list(path, field, log)):
        where = f"{field}[{position}]"
        _mapping(path, where, entry)
        if not is_number(epoch := entry.get("epoch", 0.0)) or epoch < 0:
            raise damaged(path, f"{where}.epoch", epoch, "a number")
        if not is_count(step := entry.get("step", 0)):
            raise damaged(path, f"{where}.step", step, "a whole number")
        numbers: dict[str, Any] = {key: float(value) for key, value in entry.items() if is_number(value, finite=False)}
        numbers |= {key: None for key, value in entry.items() if value is None}  # NaN, in results.json
        entries.append(numbers | {"epoch": float(epoch), "step": step})
    return entries


def check_looks(path: Path, looks: list[dict[str, Any]]) -> None:
    """Check the looks of a history, and make floats of their numbers.

    A history of before has no `alpha_relative`, which becomes NaN, and no `multiplier_mean`, which becomes the mean
    over the tuned layers.

    Raises:
        ValueError: a field that reports go on is missing or not what a look has, or looks have different layers.
    """
    for number, look in enumerate(looks, start=1):
        where = f"line {number}: "
        for name in ("epoch", "seconds"):
            if not is_number(look.get(name)) or look[name] < 0:
                raise damaged(path, where + name, look.get(name), "a number from 0 up")
            look[name] = float(look[name])
        if not is_count(look.get("step")):
            raise damaged(path, f"{where}step", look.get("step"), "a whole number")
        if look.get("in_force") is not None and not is_count(look["in_force"]):
            raise damaged(path, f"{where}in_force", look["in_force"], "a whole number or null")
        if not _list(path, f"{where}layers", look["layers"]):
            raise damaged(path, f"{where}layers", [], "a list of layers")
        for position, layer in enumerate(look["layers"]):
            _check_layer(path, f"{where}layers[{position}]", layer)
        if [layer["name"] for layer in look["layers"]] != [layer["name"] for layer in looks[0]["layers"]]:
            raise ValueError(f"{path} is damaged: line {number} has other layers than line 1.")
        tuned = [layer["multiplier"] for layer in look["layers"] if is_tuned(layer)]
        mean = look.setdefault("multiplier_mean", statistics.fmean(tuned) if tuned else 1.0)
        if not is_number(mean) or mean < 0:
            raise damaged(path, f"{where}multiplier_mean", mean, "a number from 0 up")


def _check_layer(path: Path, where: str, layer: Any) -> None:
    _mapping(path, where, layer)
    for name in ("name", "kind"):
        _text(path, f"{where}.{name}", layer.get(name))
    _rule(path, where, layer)
    if not is_count(layer.get("num_eigenvalues")):
        raise damaged(path, f"{where}.num_eigenvalues", layer.get("num_eigenvalues"), "a whole number")
    layer.setdefault("alpha_relative", math.nan)
    for name in NUMBERS:
        value = layer.get(name)
        if not is_number(value, finite=False) or math.isinf(value):
            raise damaged(path, f"{where}.{name}", value, "a number or null")
        layer[name] = float(value)


def _rule(path: Path, where: str, layer: dict[str, Any]) -> None:
    if "excluded_by" not in layer or not isinstance(layer["excluded_by"], str | None):
        raise damaged(path, f"{where}.excluded_by", layer.get("excluded_by"), "a rule or null")


def _text(path: Path, field: str, value: Any) -> None:
    if not isinstance(value, str):
        raise damaged(path, field, value, "text")


def _mapping(path: Path, field: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise damaged(path, field, value, "an object")


def _list(path: Path, field: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise damaged(path, field, value, "a list")
    return value
