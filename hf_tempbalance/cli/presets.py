"""``hf-tempbalance presets``: the published methods side by side, with their sources."""

from __future__ import annotations

import argparse
import json

from ..config import TempBalanceConfig
from ..presets import PRESETS


def add_presets(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser("presets", help="the published methods side by side, with their sources")
    parser.add_argument("name", nargs="?", help="one of them: all its settings")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def presets_command(options: argparse.Namespace) -> None:
    """Print all presets with what they change, or all settings of one."""
    if options.name is not None:
        settings = TempBalanceConfig.preset(options.name).to_dict()
        print(json.dumps(settings, indent=2) if options.json else _one(options.name, settings))
    elif options.json:
        print(json.dumps({name: preset.settings for name, preset in PRESETS.items()}, indent=2))
    else:
        print("\n\n".join(_summary(name) for name in PRESETS))


def _summary(name: str) -> str:
    preset = PRESETS[name]
    settings = ", ".join(f"{key}={_shown(value)}" for key, value in preset.settings.items()) or "the defaults"
    return "\n".join([name, *_wrapped(f"{preset.what}."), *_wrapped(settings), *_wrapped(f"Source: {preset.source}")])


def _one(name: str, settings: dict[str, object]) -> str:
    changed = PRESETS[name].settings
    lines = [f"{'*' if key in changed else ' '} {key} = {_shown(value)}" for key, value in settings.items()]
    return "\n".join([_summary(name), "", *lines, "", "* differs from the defaults"])


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 78, initial_indent="  ", subsequent_indent="  ", break_long_words=False)


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
