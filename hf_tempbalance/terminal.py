"""What reaches a terminal: text that can't steer it, and errors as one line. All commands and scripts use it."""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from collections.abc import Callable


# Module that a plain installation lacks -> the extra of setup.cfg that has it; where two have it, the smaller one.
EXTRAS = dict.fromkeys(("jinja2", "matplotlib", "scipy"), "plots")
EXTRAS |= dict.fromkeys(("torchvision", "timm", "datasets", "evaluate", "sklearn"), "train")


def printable(text: object, keep: str = "") -> str:
    """A text from outside (name, path, message) with every character that is not shown as itself escaped.

    That is control characters, which a terminal obeys, marks that turn the direction of writing, invisible ones, and
    halves of surrogate pairs, which can't be encoded: ``\\x1b``, ``\\u202e``, ``\\ud800``.

    Args:
        text: anything; its ``str`` counts.
        keep: characters that stay as they are, such as the newlines of a page.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)


def missing(error: ImportError) -> str:
    """What an import failed for and what to install, as a sentence."""
    module = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or module not in EXTRAS:
        return f"{error} (pip install 'hf_tempbalance[train,plots]' has what commands and scripts need)"
    return f"{module} is not installed: pip install 'hf_tempbalance[{EXTRAS[module]}]'"


def screen_width() -> int | None:
    """Cells of a line of stdout: the terminal's, or what COLUMNS says; None in a pipe, where a line has no end."""
    # With LINES beside it nobody said it: readline puts both into the environment of a program's children.
    is_set = os.environ.get("COLUMNS", "").isdigit() and "LINES" not in os.environ
    return shutil.get_terminal_size().columns if is_set or sys.stdout.isatty() else None


def run_command(name: str, command: Callable[[], object], *, debug: bool) -> int:
    """Call a command; an error is one line on stderr: what, where, what to do. The one handler of the command lines.

    Args:
        name: of the command, before the message.
        command: what it does. Its ``KeyboardInterrupt`` may say how to go on.
        debug: show the traceback as well, before the line.

    Returns:
        The exit code: 0, 1 after an error, 130 after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):  # a terminal that knows no UTF-8 is no reason to fail
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        command()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as error:
        _tell(name, f"Interrupted. {error}", debug)
        return 130
    except Exception as error:
        _tell(name, _sentence(error), debug)
        return 1
    return 0


def _sentence(error: Exception) -> str:
    if isinstance(error, ImportError):
        return missing(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}."
    if isinstance(error, (ValueError, OSError)) and str(error):
        return str(error)
    # Nobody foresaw it, so it may be a mistake of ours, and its type is half of what there is to know.
    return f"unexpected {type(error).__name__}: {error} (--debug shows where; please report it if it is our mistake)"


def _tell(name: str, message: str, debug: bool) -> None:
    bars = getattr(getattr(sys.modules.get("tqdm.std"), "tqdm", None), "_instances", ())
    for bar in list(bars):  # an open one would be drawn before the message on its line, and again after it
        bar.close()
    if debug:
        traceback.print_exc()
    print(f"{name}: {printable(' '.join(message.split()))}", file=sys.stderr)  # noqa: T201  the command line's own
