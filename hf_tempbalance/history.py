"""``tempbalance_history.jsonl``: one JSON object a look. Read by the callback, plots and reports."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any


HISTORY_NAME = "tempbalance_history.jsonl"


def append_look(path: str | Path, look: dict[str, Any]) -> None:
    """Append one look as a line of strict JSON; NaN and infinity are written as null.

    The line is on disk when this returns, so that a killed process loses no finished look.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(_finite(look), allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


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
            look["layers"] = [_with_nan(layer) for layer in look["layers"]]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}, line {number} is not a look of a TempBalance history: {error!r}") from error
        looks.append(look)
    return looks


def cut_history(path: str | Path, last_step: int) -> None:
    """Drop the looks after ``last_step``, and a damaged last line, so that a resumed run continues the file.

    The file is replaced in one move; a missing file stays missing.
    """
    path = Path(path)
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    kept = [line for line in lines if json.loads(line)["step"] <= last_step]
    draft = path.with_name(path.name + ".tmp")
    draft.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    os.replace(draft, path)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_nan(layer: dict[str, Any]) -> dict[str, Any]:
    # `excluded_by` is the one field of a layer that is null without being a number.
    return {key: math.nan if value is None and key != "excluded_by" else value for key, value in layer.items()}
