"""The report of a study as a page: verdicts first, then the numbers; nothing in it depends on when it is made."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from ..files import write_whole
from ..runs.markdown import escape
from . import tables
from .collect import Collected, Measured
from .comparisons import Comparison, compare, gain_at
from .controls import without_method
from .display import display_of
from .plan import Tuning
from .tables import Row, markdown_table


def markdown(collected: Collected) -> str:
    """The report as a page: what is shown, the tables, the tuning, the machine, and what was left out."""
    study = collected.study
    ((axis, baseline),) = study.baseline.items()
    comparisons = compare(collected)
    table = tables.rows(collected, comparisons)
    lines = [
        f"# {study.name}",
        "",
        f"Version {study.version} of the study; baseline: {axis} {baseline}.",
        "",
        "## What is shown",
        "",
        *_verdicts(collected, table, comparisons),
        "",
        *markdown_table(tables.header(collected), [tables.cells_of(collected, row) for row in table]),
        "",
        *_how_to_read(collected),
        "",
    ]
    if comparisons:
        lines += ["## Comparisons", "", *_comparisons(collected, comparisons), ""]
        lines += _on_held_out_data(collected, comparisons)
    if study.tune:
        lines += [f"## {study.tune.option}, chosen on held-out data", "", *_tuning(collected, study.tune), ""]
    lines += ["## Machine", "", *_machines([*collected.finals, *collected.trials]), ""]
    if collected.left_out:
        lines += ["## Left out", "", *_left_out(collected), ""]
    return "\n".join(lines)


def write_tables(collected: Collected, folder: Path) -> list[Path]:
    """Write table.md, table.csv, comparisons.csv and table.tex; returns their paths."""
    comparisons = compare(collected)
    table = tables.rows(collected, comparisons)
    texts = {
        "table.md": markdown(collected),
        "table.csv": tables.csv_table(collected, table),
        "comparisons.csv": tables.csv_comparisons(collected, comparisons),
        "table.tex": tables.latex(collected, table, comparisons),
    }
    for name, text in texts.items():
        write_whole(folder / name, text)
    return [folder / name for name in texts]


def _verdicts(collected: Collected, table: list[Row], comparisons: list[Comparison]) -> list[str]:
    """A line for each cell: is it better than the baseline, than each control, and what stands against it."""
    lines = []
    for row in table:
        of_cell = [one for one in comparisons if tuple(one.cell.values()) == row.labels]
        parts = ["; ".join(str(escape(one.sentence)) for one in of_cell) or "the baseline"]
        parts += [text for one in of_cell[:1] if (text := _power(collected, one))]
        parts += _limits(collected, row)
        lines.append(f"* **{escape(', '.join(row.labels))}**: {'. '.join(parts)}.")
    lines += _without_baseline(collected)
    for kind, cell in without_method(collected.study):
        labels = escape(", ".join(cell.values()))
        lines.append(f"* {labels} is a control ({kind}) of a method that is not in the study with the same settings.")
    return lines


def _power(collected: Collected, one: Comparison) -> str:
    """What the study's seeds could show, and how many the difference that was seen would take."""
    if math.isnan(one.p):
        return ""
    display, n, sd = display_of(collected.study), len(collected.study.seeds), one.difference.sd
    smallest = f"{display.number(one.detectable(n), sd)} {display.unit_of_difference}".rstrip()
    text = f"With this spread, {n} seeds would show a difference of {smallest}"
    return f"{text}, and one of {display.number(abs(one.difference.mean), sd)} needs {one.seeds_needed_as_text}"


def _limits(collected: Collected, row: Row) -> list[str]:
    found = []
    if row.diverged:
        found.append(f"{row.diverged} of {row.runs} runs diverged and are in no mean")
    if (tune := collected.study.tune) and row.edge == "only":
        found.append(f"The grid of {tune.option} has one value: nothing was tuned")
    elif tune and row.edge:
        grid = ", ".join(f"{value:g}" for value in sorted(tune.values))
        found.append(f"{tune.option} {row.tuned} is the {row.edge} of the grid {grid}: widen the grid")
    return found


def _without_baseline(collected: Collected) -> list[str]:
    """Groups with finished runs and none of the baseline."""
    study = collected.study
    cells = [cell for cell in study.combinations() if collected.of(cell)]
    missing = {tuple((cell | study.baseline).values()) for cell in cells if not collected.of(cell | study.baseline)}
    return [f"* {escape(', '.join(labels))}, the baseline, has no finished run." for labels in sorted(missing)]


def _how_to_read(collected: Collected) -> list[str]:
    display = display_of(collected.study)
    points, chosen_by = ", in points" if display.unit else "", display_of(collected.study, held_out=True)
    return [
        f"{display.title}, {display.better} is better: mean +- standard deviation over the seeds [95 % interval of "
        "the mean, Student's t]. Compared is the last value, of the weights that a run ended with; the difference is "
        f"to the baseline of the same group over the same seeds{points}.",
        "",
        '"Shown" stands only where the 95 % interval of the differences excludes 0 and Holm\'s corrected p value is '
        'below 0.05; all else is "not shown", which does not mean equal.',
        "",
        "The best value is chosen on the data that is reported, as the paper's code has it, and too good for that "
        f"reason; the one beside it is of the evaluation with the best {chosen_by.name}. Seconds are of training and "
        "evaluation, without start-up.",
    ]


def _comparisons(collected: Collected, comparisons: list[Comparison]) -> list[str]:
    body = [tables.comparison_cells(collected, one) for one in comparisons]
    lines = markdown_table(tables.comparison_header(collected), body)
    tested = sum(not math.isnan(one.p) for one in comparisons)
    test = "comparison has" if tested == 1 else "comparisons have"
    lines += [
        "",
        f"{tested} {test} a p value (Student's paired test, two-sided); Holm's correction is over all of them: the "
        'chance of a single "shown" is at most 5 % where nothing differs in truth. "Would show" means that the 95 % '
        "interval lies on one side of 0 with a probability of 80 %, for the spread of these pairs and before Holm's "
        "correction; the last column is the number of pairs that it takes if the difference is in truth the one seen.",
    ]
    if notes := [one for one in comparisons if one.note]:
        lines += ["", *(f"* {escape(', '.join(one.cell.values()))}: {escape(one.note)}" for one in notes)]
    return lines


def _on_held_out_data(collected: Collected, comparisons: list[Comparison]) -> list[str]:
    """The compared pairs once more, on other data: a difference that is there at all should be seen on both."""
    study, display = collected.study, display_of(collected.study, held_out=True)
    # Plain training at a method's mean rate often has trials alone, and those did have a part in the choice.
    found = [one for one in comparisons if one.kind != "at_rate" and one.held_out.n]
    if study.tune is None or (study.metric and study.metric.choose == study.metric.report) or not found:
        return []
    body = [
        [*one.cell.values(), one.name, str(one.held_out.n), display.interval(one.held_out, signed=True)]
        for one in found
    ]
    points, seeds = ", in points" if display.unit else "", ", ".join(map(str, study.tune.seeds))
    return [
        "## The same pairs on held-out data",
        "",
        f"Difference of {display.name}{points}, {display.better} is better, at the end of the same runs. "
        f"{study.tune.option} was chosen on these data over the seeds {seeds}. No verdict is drawn from it. "
        "An interval is over the seeds, with the same data for all of them: other data of the same kind show how much "
        "of a difference hangs on which are taken.",
        "",
        *markdown_table([*study.axes, "compared with", "pairs", "difference"], body),
        "",
    ]


def _tuning(collected: Collected, tune: Tuning) -> list[str]:
    """Held-out value of the metric for each value that was tried, and the difference to the baseline there."""
    study = collected.study
    display, chosen_by = display_of(study), display_of(study, held_out=True)
    names = [*study.axes, *(f"{value:g}" for value in tune.values)]
    tried, gains = [], []
    for cell in study.combinations():
        found = {
            value: [m for m in tables.trials_of(collected, cell) if m.run.tuned == value] for value in tune.values
        }
        line = []
        for value, runs in found.items():
            mean = math.fsum(chosen_by.value(m.held_out) for m in runs) / len(runs) if runs else math.nan
            mark = " (chosen)" if collected.chosen.get(tuple(cell.values())) == value else ""
            line.append(chosen_by.number(mean) + mark)
        count, where = sum(map(len, found.values())), tables.edge(collected, cell)
        widen = {"lowest": "lowest: widen the grid", "highest": "highest: widen the grid", "only": "no choice"}
        chosen = tuple(cell.values()) in collected.chosen
        tried.append([*cell.values(), *line, str(count), widen.get(where, "inside" if chosen else "not chosen yet")])
        if cell != cell | study.baseline:
            differences = [display.interval(gain_at(collected, cell, value), signed=True) for value in tune.values]
            gains.append([*cell.values(), *differences])
    seeds = ", ".join(map(str, tune.seeds))
    lines = [f"{chosen_by.title}, mean over the seeds {seeds}, {chosen_by.better} is better:", ""]
    lines += markdown_table([*names, "tuning runs", "the chosen one is"], tried)
    if gains:
        what = f"Difference to the baseline at the same {tune.option}, over these seeds, of the last {display.name}"
        lines += ["", f"{what}; they are not among the comparisons above:", "", *markdown_table(names, gains)]
    return lines


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


def _left_out(collected: Collected) -> list[str]:
    """Why, once for all runs of a cell with the same reason: a study that is under way has hundreds."""
    cells = {run.name: "--".join(run.cell.values()) for run in collected.study.possible_runs()}
    alike: dict[tuple[str, str], list[str]] = {}
    for name, reason in sorted(collected.left_out.items()):
        alike.setdefault((cells.get(name, name), reason), []).append(name)
    lines = []
    for (cell, reason), (first, *others) in alike.items():
        too = f", like {len(others)} more of {cell}" if others else ""
        lines.append(f"* {first}{too}: {reason}")
    return lines
