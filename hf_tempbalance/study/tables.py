"""The numbers of a study's report: a row for each cell, a row for each comparison; as text, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..runs.intervals import Interval, half_width, interval
from .collect import Collected, Measured
from .comparisons import Comparison
from .display import display_of
from .statistics import detectable


@dataclass(frozen=True)
class Row:
    """One cell: statistics over its seeds, in the unit that the metric is shown in.

    Attributes:
        labels: of the axes.
        tuned: the chosen value; empty without tuning.
        tuning_runs: finished runs that it was chosen from.
        edge: "lowest" or "highest" of the grid, "only" of a grid of one value; empty for a value inside it.
        runs: finished ones. diverged: those of them that end with a value that is no number; in no statistic.
        last, best, chosen: of the last epoch, the best one, and the one that is best on held-out data.
        against: the comparison with the baseline; None for the baseline itself.
        seconds: of a run. share: percent of them that TempBalance took.
    """

    labels: tuple[str, ...]
    tuned: str
    tuning_runs: int
    edge: str
    runs: int
    diverged: int
    last: Interval
    best: Interval
    chosen: Interval
    against: Comparison | None
    seconds: Interval
    share: Interval


def rows(collected: Collected, comparisons: list[Comparison]) -> list[Row]:
    """One row for each cell that has a finished run, the baseline's cells first in their group."""
    study = collected.study
    (axis,) = study.baseline
    order = [name for name in study.axes if name != axis]
    cells = [cell for cell in study.combinations() if collected.of(cell)]
    groups = {tuple(cell[name] for name in order): None for cell in cells}
    return [
        _row(collected, cell, comparisons)
        for group in groups
        for cell in sorted(
            (c for c in cells if tuple(c[name] for name in order) == group),
            key=lambda c: c[axis] != study.baseline[axis],
        )
    ]


def _row(collected: Collected, cell: dict[str, str], comparisons: list[Comparison]) -> Row:
    found, display = collected.of(cell), display_of(collected.study)
    tuned = collected.chosen.get(tuple(cell.values()))

    def over(values: list[float]) -> Interval:
        return interval([display.value(value) for value in values if math.isfinite(value)])

    return Row(
        labels=tuple(cell.values()),
        tuned="" if tuned is None else f"{tuned:g}",
        tuning_runs=len(trials_of(collected, cell)),
        edge=edge(collected, cell),
        runs=len(found),
        diverged=sum(not math.isfinite(m.last) for m in found),
        last=over([m.last for m in found]),
        best=over([m.best for m in found]),
        chosen=over([m.chosen for m in found]),
        against=next((c for c in comparisons if c.cell == cell and c.kind == "baseline"), None),
        seconds=interval([m.seconds for m in found]),
        share=interval([100 * m.tempbalance_seconds / m.seconds if m.seconds else math.nan for m in found]),
    )


def trials_of(collected: Collected, cell: dict[str, str]) -> list[Measured]:
    """The finished runs that a cell's value was chosen from."""
    return [m for m in collected.trials if m.run.cell == cell]


def edge(collected: Collected, cell: dict[str, str]) -> str:
    """Where in the grid a cell's chosen value is: `Row.edge`."""
    tune, value = collected.study.tune, collected.chosen.get(tuple(cell.values()))
    if tune is None or value is None:
        return ""
    if len(tune.values) == 1:
        return "only"
    return {min(tune.values): "lowest", max(tune.values): "highest"}.get(value, "")


def header(collected: Collected) -> list[str]:
    """Names of the columns of `cells_of`."""
    tuned = [collected.study.tune.option, "tuning runs"] if collected.study.tune else []
    measures = ["last", "best", "chosen on held-out data", "difference", "against the baseline"]
    return [*collected.study.axes, *tuned, "runs", *measures, "seconds", "of them TempBalance"]


def cells_of(collected: Collected, row: Row) -> list[str]:
    """The row as text: the metric as mean, standard deviation and 95 % interval."""
    display = display_of(collected.study)
    widen = f" ({row.edge} of the grid: widen the grid)" if row.edge in ("lowest", "highest") else ""
    tuned = [row.tuned + widen, str(row.tuning_runs)] if collected.study.tune else []
    against = ["", "baseline"]
    if row.against is not None:
        against = [display.interval(row.against.difference, signed=True), row.against.verdict]
    return [
        *row.labels,
        *tuned,
        f"{row.runs} ({row.diverged} diverged)" if row.diverged else str(row.runs),
        *(display.interval(value) for value in (row.last, row.best, row.chosen)),
        *against,
        f"{row.seconds.mean:.0f}",
        f"{row.share.mean:.2f} %",
    ]


def comparison_header(collected: Collected) -> list[str]:
    """Names of the columns of `comparison_cells`."""
    seeds = len(collected.study.seeds)
    numbers = [
        "pairs",
        "difference",
        "p",
        "Holm's p",
        "shown",
        f"{seeds} seeds would show",
        "seeds for the difference",
    ]
    return [*collected.study.axes, "compared with", *numbers]


def comparison_cells(collected: Collected, comparison: Comparison) -> list[str]:
    """The comparison as text."""
    display, n = display_of(collected.study), comparison.difference.n
    smallest = comparison.detectable(len(collected.study.seeds))
    return [
        *comparison.cell.values(),
        comparison.name,
        f"{n} ({comparison.diverged} diverged)" if comparison.diverged else str(n),
        display.interval(comparison.difference, signed=True),
        _p(comparison.p),
        _p(comparison.holm),
        comparison.verdict,
        display.number(smallest, comparison.difference.sd),
        comparison.seeds_needed_as_text,
    ]


def csv_table(collected: Collected, table: list[Row]) -> str:
    """The numbers of the rows, not rounded; empty where a number could not be computed."""
    statistics = ("last", "best", "chosen", "difference", "seconds", "share")
    fields = [f"{name}_{part}" for name in statistics for part in ("mean", "sd", "low", "high")]
    tuned = [collected.study.tune.option, "tuning_runs", "edge"] if collected.study.tune else []
    lines: list[Sequence[Any]] = [
        [*collected.study.axes, *tuned, "runs", "diverged", *fields, "paired_runs", "against_baseline"]
    ]
    for row in table:
        difference = row.against.difference if row.against else None
        intervals = (row.last, row.best, row.chosen, difference, row.seconds, row.share)
        numbers = [number for value in intervals for number in _parts(value)]
        verdict = ["", "baseline"] if row.against is None else [row.against.difference.n, row.against.verdict]
        tuning = [row.tuned, row.tuning_runs, row.edge] if tuned else []
        lines.append([*row.labels, *tuning, row.runs, row.diverged, *numbers, *verdict])
    return _csv(lines)


def csv_comparisons(collected: Collected, comparisons: list[Comparison]) -> str:
    """The numbers of the comparisons, likewise; ``detectable`` with as many seeds as the study has."""
    names = ["pairs", "diverged", "mean", "sd", "low", "high", "p", "holm", "shown", "detectable", "seeds_needed"]
    names += [f"held_out_{part}" for part in ("mean", "sd", "low", "high")]
    lines: list[Sequence[Any]] = [[*collected.study.axes, "kind", "compared_with", *names]]
    for one in comparisons:
        numbers = [*_parts(one.difference), _number(one.p), _number(one.holm)]
        power = [_number(one.detectable(len(collected.study.seeds))), one.seeds_needed or ""]
        counts = [one.difference.n, one.diverged]
        held_out = _parts(one.held_out)
        lines.append([*one.cell.values(), one.kind, one.name, *counts, *numbers, one.verdict, *power, *held_out])
    return _csv(lines)


def latex(collected: Collected, table: list[Row], comparisons: list[Comparison]) -> str:
    """Both tables as LaTeX tabulars; needs no package."""
    axes = len(collected.study.axes)
    text = _tabular(axes, header(collected), [cells_of(collected, row) for row in table])
    if comparisons:
        body = [comparison_cells(collected, one) for one in comparisons]
        text += "\n" + _tabular(axes + 1, comparison_header(collected), body)
    return text


def markdown_table(names: list[str], body: list[list[str]]) -> list[str]:
    """The lines of a table."""
    rows_of_text = [[cell.replace("|", "\\|") for cell in row] for row in (names, ["---"] * len(names), *body)]
    return ["| " + " | ".join(row) + " |" for row in rows_of_text]


def seeds_table(sd: float, seeds: Sequence[int]) -> list[str]:
    """What numbers of paired seeds show of differences with this standard deviation: the lines of a table."""
    body = [[str(n), f"{half_width(sd, n):.3g}", f"{detectable(sd, n):.3g}"] for n in seeds]
    return markdown_table(["seeds", "half width of the interval", "difference shown with 80 % probability"], body)


def _tabular(texts: int, names: list[str], body: list[list[str]]) -> str:
    lines = [rf"\begin{{tabular}}{{{'l' * texts}{'r' * (len(names) - texts)}}}", r"\hline"]
    lines += [" & ".join(map(_tex, names)) + r" \\", r"\hline"]
    lines += [" & ".join(map(_tex, row)) + r" \\" for row in body]
    return "\n".join([*lines, r"\hline", r"\end{tabular}", ""])


def _csv(lines: list[Sequence[Any]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(lines)
    return stream.getvalue()


def _parts(value: Interval | None) -> list[str]:
    parts = (value.mean, value.sd, value.low, value.high) if value is not None else (math.nan,) * 4
    return [_number(part) for part in parts]


def _number(value: float) -> str:
    return "" if math.isnan(value) else repr(value)


def _p(value: float) -> str:
    if math.isnan(value):
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _tex(text: str) -> str:
    for character in "&%#_{}$":
        text = text.replace(character, f"\\{character}")
    text = text.replace("~", r"\~{}").replace("^", r"\^{}").replace("<", r"$<$")
    return text.replace("+-", r"$\pm$")
