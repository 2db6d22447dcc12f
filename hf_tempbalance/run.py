"""``hf-tempbalance run [OPTIONS] script.py ARGS...``: a Trainer script with TempBalance in it, no line changed.

    hf-tempbalance run train.py --output_dir out              # the paper's settings
    hf-tempbalance run --preset none train.py --output_dir out             # plain training, recorded
    accelerate launch -m hf_tempbalance.run --metric alpha_hat train.py    # torchrun likewise

The script runs as ``python script.py ARGS...`` runs it. When one of its Trainers begins to train, the callback is put
in front of the trackers, and the run is recorded in ``results.json`` of its output folder.
"""

from __future__ import annotations

import argparse
import builtins
import hashlib
import os
import sys
import types
from collections.abc import Sequence
from dataclasses import fields
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from .config import TempBalanceConfig
from .files import is_secret
from .huggingface.attachment import Attachment
from .options import nearest, number, shown
from .presets import PRESETS


PROG = "hf-tempbalance run"
PLAIN = "none"  # the preset that is no method

# Nothing here may import torch or transformers: a script sets environment variables before it does so itself.


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0 when the script has come to its end.

    Raises:
        SystemExit: with code 2 after a mistake in the options, which is told in one line; or the script's own.
        BaseException: whatever the script raises, with the script's own traceback.
    """
    parser = make_parser()
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        name = unknown[0].split("=")[0].lstrip("-")
        known = [option.name for option in fields(TempBalanceConfig)] + ["preset", "config"]
        hint = nearest(name, known)
        hint = hint if hint.startswith("Did") else "--help lists all options; those of the script come behind it."
        parser.error(f"unknown option {unknown[0]!r}. {hint}")
    if options.script is None:
        parser.error("which script? Give the Python file that trains, and its own arguments behind it.")
    try:
        config = config_of(options)
        source = _read(options.script)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    about = {
        "preset": options.preset,
        "script": os.path.abspath(options.script),
        "script_sha256": hashlib.sha256(source).hexdigest(),
        "script_arguments": masked(options.arguments),
        "working_directory": os.getcwd(),
    }
    attachment = Attachment(config, about)
    attachment.hook()
    try:
        run_as_main(options.script, options.arguments, source)
    except BaseException as error:
        tell(attachment.finish(error))
        raise
    tell(attachment.finish(None))
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Options come before the script, whatever follows it is the script's. Each field of the config is an option."""
    about = "Run a script that trains with a Hugging Face Trainer, with TempBalance in it and no line of it changed."
    parser = _Parser(prog=PROG, usage=f"{PROG} [OPTIONS] script.py ARGS...", description=about, allow_abbrev=False)
    presets = f"settings to start from: {', '.join(PRESETS)}; {PLAIN}: plain training"
    parser.add_argument("--preset", default="tempbalance", help=presets)
    parser.add_argument("--config", metavar="FILE", help="YAML or JSON file of settings; single options win over it")
    settings = parser.add_argument_group("settings of TempBalance")
    hints = get_type_hints(TempBalanceConfig)
    for option in fields(TempBalanceConfig):
        hint = hints[option.name]
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        metavar = f"{{{','.join(choices)}}}" if choices else getattr(hint, "__name__", str(hint)).upper()
        settings.add_argument(f"--{option.name}", metavar=metavar, help=option.metadata["help"])
    parser.add_argument("script", nargs="?", help="the Python file")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="its own arguments")
    return parser


def config_of(options: argparse.Namespace) -> TempBalanceConfig | None:
    """The settings of a command line: the preset's, then those of the file, then single options. None: plain training.

    Raises:
        ValueError: a name, a key or a value is not allowed.
        OSError: the file can't be read.
    """
    hints = get_type_hints(TempBalanceConfig)
    flags = {name: _parsed(value) for name in hints if (value := getattr(options, name, None)) is not None}
    if options.preset == PLAIN and options.config:
        raise ValueError(f"--preset {PLAIN} is plain training and has no settings. Leave out --config, or the preset.")
    return settings_of(options.preset, ({} if options.config is None else _read_settings(options.config)) | flags)


def settings_of(preset: str, changes: dict[str, Any]) -> TempBalanceConfig | None:
    """The settings of a preset with changes; a number may be a text, as YAML has ``1e-5``. None: plain training.

    Raises:
        ValueError: a name, a key or a value is not allowed.
    """
    if preset == PLAIN:
        if changes:
            raise ValueError(
                f"--preset {PLAIN} is plain training and has no settings. Leave out --{next(iter(changes))}, or the "
                "preset."
            )
        return None
    if preset not in PRESETS:
        raise ValueError(
            f"unknown preset {shown(preset)}. {nearest(preset, [PLAIN, *PRESETS])} {PLAIN} is plain training; "
            "hf-tempbalance presets lists the methods."
        )
    hints = get_type_hints(TempBalanceConfig)
    numbers = {name: number(value) for name, value in changes.items() if hints.get(name) is float}
    return TempBalanceConfig.preset(preset, **changes | numbers)


def masked(arguments: Sequence[str]) -> list[str]:
    """Arguments as they are written into a file: the values of tokens and passwords are not."""
    shown, hides_next = [], False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        names_secret = name.startswith("-") and is_secret(name)
        if names_secret and equals:
            shown.append(f"{name}=***")
        else:
            shown.append("***" if hides_next and not argument.startswith("-") else argument)
        hides_next = names_secret and not equals
    return shown


def run_as_main(script: str, arguments: Sequence[str], source: bytes) -> None:
    """Run a script as Python does: ``__main__``, ``sys.argv`` and ``sys.path`` are the script's.

    They stay so: what is called at exit, and workers that are spawned, find them. A traceback begins in the script.
    """
    module = types.ModuleType("__main__")
    path = os.path.join(os.getcwd(), script)  # as Python has it, ".." and all
    loader = SourceFileLoader("__main__", path)
    vars(module).update(__file__=path, __cached__=None, __loader__=loader, __builtins__=builtins)
    sys.modules["__main__"] = module
    sys.argv[:] = [script, *arguments]
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    code = None
    try:
        code = compile(source, path, "exec", dont_inherit=True)
        exec(code, vars(module))
    except BaseException:
        show = sys.excepthook  # also one that the script has put there

        def without_our_frames(kind: type[BaseException], error: BaseException, trace: Any) -> None:
            while trace is not None and trace.tb_frame.f_code is not code:
                trace = trace.tb_next
            show(kind, error.with_traceback(trace), trace)

        sys.excepthook = without_our_frames
        raise


def tell(lines: Sequence[str]) -> None:
    """Say on stderr what the run has left; one process of several does."""
    if os.environ.get("RANK", "0") == "0":
        for line in lines:
            print(f"{PROG}: {line}", file=sys.stderr)  # noqa: T201  the command line's own output


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of a screen of usage."""
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")


def _read(script: str) -> bytes:
    path = Path(script)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ValueError(f"{script} {what}. Give the Python file that trains, behind the options of this command.")
    return path.read_bytes()


def _read_settings(path: str) -> dict[str, Any]:
    import yaml

    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} must have one 'option: value' a line.")
    known = [option.name for option in fields(TempBalanceConfig)]
    for key in settings:
        if key not in known:
            raise ValueError(f"{path}: unknown option {key!r}. {nearest(str(key), known)}")
    return settings


def _parsed(text: str) -> Any:
    """The value of an option as a YAML file would have it: a number, a boolean, a list, or the text itself."""
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


if __name__ == "__main__":
    sys.exit(main())
