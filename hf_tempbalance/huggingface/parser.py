"""Command lines of our scripts: a YAML file gives the defaults, flags win, and a mistake is one line."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NoReturn, get_origin

from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from transformers import HfArgumentParser
from transformers.utils import logging

from ..config import RENAMED, TempBalanceConfig
from ..files import read_yaml
from ..options import nearest
from ..presets import PRESETS
from ..terminal import printable, run_command


class ConfigArgumentParser(HfArgumentParser):
    """`HfArgumentParser` with ``--config FILE.yaml`` and, beside `TempBalanceConfig`, ``--preset NAME``.

    Values of the file go through the same conversion and checks as flags, so ``1e-1`` is a number. A preset, also one
    that the file names, gives the defaults of the file.
    """

    dataclass_types: list[Any]

    def __init__(self, dataclass_types: Sequence[Any], **kwargs: Any) -> None:
        super().__init__(dataclass_types, allow_abbrev=False, **kwargs)
        self._raises = False
        self.add_argument("--config", help="YAML file with any of the options below; flags win over it.")
        if TempBalanceConfig in self.dataclass_types:
            names = ", ".join(PRESETS)
            self.add_argument("--preset", help=f"Settings to start from, one of {names}; file and flags win over it.")
        debug = self._option_string_actions.get("--debug")
        if debug is None:
            self.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
        else:  # TrainingArguments have one that takes names of their own checks; alone it is ours
            debug.nargs, debug.const = "?", []
            debug.help = f"Alone: show the traceback of an error. {debug.help}"

    def parse(self, argv: Sequence[str] | None = None) -> tuple[Any, ...]:
        """One object of each dataclass.

        Raises:
            ValueError: the file can't be read, or has an unknown key (the message has the nearest one).
            SystemExit: a flag is unknown or its value is not allowed.
        """
        argv = list(sys.argv[1:] if argv is None else argv)
        path = _value_of("config", argv)
        defaults = [] if path is None else self._flags_of(Path(path))
        preset = _value_of("preset", [*defaults, *argv])
        if preset is not None and TempBalanceConfig in self.dataclass_types:
            defaults = [*self._preset_flags(preset), *defaults]
        unknown = self.parse_known_args(argv)[1]
        if unknown:
            option = unknown[0].split("=")[0].lstrip("-")
            self.error(f"unknown option {unknown[0]!r}. {self._hint(option)}")
        return self._objects([*defaults, *argv])

    def parse_options(self, options: dict[str, Any]) -> tuple[Any, ...]:
        """One object of each dataclass from options in a dict, as a file has them.

        Raises:
            ValueError: an option is unknown or its value is not allowed.
        """
        self._raises = True
        try:
            preset = self._preset_flags(options["preset"]) if "preset" in options else []
            return self._objects([*preset, *self._flags(options)])
        finally:
            self._raises = False

    def set_defaults(self, **defaults: Any) -> None:
        """Set defaults as argparse does; no default may be of an option that is not there, or is there no longer.

        Raises:
            ValueError: no such option.
        """
        for key in defaults:
            if key not in self._known():
                raise ValueError(f"unknown option {key!r} in the script's defaults. {self._hint(key)}")
        super().set_defaults(**defaults)

    def error(self, message: str) -> NoReturn:
        """One line instead of several hundred lines of usage."""
        if self._raises:
            raise ValueError(message)
        self.exit(2, f"{self.prog}: {printable(message)}\n")

    def _objects(self, flags: list[str]) -> tuple[Any, ...]:
        try:
            parsed = self.parse_args_into_dataclasses(flags, look_for_args_file=False)
        except (TypeError, AttributeError, OverflowError, OSError) as error:  # transformers does not check all values
            raise ValueError(f"the value of an option is not allowed ({type(error).__name__}: {error}).") from error
        return parsed[: len(self.dataclass_types)]

    @staticmethod
    def _parse_dataclass_field(parser: Any, field: Any) -> None:
        if get_origin(field.type) is tuple:  # as a list, which it knows
            field = copy.copy(field)
            field.type, field.default_factory, field.default = list[str], list, MISSING
        HfArgumentParser._parse_dataclass_field(parser, field)

    def _preset_flags(self, name: str) -> list[str]:
        TempBalanceConfig.preset(name)  # refuses what is none
        return self._flags(PRESETS[name].settings)

    def _flags_of(self, path: Path) -> list[str]:
        options = read_yaml(path)
        try:
            return self._flags(options)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def _flags(self, options: dict[str, Any]) -> list[str]:
        flags = []
        for key, value in options.items():
            if key in RENAMED:
                raise ValueError(f"unknown key {key!r}: now {RENAMED[key]}.")
            if key not in self._known():
                raise ValueError(f"unknown key {key!r}. {self._hint(str(key))}")
            if isinstance(value, list):
                flags += [f"--{key}", *map(str, value)]
            elif value is not None:
                flags += [f"--{key}", json.dumps(value) if isinstance(value, dict) else str(value)]
        return flags

    def _known(self) -> list[str]:
        names = [field.name for kind in self.dataclass_types for field in fields(kind) if field.init]
        return [*names, "preset"] if TempBalanceConfig in self.dataclass_types else names

    def _hint(self, key: str) -> str:
        hint = nearest(key, [*self._known(), "config"])
        return hint if hint.startswith("Did") else "--help lists all options."


def _value_of(option: str, argv: list[str]) -> str | None:
    """The last value that a command line gives an option."""
    value = None
    for position, argument in enumerate(argv):
        if argument == f"--{option}" and position + 1 < len(argv):
            value = argv[position + 1]
        elif argument.startswith(f"--{option}="):
            value = argument.removeprefix(f"--{option}=")
    return value


def run(main: Callable[[], None]) -> NoReturn:
    """Call a script's ``main`` and end the process, as `run_command` does. --debug shows the traceback of an error.

    transformers' bars of loading and writing weights, which a checkpoint has one of, are off; those of downloads stay.
    """
    had_downloads = not are_progress_bars_disabled()
    logging.disable_progress_bar()  # and the Hub's with it
    if had_downloads:
        enable_progress_bars()
    debug = any(argument == "--debug" or argument.startswith("--debug=") for argument in sys.argv[1:])
    sys.exit(run_command(Path(sys.argv[0]).name, main, debug=debug))
