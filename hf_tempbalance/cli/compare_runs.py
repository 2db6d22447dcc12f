"""``hf-tempbalance compare-runs BASE... --with OTHER...``: its options, and the comparison as text of 80 columns."""

from __future__ import annotations

import argparse
import json
import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from ..runs.compare import Comparison, Side
    from ..runs.settings import Difference

WIDTH = 80
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
        print(as_text(comparison))
    if options.output is not None:
        from ..runs.compare_page import write_page

        path = write_page(comparison, options.output)
        if not options.json:
            print(f"\nPage: {path}")


def as_text(comparison: Comparison) -> str:
    """The comparison for a terminal: tables are never cut, sentences are broken between words."""
    direction = f", {comparison.direction} is better" if comparison.direction else ""
    lines = [f"{comparison.metric}, last value of each run{direction}", ""]
    sides = (comparison.base, comparison.other)
    rows: list[tuple[str, ...]] = [("", "runs", "mean", "sd", "best", "loss", "seconds", "stood still")]
    rows += [_side_row(side) for side in sides]
    lines += _table(rows)
    lines += ["", *_table([("seed", *(side.name for side in sides), "difference"), *_pair_rows(comparison)])]
    lines += ["", *_wrapped(comparison.sentence())]
    means = {side.name: sum(run.mean_multiplier for run in side.runs) / len(side.runs) for side in sides}
    told = [f"{name} {mean:.3f}" for name, mean in means.items() if mean != 1]
    if told:
        lines += _wrapped(f"Mean multiplier of the tuned layers: {', '.join(told)}.")
    if comparison.settings:
        lines += ["", "Settings that differ:", *_setting_lines(comparison.settings)]
    for warning in comparison.warnings:
        lines += ["", *_wrapped(warning, "! ")]
    return "\n".join(line.rstrip() for line in lines)


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


def _setting_lines(settings: list[Difference]) -> list[str]:
    lines = []
    for setting in settings[:SHOWN_SETTINGS]:
        values = [", ".join(side) or "-" for side in (setting.base, setting.other)]
        line = f"  {setting.name}: {values[0]} | {values[1]}"
        # Long values, as paths and dictionaries have, go below each other; none is cut.
        lines += [line] if len(line) <= WIDTH else [f"  {setting.name}:", f"    {values[0]}", f"  | {values[1]}"]
    if len(settings) > SHOWN_SETTINGS:
        lines.append(f"  and {len(settings) - SHOWN_SETTINGS} more, see --json or --output")
    return lines


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns to the right, the first to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def _wrapped(text: str, mark: str = "") -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=mark, subsequent_indent=" " * len(mark), break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3e}"
