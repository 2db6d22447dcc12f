"""Tries TempBalance with every optimizer, schedule, method, kind of model, loop and process group of this machine.

    python scripts/check_everywhere.py                       everything: about twenty minutes on 2 cores
    python scripts/check_everywhere.py --only optimizers     or: decay methods models adapters trl loops processes
    python scripts/check_everywhere.py --markdown            as the tables of docs/compatibility.md
    pip install '.[everywhere]'                              8-bit optimizers, GaLore, APOLLO, LOMO, DeepSpeed, TRL

Prints what works, what is refused and why, and what failed; exits with 1 if anything failed. What needs a package
that is not installed, or fails in plain training as well, is listed as not tried.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence


os.environ.setdefault("HF_HUB_OFFLINE", "1")

from everywhere import adapters, methods, models, optimizers, programs, trl_trainers


Row = tuple[str, ...]  # what was tried, how it ended (with each way in), more about it


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    options = parser.parse_args()
    logging.disable(logging.WARNING)

    failed = 0
    for section in options.only:
        rows = list(SECTIONS[section]())
        failed += sum("failed" in row[1:-1] for row in rows)
        header = ("tried", *WAYS.get(section, ("result",)), "with")
        (print_markdown if options.markdown else print_table)(section, header, rows)
    print(f"\n{failed} failed" if failed else "\nNothing failed.")
    return 1 if failed else 0


def optimizer_rows() -> Iterator[Row]:
    """One row for each optimizer; schedules that end alike are put together."""
    yield from _optimizer_rows(optimizers.check_optimizers(), optimizers.SCHEDULES, "schedules")


def decay_rows() -> Iterator[Row]:
    """The same with targets that have the weight decay in them."""
    yield from _optimizer_rows(optimizers.check_decay(), optimizers.DECAY_TARGETS, "targets")


def _optimizer_rows(results: dict[str, dict[str, str]], tried: Sequence[str], what: str) -> Iterator[Row]:
    for name in dict.fromkeys(key.rpartition(", ")[0] for key in results):
        rows = [results[f"{name}, {way}"] for way in optimizers.WAYS]
        ends: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for setting in tried:
            ends[tuple(row[setting] for row in rows)].append(setting)
        for end, settings in ends.items():
            where = f"all {len(settings)} {what}" if len(ends) == 1 else ", ".join(settings)
            reasons = dict.fromkeys(reason for result in end if (reason := result.partition(": ")[2]))
            yield name, *(result.partition(": ")[0] for result in end), ". ".join([where, *reasons])


def method_rows() -> Iterator[Row]:
    yield from _ways_rows(methods.check_methods())


def model_rows() -> Iterator[Row]:
    yield from _rows(models.check_models())


def adapter_rows() -> Iterator[Row]:
    yield from _rows(adapters.check_adapters())


def _rows(results: dict[str, tuple[str, str]]) -> Iterator[Row]:
    for name, (result, listed) in results.items():
        end, _, reason = result.partition(": ")
        yield name, end, reason or listed


def trl_rows() -> Iterator[Row]:
    yield from _ways_rows(trl_trainers.check_trainers())


def _ways_rows(checked: Mapping[str, Sequence[str]]) -> Iterator[Row]:
    for name, results in checked.items():
        reasons = dict.fromkeys(reason for result in results if (reason := result.partition(": ")[2]))
        yield name, *(result.partition(": ")[0] for result in results), ". ".join(reasons)


def loop_rows() -> Iterator[Row]:
    for name, result in programs.check_loops().items():
        end, _, reason = result.partition(": ")
        yield name, end, reason


def process_rows() -> Iterator[Row]:
    for name, result in programs.check_processes().items():
        end, _, reason = result.partition(": ")
        yield name, end, reason


SECTIONS = {
    "optimizers": optimizer_rows,
    "decay": decay_rows,
    "methods": method_rows,
    "models": model_rows,
    "adapters": adapter_rows,
    "trl": trl_rows,
    "loops": loop_rows,
    "processes": process_rows,
}
WAYS = {"optimizers": optimizers.WAYS, "decay": optimizers.WAYS, "methods": methods.WAYS, "trl": trl_trainers.WAYS}
TITLES = {"decay": "Weight decay", "trl": "TRL"}


def print_table(section: str, header: Row, rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=section, title_justify="left")
    for column in header:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row, style="red" if "failed" in row[1:-1] else None)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def print_markdown(section: str, header: Row, rows: list[Row]) -> None:
    print(f"\n## {TITLES.get(section, section.capitalize())}\n")
    for row in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(cell.replace("|", "/") for cell in row) + " |")


if __name__ == "__main__":
    sys.exit(main())
