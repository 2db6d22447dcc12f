"""In which settings runs differ, beside seeds and places."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .run import Run


# What says where a run is and how much it tells, and does not change what it learns.
IGNORED = {"seed", "data_seed", "output_dir", "overwrite_output_dir", "run_name", "project", "disable_tqdm", "debug"}
IGNORED |= {"resume_from_checkpoint", "local_rank", "working_directory", "do_train", "do_eval", "do_predict", "script"}
IGNORED |= {"script_arguments", "backup_of", "dirty", "ddp_timeout", "versions"}
IGNORED_BEGINNINGS = ("hub_", "log", "push_to_hub", "report_to", "save_", "trackio_")
METHOD = ("tempbalance", "preset")  # and the settings of TempBalance, which begin with "tempbalance."


@dataclass(frozen=True)
class Difference:
    """A setting and its values on the two sides, as text; several on a side where its own runs differ."""

    name: str
    base: list[str]
    other: list[str]

    @property
    def is_method(self) -> bool:
        """Whether it is a setting of TempBalance."""
        return self.name in METHOD or self.name.startswith("tempbalance.")

    @property
    def is_within(self) -> bool:
        """Whether runs of one side differ in it."""
        return len(self.base) > 1 or len(self.other) > 1


def settings_of(run: Run) -> dict[str, Any]:
    """All settings of a run that can change what it learns; TempBalance's begin with "tempbalance."."""
    found: dict[str, Any] = {"steps": max((entry.get("step") or 0 for entry in run.log), default=0)}
    found |= run.options | run.arguments | run.environment
    found |= {f"version of {name}": value for name, value in run.environment.get("versions", {}).items()}
    found |= {
        f"--{name}": value
        for name, value in flags(run.options.get("script_arguments", [])).items()
        if name not in run.arguments and not _is_ignored(name)
    }
    found["tempbalance"] = run.settings is not None or bool(run.looks)
    found |= {f"tempbalance.{name}": value for name, value in (run.settings or {}).items()}
    return {name: value for name, value in found.items() if not _is_ignored(name)}


def differences(base: Sequence[Run], other: Sequence[Run]) -> list[Difference]:
    """The settings in which the runs of two sides are not all alike, those of TempBalance first.

    A setting that a run's files do not tell, as ``trainer_state.json`` alone does not, counts as no difference.
    """
    sides = [[settings_of(run) for run in side] for side in (base, other)]
    names = dict.fromkeys(name for side in sides for settings in side for name in settings)
    found = []
    for name in names:
        values = [list(dict.fromkeys(_text(s[name]) for s in side if name in s)) for side in sides]
        if len({value for side in values for value in side}) > 1:
            found.append(Difference(name, *values))
    return sorted(found, key=lambda difference: not difference.is_method)


def _is_ignored(name: str) -> bool:
    return name in IGNORED or name.startswith(IGNORED_BEGINNINGS)


def flags(arguments: Sequence[str]) -> dict[str, str]:
    """``--name value`` and ``--name=value`` of a command line; what stands alone is under its place."""
    found: dict[str, str] = {}
    name = None
    for position, argument in enumerate(arguments):
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            found[name] = value if equals else "true"
            name = None if equals else name
        elif name is not None:
            found[name] = argument if found[name] == "true" else f"{found[name]} {argument}"
        else:
            found[f"argument {position + 1}"] = argument
    return found


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.10g}"
    return value if isinstance(value, str) else json.dumps(value)
