"""What is kept of a run's files when its study is published: everything that reports read, in a few kB a run."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..files import finite, write_whole
from ..runs.history import NO_METRIC, read_history


MAX_LOSSES = 50  # entries of the log that have a training loss and no evaluation
# Of a layer at each look, what pictures and reports read.
LAYER = ("name", "kind", "excluded_by", "num_eigenvalues", "alpha", "alpha_relative", "multiplier", "D", "stable_rank")


def compact_results(results: dict[str, Any]) -> dict[str, Any]:
    """A results.json without arguments that have their default, speeds, and most losses between evaluations.

    The defaults are those of the installed transformers, whose version is in the environment of the results.
    """
    kept = dict(results)
    if "arguments" in kept:
        defaults = _defaults()
        kept["arguments"] = {
            name: value
            for name, value in kept["arguments"].items()
            if name in ("seed", "learning_rate") or name not in defaults or value != defaults[name]
        }
    log = [_without_speeds(entry) for entry in kept.get("epochs", [])]
    losses = [n for n, entry in enumerate(log) if not any(key.startswith(("eval_", "test_")) for key in entry)]
    every = -(-len(losses) // MAX_LOSSES) or 1
    dropped = set(losses) - set(losses[::-every])  # counted from the last one, which stays
    kept["epochs"] = [entry for n, entry in enumerate(log) if n not in dropped]
    if "predictions" in kept:
        kept["predictions"] = [_without_speeds(metrics) for metrics in kept["predictions"]]
    return kept


def copy_history(source: Path, target: Path) -> None:
    """Copy a history with those numbers of each layer that reports read, to six digits."""
    lines = []
    for look in read_history(source):
        layers = [{key: _short(layer[key]) for key in LAYER if key in layer} for layer in look["layers"]]
        lines.append(json.dumps(finite(look | {"layers": layers}), separators=(",", ":"), allow_nan=False) + "\n")
    write_whole(target, "".join(lines))


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _without_speeds(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if not key.endswith(NO_METRIC)}


@lru_cache(maxsize=1)
def _defaults() -> dict[str, Any]:
    """Name of each argument of a Trainer -> its default, in JSON types."""
    from transformers import TrainingArguments

    found = {}
    for option in fields(TrainingArguments):
        value = option.default_factory() if option.default_factory is not MISSING else option.default
        if value is not MISSING:
            found[option.name] = json.loads(json.dumps(value, default=str))
    return found
