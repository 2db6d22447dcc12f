"""`Job`: one start of a run, as an executor takes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """What Python is started with, and where it writes; plain data, so that it can go to another machine.

    Attributes:
        name: of the run.
        folder: of the run, where ``log.txt`` takes what it prints.
        arguments: what stands behind the interpreter: ``[script, ...]`` or ``["-m", module, ...]``.
        environment: variables on top of those of the process.
    """

    name: str
    folder: Path
    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)
