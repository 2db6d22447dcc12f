"""Checking and converting the values of options: one line for each that is not allowed, with its name and what is."""

from __future__ import annotations

import difflib
import math
import numbers
import reprlib
from collections.abc import Iterable
from typing import Any, get_args, get_origin


def number(value: Any) -> Any:
    """The number that a text of YAML is; what is none stays, for the constructor to refuse with the field's name."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def nearest(key: str, known: list[str]) -> str:
    """The sentence that tells somebody who wrote ``key`` what is allowed."""
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"Allowed are: {', '.join(sorted(known))}."


def plain(name: str, value: Any, hint: Any) -> Any:
    """The value as Python's own str, bool, int or float. Raises ValueError where it is not of the option's type."""
    if get_origin(hint) is tuple:
        is_list = isinstance(value, Iterable) and not isinstance(value, (str, bytes, dict))
        items = list(value) if is_list else [None]
        require(all(isinstance(item, str) for item in items), name, value, "a list of texts")
        return tuple(str(item) for item in items)
    if choices := get_args(hint):
        allowed = ", ".join(repr(choice) for choice in choices)
        require(isinstance(value, str) and value in choices, name, value, f"one of {allowed}")
        return next(choice for choice in choices if choice == value)
    if hint is bool:
        # NumPy's is no subclass of Python's, and NumPy is not imported here: it costs --help a tenth of a second.
        is_numpy = type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_")
        require(isinstance(value, bool) or is_numpy, name, value, "True or False")
        return bool(value)
    is_duration = type(value).__name__ == "timedelta64"  # which NumPy counts as a whole number
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool) and not is_duration
    if hint is int:
        is_whole = is_number and isinstance(value, numbers.Integral)
        require(is_whole and abs(int(value)) < 1 << 63, name, value, "a whole number of at most 63 bits")
        return int(value)
    require(is_number and _is_finite(value), name, value, "a finite number")
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number above the largest float
        return False


def require(condition: bool, name: str, value: Any, allowed: str) -> None:
    """Raise ValueError where the condition does not hold, with name, value and what is allowed."""
    if not condition:
        raise ValueError(f"{name}={shown(value)} is not allowed: it must be {allowed}.")


def shown(value: Any) -> str:
    """repr for a message: on one line, and short however large the value is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 60
    try:
        return line(short.repr(value))
    except ValueError:  # Python does not print whole numbers of more than 4300 digits
        return "a number of thousands of digits"


def line(text: Any) -> str:
    """The text on one line, without a full stop at its end."""
    return " ".join(str(text).split()).rstrip(".")
