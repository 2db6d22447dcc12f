"""Tables of a study: Markdown, CSV and LaTeX, the same numbers in each; nothing in them depends on when it is made."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..files import write_whole
from ..runs.intervals import Interval, interval, paired_difference
from .collect import Collected, Measured
from .plan import Tuning


@dataclass(frozen=True)
class Row:
    """One cell: statistics over its seeds, accuracies in percent, differences in points."""

    labels: tuple[str, ...]
    tuned: str
    last: Interval
    best: Interval
    chosen: Interval
    difference: Interval | None  # of the last accuracy to the baseline's over the same seeds; None for the baseline
    seconds: Interval
    share: Interval  # of the seconds that TempBalance took, percent


def rows(collected: Collected) -> list[Row]:
    """One row for each cell that has a finished run, the baseline's cells first in their group."""
    study = collected.study
    (axis,) = study.baseline
    order = [name for name in study.axes if name != axis]
    cells = [cell for cell in study.combinations() if collected.of(cell)]
    groups = {tuple(cell[name] for name in order): None for cell in cells}
    return [
        _row(collected, cell)
        for group in groups
        for cell in sorted(
            (c for c in cells if tuple(c[name] for name in order) == group),
            key=lambda c: c[axis] != study.baseline[axis],
        )
    ]


def _row(collected: Collected, cell: dict[str, str]) -> Row:
    study = collected.study
    found = collected.of(cell)
    reference = cell | study.baseline
    difference = None
    if reference != cell:
        ours, theirs = ({m.run.seed: 100 * m.last for m in collected.of(c)} for c in (cell, reference))
        difference = paired_difference([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])
    tuned = collected.chosen.get(tuple(cell.values()))
    return Row(
        labels=tuple(cell.values()),
        tuned="" if tuned is None else f"{tuned:g}",
        last=interval([100 * m.last for m in found]),
        best=interval([100 * m.best for m in found]),
        chosen=interval([100 * m.chosen for m in found]),
        difference=difference,
        seconds=interval([m.seconds for m in found]),
        share=interval([100 * m.tempbalance_seconds / m.seconds if m.seconds else math.nan for m in found]),
    )


def header(collected: Collected) -> list[str]:
    """Names of the columns of `cells_of`."""
    tuned = [collected.study.tune.option] if collected.study.tune else []
    measures = ["last epoch", "best epoch", "epoch chosen on held-out images", "difference", "against the baseline"]
    return [*collected.study.axes, *tuned, "runs", *measures, "seconds", "of them TempBalance"]


def cells_of(collected: Collected, row: Row) -> list[str]:
    """The row as text: accuracy in percent as mean, standard deviation and 95% interval."""
    tuned = [row.tuned] if collected.study.tune else []
    if row.difference is None:
        against = ["", "baseline"]
    else:
        against = [_with_interval(row.difference, signed=True), row.difference.verdict]
    accuracies = [_with_interval(value) for value in (row.last, row.best, row.chosen)]
    return [
        *row.labels,
        *tuned,
        str(row.last.n),
        *accuracies,
        *against,
        f"{row.seconds.mean:.0f}",
        f"{row.share.mean:.2f} %",
    ]


def markdown(collected: Collected) -> str:
    """The report as a page: the table, how to read it, the tuning, and what was left out."""
    study = collected.study
    (axis,) = study.baseline
    table = rows(collected)
    lines = [
        f"# {study.name}",
        "",
        f"Version {study.version} of the study; baseline: {axis} {study.baseline[axis]}.",
        "",
    ]
    lines += _markdown_table(header(collected), [cells_of(collected, row) for row in table])
    compared = [row for row in table if row.difference is not None and row.difference.n > 1]
    lines += [
        "",
        "Test accuracy in percent: mean +- standard deviation over the seeds [95% interval of the mean, Student's t]. "
        "The difference is to the baseline of the same group over the same seeds, in points, of the last epoch. "
        '"above" and "below" stand only where its interval excludes 0; all else is "not shown", which does not mean '
        "equal.",
        "",
        *_chance(len(compared)),
        "The best epoch is the best on the test split, as the paper's code reports it, and too good for that reason. "
        "Seconds are of training and evaluation, without start-up.",
        "",
    ]
    if study.tune:
        lines += [f"## {study.tune.option}, chosen on held-out images", "", *_tuning_table(collected, study.tune), ""]
    lines += ["## Machine", "", *_machines([*collected.finals, *collected.trials]), ""]
    if collected.left_out:
        lines += [
            "## Left out",
            "",
            *(f"* {name}: {reason}" for name, reason in sorted(collected.left_out.items())),
            "",
        ]
    return "\n".join(lines)


def csv_table(collected: Collected) -> str:
    """The numbers of the table, not rounded; empty where a number could not be computed."""
    statistics = ("last", "best", "chosen", "difference", "seconds", "share")
    fields = [f"{name}_{part}" for name in statistics for part in ("mean", "sd", "low", "high")]
    tuned = [collected.study.tune.option] if collected.study.tune else []
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*collected.study.axes, *tuned, "runs", *fields, "paired_runs", "against_baseline"])
    for row in rows(collected):
        numbers = []
        for name in statistics:
            value = getattr(row, name)
            parts = (value.mean, value.sd, value.low, value.high) if value is not None else (math.nan,) * 4
            numbers += ["" if math.isnan(number) else repr(number) for number in parts]
        verdict = ["", "baseline"] if row.difference is None else [row.difference.n, row.difference.verdict]
        writer.writerow([*row.labels, *([row.tuned] if tuned else []), row.last.n, *numbers, *verdict])
    return stream.getvalue()


def latex(collected: Collected) -> str:
    """The table as a LaTeX tabular; needs no package."""
    names = header(collected)
    lines = [
        rf"\begin{{tabular}}{{{'l' * len(collected.study.axes)}{'r' * (len(names) - len(collected.study.axes))}}}"
    ]
    lines += [r"\hline", " & ".join(map(_tex, names)) + r" \\", r"\hline"]
    lines += [" & ".join(map(_tex, cells_of(collected, row))) + r" \\" for row in rows(collected)]
    return "\n".join([*lines, r"\hline", r"\end{tabular}", ""])


def write_tables(collected: Collected, folder: Path) -> list[Path]:
    """Write table.md, table.csv and table.tex; returns their paths."""
    texts = {"table.md": markdown(collected), "table.csv": csv_table(collected), "table.tex": latex(collected)}
    for name, text in texts.items():
        write_whole(folder / name, text)
    return [folder / name for name in texts]


def _with_interval(value: Interval, *, signed: bool = False) -> str:
    if math.isnan(value.mean):
        return "-"
    mean = f"{value.mean:+.2f}" if signed else f"{value.mean:.2f}"
    if value.n < 2:
        return f"{mean} (one run)"
    if math.isnan(value.half_width):
        return f"{mean} +- {value.sd:.2f} (all the same: no interval)"
    return f"{mean} +- {value.sd:.2f} [{value.low:.2f}, {value.high:.2f}]"


def _tuning_table(collected: Collected, tune: Tuning) -> list[str]:
    """Held-out accuracy of each value that was tried."""
    body = []
    for cell in collected.study.combinations():
        line = list(cell.values())
        for value in tune.values:
            found = [100 * m.held_out for m in collected.trials if m.run.cell == cell and m.run.tuned == value]
            mark = " (chosen)" if collected.chosen.get(tuple(cell.values())) == value else ""
            line.append(f"{math.fsum(found) / len(found):.2f}{mark}" if found else "-")
        body.append(line)
    return _markdown_table([*collected.study.axes, *(f"{value:g}" for value in tune.values)], body)


def _machines(found: list[Measured]) -> list[str]:
    """Device, versions and commit of the runs, counted."""
    kinds: Counter[str] = Counter()
    for one in {measured.run.name: measured for measured in found}.values():
        place = one.environment
        versions = ", ".join(f"{name} {version}" for name, version in place["versions"].items())
        commit = f"commit {(place['commit'] or 'unknown')[:12]}" + (" with changes" if place["dirty"] else "")
        device = f"{place['device']} ({place.get('machine', 'unknown')}), {place['threads']} threads"
        kinds[f"{device}; {versions}; {commit}"] += 1
    return [f"* {count} runs: {kind}" for kind, count in sorted(kinds.items())]


def _markdown_table(names: list[str], body: list[list[str]]) -> list[str]:
    rows_of_text = [[cell.replace("|", "\\|") for cell in row] for row in (names, ["---"] * len(names), *body)]
    return ["| " + " | ".join(row) + " |" for row in rows_of_text]


def _tex(text: str) -> str:
    for character in "&%#_{}$":
        text = text.replace(character, f"\\{character}")
    text = text.replace("~", r"\~{}").replace("^", r"\^{}")
    return text.replace("+-", r"$\pm$")


def _chance(compared: int) -> list[str]:
    """What several intervals together do not tell."""
    if compared == 0:
        return []
    text = f"Each interval stands alone: of {compared} differences that are zero in truth, "
    return [f"{text}{0.05 * compared:.1f} exclude 0 by chance on average.", ""]
