"""``hf-tempbalance``: look at weights and at runs from the command line."""

from __future__ import annotations

import argparse
import sys

from .. import __version__
from ..terminal import run_command
from .analyze import add_analyze, analyze_command, compare_command
from .compare_runs import add_compare_runs, compare_runs_command
from .presets import add_presets, presets_command
from .report import add_report, report_command
from .sparsities import add_sparsities, sparsities_command


MODEL_HELP = "safetensors file or index, folder of save_pretrained, Hub id, name of timm, or module:factory"


def main(argv: list[str] | None = None) -> int:
    """The console command. Returns its exit code, as `run_command` does."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["run"]:  # what a script raises is its own, and not for one line of ours
        from ..run import main as run

        return run(argv[1:])
    options = _parser().parse_args(argv)
    commands = {
        "analyze": analyze_command,
        "compare": compare_command,
        "compare-runs": compare_runs_command,
        "report": report_command,
        "presets": presets_command,
        "sparsities": sparsities_command,
    }
    return run_command("hf-tempbalance", lambda: commands[options.command](options), debug=options.debug)


def _parser() -> argparse.ArgumentParser:
    about = "Train a script with and without TempBalance, compare runs, look at the weight spectra of a model."
    parser = argparse.ArgumentParser(prog="hf-tempbalance", description=about)
    parser.add_argument("--version", action="version", version=f"hf-tempbalance {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    add_analyze(commands, MODEL_HELP)
    add_report(commands)
    commands.add_parser("run", help="a Trainer script with TempBalance in it, unchanged", add_help=False)
    add_compare_runs(commands)
    add_sparsities(commands, MODEL_HELP)
    add_presets(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
