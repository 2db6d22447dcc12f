"""How a check ended."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import warnings
from collections.abc import Callable
from typing import Any


WORKS = "works"


def outcome(check: Callable[[], None], without: Callable[[], Any] | None = None) -> str:
    """ "works", "refused: ..." with the sentence, "failed: ...", or "not tried" where it fails without us as well."""
    quiet = contextlib.redirect_stdout(io.StringIO())
    with quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            check()
        except ValueError as error:
            if "\n" not in str(error):
                return f"refused: {error}"
            return f"failed: {error!r}"
        except Exception as error:  # noqa: BLE001  a failure is a result here
            failure = f"{type(error).__name__}: {error}"
            if without is not None:
                try:
                    without()
                except Exception:  # noqa: BLE001  whatever it is, it is not ours
                    return f"not tried: plain training fails here as well ({failure.splitlines()[0]})"
            return f"failed: {failure}"
    return WORKS


def missing(package: str) -> str | None:
    return f"not tried: {package} is not installed" if package and importlib.util.find_spec(package) is None else None
