"""Reading what a checkpoint has stored: every field is checked, and a wrong one is named with its place."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable
from typing import Any


class Stored:
    """A JSON object of a checkpoint whose fields are read one by one.

    Args:
        value: what should be the object.
        where: file and place in it, for the messages.

    Raises:
        ValueError: ``value`` is not an object; from the methods: a field is missing or is something else. The message
            has the place, the value and what it should be.
    """

    def __init__(self, value: Any, where: str) -> None:
        self.where = where
        if not isinstance(value, dict):
            raise _damaged(where, value, "an object")
        self._fields = value

    def __contains__(self, key: str) -> bool:
        return self._fields.get(key) is not None

    def keys(self) -> set[str]:
        """The names of the fields."""
        return set(self._fields)

    def object(self, key: str) -> Stored:
        """A field that is an object in its turn."""
        return Stored(self._fields.get(key, "missing"), f"{self.where}.{key}")

    def objects(self, key: str) -> list[Stored]:
        """A field that is a list of objects."""
        items = self._get(key, "a list", lambda value: isinstance(value, list))
        return [Stored(item, f"{self.where}.{key}[{index}]") for index, item in enumerate(items)]

    def text(self, key: str) -> str:
        """A field that is a text."""
        return str(self._get(key, "a text", lambda value: isinstance(value, str)))

    def optional_text(self, key: str) -> str | None:
        """A field that is a text or null."""
        value = self._get(key, "a text or null", lambda value: value is None or isinstance(value, str))
        return None if value is None else str(value)

    def flag(self, key: str) -> bool:
        """A field that is true or false."""
        return bool(self._get(key, "true or false", lambda value: isinstance(value, bool)))

    def whole(self, key: str, smallest: int = 0) -> int:
        """A field that is a whole number, no smaller than ``smallest``."""
        allowed = f"a whole number, {smallest} or more"
        return int(self._get(key, allowed, lambda value: type(value) is int and value >= smallest))

    def wholes(self, key: str) -> list[int]:
        """A field that is a list of whole numbers, 0 or more."""

        def is_good(value: Any) -> bool:
            return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)

        return list(self._get(key, "a list of whole numbers", is_good))

    def amount(self, key: str) -> float:
        """A field that is a finite number, 0 or more."""
        return float(self._get(key, "a finite number, 0 or more", _is_amount))

    def number(self, key: str) -> float:
        """A field that is a number; null, which stands for NaN and infinity in strict JSON, comes back as NaN."""
        value = self._get(key, "a number or null", lambda value: value is None or _is_number(value))
        return math.nan if value is None else float(value)

    def amounts(self) -> dict[str, float]:
        """All fields, where each is a finite number, 0 or more."""
        return {key: self.amount(key) for key in self._fields}

    def _get(self, key: str, expected: str, is_good: Callable[[Any], bool]) -> Any:
        value = self._fields.get(key, "missing")
        if value == "missing" and key not in self._fields or not is_good(value):
            raise _damaged(f"{self.where}.{key}", value, expected)
        return value


def _is_number(value: Any) -> bool:
    # A whole number that no float holds, such as 10**400, is none.
    return type(value) is float or (type(value) is int and abs(value) < 2**1023)


def _is_amount(value: Any) -> bool:
    return _is_number(value) and 0 <= value < math.inf


def _damaged(where: str, value: Any, expected: str) -> ValueError:
    return ValueError(f"{where} is {reprlib.repr(value)} and should be {expected}: the state is damaged.")
