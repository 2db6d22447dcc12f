"""``hf-tempbalance compare-runs BASE... --with OTHER...``: its options, and the comparison as text."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..terminal import printable, screen_width


if TYPE_CHECKING:
    from ..runs.compare import Comparison, Side
    from ..runs.settings import Difference

USUAL_WIDTH = 80  # where there is no terminal
SHOWN_SETTINGS = 12


def add_compare_runs(commands: Any) -> None:
    """Add the command to the subparsers of ``hf-tempbalance``."""
    about = "Two sets of Trainer runs: is a metric different? Runs of one seed are a pair."
    parser = commands.add_parser("compare-runs", help="two sets of training runs, paired by seed", description=about)
    parser.add_argument("base", nargs="+", type=Path, metavar="BASE", help="output folders of one method")
    parser.add_argument(
        "--with", dest="other", nargs="+", type=Path, metavar="OTHER", required=True, help="those of the other method"
    )
    parser.add_argument("--metric", default="eval_accuracy", help="a key of the evaluations; eval_accuracy")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write one HTML page with curves of all runs")
    parser.add_argument("--wide", action="store_true", help="whole names and settings, however narrow the terminal")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def compare_runs_command(options: argparse.Namespace) -> None:
    """``hf-tempbalance compare-runs``."""
    from ..files import finite
    from ..runs.compare import compare_runs

    comparison = compare_runs(options.base, options.other, options.metric)
    if options.json:
        print(json.dumps(finite(comparison.to_dict()), indent=2, allow_nan=False))
    else:
        print(as_text(comparison, None if options.wide else screen_width() or USUAL_WIDTH))
    if options.output is not None:
        from ..runs.compare_page import write_page

        path = write_page(comparison, options.output)
        if not options.json:
            print(f"\nPage: {path}")


def as_text(comparison: Comparison, width: int | None = USUAL_WIDTH) -> str:
    """The comparison for a terminal of so many cells; None: names and settings are whole."""
    from .tables import sentences, shortened

    direction = f", {comparison.direction} is better" if comparison.direction else ""
    lines = [*sentences(f"{comparison.metric}, last value of each run{direction}", width), ""]
    sides = (comparison.base, comparison.other)
    heads = ("", "runs", "mean", "sd", "best", "loss", "seconds", "stood still")
    lines += _table(heads, [_side_row(side) for side in sides], width, ("mean", "sd", "runs", "loss", "best"))
    # Names of two runs, which may be paths, share a line with the seed and the difference.
    names = [side.name for side in sides]
    if width is not None:
        names = shortened(names, max((width - 30) // 2, 10))
    pairs = _pair_rows(comparison)
    lines += ["", *_table(("seed", *names, "difference"), pairs, width, ("difference", *names))]
    lines += ["", *sentences(comparison.sentence(), width)]
    means = {side.name: sum(run.mean_multiplier for run in side.runs) / len(side.runs) for side in sides}
    told = [f"{name} {mean:.3f}" for name, mean in means.items() if mean != 1]
    if told:
        lines += sentences(f"Mean multiplier of the tuned layers: {', '.join(told)}.", width)
    if comparison.settings:
        lines += ["", "Settings that differ:", *_setting_lines(comparison.settings, width)]
    for warning in comparison.warnings:
        lines += ["", *sentences(warning, width, "! ")]
    return printable("\n".join(line.rstrip() for line in lines), keep="\n")


def _side_row(side: Side) -> tuple[str, ...]:
    losses = [run.loss for run in side.runs if run.loss is not None]
    seconds = [run.seconds for run in side.runs if run.seconds is not None]
    return (
        side.name,
        str(len(side.runs)),
        _number(side.mean),
        _number(side.sd),
        _number(_mean([run.best for run in side.runs])),
        _number(_mean(losses)),
        f"{_mean(seconds):.1f}" if seconds else "-",
        f"{_mean([run.stood_still for run in side.runs]):.2f}" if any(run.stood_still for run in side.runs) else "-",
    )


def _pair_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    base, other = comparison.base.runs, comparison.other.runs
    rows: list[tuple[str, ...]] = []
    for number, (a, b) in enumerate(comparison.pairs, start=1):
        name = str(base[a].seed) if comparison.paired_by == "seed" else f"pair {number}"
        gain = other[b].value - base[a].value
        rows.append((name, _number(base[a].value), _number(other[b].value), f"{gain:+.4g}"))
    return rows


def _setting_lines(settings: list[Difference], width: int | None) -> list[str]:
    from .tables import shortened

    lines = []
    for setting in settings[:SHOWN_SETTINGS]:
        values = [", ".join(side) or "-" for side in (setting.base, setting.other)]
        line = f"  {setting.name}: {values[0]} | {values[1]}"
        if width is None or len(line) <= width:
            lines.append(line)
        else:  # long values, as paths and dictionaries have, go below each other
            lines += [f"  {shortened([setting.name], width - 3)[0]}:"]
            lines += [f"  {mark} {value}" for mark, value in zip(" |", shortened(values, width - 4), strict=True)]
    if len(settings) > SHOWN_SETTINGS:
        lines.append(f"  and {len(settings) - SHOWN_SETTINGS} more, see --json or --output")
    return lines


def _table(
    heads: tuple[str, ...], rows: list[tuple[str, ...]], width: int | None, first: tuple[str, ...]
) -> list[str]:
    """Columns to the right, the first to the left; what has no room is left out."""
    from .tables import lay_out

    columns = {head: [row[position] for row in rows] for position, head in enumerate(heads)}
    return lay_out(columns, width, first=first, has_parts=False).lines


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3e}"
