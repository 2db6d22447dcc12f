"""Files of ours: JSON that every reader takes, and writing that a kill can't cut in half."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any


def finite(value: Any) -> Any:
    """The same JSON value with None in the place of each number that is NaN or infinite."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_whole(path: str | Path, content: str) -> None:
    """Write a text file (UTF-8) in one move: whoever reads it, also after a kill, has the old one or the new one.

    Raises:
        OSError: it could not be written; the old file is still there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.tmp")
    draft.write_text(content, encoding="utf-8")
    os.replace(draft, path)


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON value, indented, in one move. NaN and infinity are written as null.

    Raises:
        OSError: as `write_whole`.
    """
    write_whole(path, json.dumps(finite(value), indent=2, allow_nan=False) + "\n")
