"""Files: JSON that every reader takes, writing that a kill can't cut in half, reading that believes nothing."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import reprlib
from pathlib import Path
from typing import Any


MAX_DEPTH = 50  # of nested lists and mappings; Python's own limit is a recursion that other code shares
MAX_VALUES = 20_000_000  # in one file; a YAML file of a hundred bytes can have more
SECRET = re.compile(r"(token|password|secret|(api|access|secret|private)[_-]?key)$", re.IGNORECASE)


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


def read_json(path: str | Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no JSON object, or one that is nested too deep. The message names the file.
        OSError: it can't be read.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path} is damaged: it is nested too deep.") from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
    _bounded(path, value)
    if not isinstance(value, dict):
        raise damaged(path, "its content", value, "an object in braces")
    return value


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The YAML mapping in a file, of the types that JSON has (needs PyYAML); nothing at all is an empty mapping.

    Raises:
        ValueError: it can't be read or has something else. The message names the file.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not YAML: it is not text in UTF-8.") from error
    value = parse_yaml(text, str(path))
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{path} must have one 'option: value' a line.")
    return value or {}


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text, of the types that JSON has. Raises ValueError with ``where`` in front."""
    import yaml

    try:
        value = yaml.safe_load(text)
    except RecursionError as error:
        raise ValueError(f"{where} is nested too deep.") from error
    except (yaml.YAMLError, ValueError, OverflowError, TypeError) as error:  # a date of month 13, an unhashable key
        raise ValueError(f"{where} is not YAML: {' '.join(str(error).split())}") from error
    _bounded(where, value)
    return value


def _bounded(where: str | Path, value: Any) -> None:
    """Refuse what is too deep or too much to walk through, or is of a type that JSON does not have."""
    level, count = [value], 0
    for depth in itertools.count():
        if not level:
            return
        count += len(level)
        if depth > MAX_DEPTH or count > MAX_VALUES:
            raise ValueError(f"{where} is nested too deep or too large: {MAX_DEPTH} levels are allowed.")
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                for key in item:
                    if not isinstance(key, str | int | float | None):
                        raise damaged(where, "a key", key, "text")
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif not isinstance(item, str | int | float | None):
                raise damaged(where, "a value", item, "text, a number, true, false, a list or a mapping")
            if len(below) > MAX_VALUES:
                break
        level = below


def damaged(path: str | Path, field: str, value: Any, allowed: str) -> ValueError:
    """The error for a field of a file that is not what belongs there."""
    return ValueError(f"{path} is damaged: {field} is {reprlib.repr(value)}; {allowed} belongs there.")


def is_number(value: Any, *, finite: bool = True) -> bool:
    """Whether a JSON value is a number that a float can hold; NaN and infinity where they are asked for."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value) or not finite
    except OverflowError:
        return False


def is_count(value: Any) -> bool:
    """Whether a JSON value is a whole number from 0 to the largest that every reader of JSON has."""
    return type(value) is int and 0 <= value < 1 << 53


def masked(value: Any) -> Any:
    """The same JSON value with a placeholder for each secret, which is what a key names that `is_secret`:
    ``{"hub_token": "hf_..."}`` becomes ``{"hub_token": "<HUB_TOKEN>"}``, as in transformers.
    """
    if isinstance(value, dict):
        return {
            key: masked(item) if item is None or not is_secret(key) else f"<{key.upper()}>"
            for key, item in value.items()
        }
    return [masked(item) for item in value] if isinstance(value, list) else value


def is_secret(name: Any) -> bool:
    """Whether what has this name is a secret: it ends in token, password, secret, or api, access, secret, private key.

    ``hub_token`` and ``--api-key`` do, ``tokenizer_name`` and ``max_tokens`` do not.
    """
    return isinstance(name, str) and SECRET.search(name) is not None


def file_stem(name: str, taken: set[str]) -> str:
    """A file name without its ending for any text, other than those taken on every file system; it is then taken too.

    Letters, digits, ``.``, ``_`` and ``-`` of ASCII stay, anything else becomes ``_``; at most 120 characters.
    """
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:110]
    stem = "_" + stem[1:] if stem.startswith(".") else stem or "model"
    free = (stem if number == 1 else f"{stem}-{number}" for number in itertools.count(1))
    found = next(candidate for candidate in free if candidate.lower() not in taken)
    taken.add(found.lower())
    return found
