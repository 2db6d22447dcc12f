"""Pictures of a study: curves with bands, a dot for each seed, gain against the tuned value, the layers' alpha.

Functions return the figure.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..runs.history import HISTORY_NAME, is_tuned, read_history
from ..runs.intervals import interval
from ..runs.plots import as_text, limits, plot_history
from .collect import Collected, Measured, first_with_history
from .comparisons import gain_at
from .display import Display, display_of
from .runner import RUNS_NAME


# Told apart without colour as well; nine colours with six styles make eighteen pairs.
STYLES = [("-", "o"), ("--", "s"), ("-.", "^"), (":", "D"), ((0, (5, 1)), "v"), ((0, (1, 3)), "P")]
# Okabe and Ito's, for the colour-blind; for their yellow, which can't be seen on white, there are brown and grey.
COLOURS = ["#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a4a12", "#8c8c8c"]
FEWEST = 3  # runs of an interval that is drawn: that of two is 13 standard errors wide on each side
ROW = 0.24  # inches of a line of a legend


def groups(collected: Collected) -> dict[str, dict[str, list[Measured]]]:
    """Labels of the axes that are not the baseline's, as a title -> label of that axis -> runs."""
    (axis,) = collected.study.baseline
    found: dict[str, dict[str, list[Measured]]] = {}
    for cell in collected.study.combinations():
        if measured := collected.of(cell):
            found.setdefault(_group(collected, cell), {})[cell[axis]] = measured
    return found


def plot_curves(collected: Collected) -> Figure | None:
    """The metric over epochs: mean over the seeds, and the band of its 95 % interval where there are three or more.

    None where no run was evaluated more than once.
    """
    if all(len(run.curve) < 2 for run in collected.finals):
        return None
    found, display = groups(collected), display_of(collected.study)
    labels, looks = _labels(collected, found), _looks(collected)
    figure, axes = _panels(len(found), width=5.2, height=4.0, legend=len(labels))
    for ax, (group, methods) in zip(axes, found.items(), strict=False):
        for method, runs in methods.items():
            curves = [dict(run.curve) for run in runs]
            epochs = sorted(set.intersection(*(set(curve) for curve in curves)))
            values = [interval([display.value(curve[epoch]) for curve in curves]) for epoch in epochs]
            line, _, colour = looks[method]
            ax.plot(epochs, [v.mean for v in values], linestyle=line, color=colour, label=labels[method])
            if len(runs) >= FEWEST:
                ax.fill_between(epochs, [v.low for v in values], [v.high for v in values], color=colour, alpha=0.12)
        ax.set(title=as_text(group), xlabel="epoch", ylabel=as_text(display.label))
        ax.grid(alpha=0.3)
        _end_at(ax, display)
    _legend(figure, axes)
    return figure


def plot_seeds(collected: Collected) -> Figure:
    """The last value of the metric: a dot for each seed, joined between methods; mean and 95 % interval beside."""
    found, display = groups(collected), display_of(collected.study)
    figure, axes = _panels(len(found), width=5.2, height=4.0)
    for ax, (group, methods) in zip(axes, found.items(), strict=False):
        names = []
        by_seed: dict[int, list[tuple[int, float]]] = {}
        for position, (name, runs) in enumerate(methods.items()):
            finite = [run for run in runs if np.isfinite(run.last)]
            for run in finite:
                by_seed.setdefault(run.run.seed, []).append((position, display.value(run.last)))
            mean = interval([display.value(run.last) for run in finite])
            error = mean.half_width if mean.n >= FEWEST else 0.0
            ax.errorbar(position + 0.18, mean.mean, yerr=error, fmt="_", color="black", capsize=4 if error else 0)
            gone = len(runs) - len(finite)
            names.append(as_text(name) + (f"\n({gone} of {len(runs)} diverged)" if gone else ""))
        for points in by_seed.values():
            ax.plot(*zip(*points, strict=True), color="0.7", linewidth=0.8, zorder=1)
            ax.plot(*zip(*points, strict=True), "o", color="#0072b2", markersize=4, zorder=2)
        ax.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor", fontsize=8)
        ax.set_xlim(-0.5, len(names) - 0.3)
        ax.set(title=as_text(group), ylabel=as_text(f"last {display.label}"))
        ax.grid(alpha=0.3, axis="y")
        _end_at(ax, display)
    return figure


def plot_gains(collected: Collected) -> Figure | None:
    """Gain over the baseline at every tuned value, which both had: paired over the seeds of the trials, up is better.

    With 95 % intervals where there are three pairs or more. None for a study without tuning, or with nothing to pair.
    """
    study, display = collected.study, display_of(collected.study)
    if study.tune is None:
        return None
    ((axis, baseline),) = study.baseline.items()
    sign = 1 if display.maximize else -1
    values = sorted(study.tune.values)
    looks = _looks(collected)
    found: dict[str, dict[str, list[Any]]] = {}
    for cell in study.combinations():
        gains = [gain_at(collected, cell, value) for value in values]
        if cell[axis] != baseline and any(gain.n for gain in gains):
            found.setdefault(_group(collected, cell), {})[cell[axis]] = gains
    if not found:
        return None
    count = max(map(len, found.values()))
    names = {method for methods in found.values() for method in methods}
    figure, axes = _panels(len(found), width=5.6, height=4.0, legend=len(names) + 2)
    for ax, (group, methods) in zip(axes, found.items(), strict=False):
        ax.axhline(0, color="0.4", linewidth=0.8)
        for number, (method, gains) in enumerate(methods.items()):
            line, marker, colour = looks[method]
            shown = [(place, gain) for place, gain in enumerate(gains) if gain.n]
            ax.errorbar(
                [place + (number - (count - 1) / 2) * min(0.08, 0.6 / count) for place, _ in shown],
                [sign * gain.mean for _, gain in shown],
                yerr=[gain.half_width if gain.n >= FEWEST else 0.0 for _, gain in shown],
                **{"linestyle": line, "marker": marker, "color": colour, "markersize": 4, "capsize": 2},
                label=as_text(method),
            )
        chosen = [
            collected.chosen.get(tuple(cell.values()))
            for cell in study.combinations()
            if cell[axis] == baseline and _group(collected, cell) == group
        ]
        if chosen and chosen[0] is not None:
            label = f"{as_text(study.tune.option)} chosen for {as_text(baseline)}"
            ax.axvline(values.index(chosen[0]), color="0.4", linestyle=":", linewidth=1.2, label=label)
        ax.set_xticks(range(len(values)), [f"{value:g}" for value in values])
        pairs = max(gain.n for gains in methods.values() for gain in gains)
        seeds = "1 seed: no interval" if pairs == 1 else f"{pairs} seeds"
        ax.set(title=as_text(group), xlabel=as_text(f"{study.tune.option} of both ({seeds})"))
        unit = f", {display.unit_of_difference}" if display.unit_of_difference else ""
        ax.set_ylabel(as_text(f"gain over {baseline}{unit} (up is better)"))
        ax.grid(alpha=0.3)
    _legend(figure, axes)
    return figure


def plot_alphas(collected: Collected) -> Figure | None:
    """alpha of every layer before training and at the last look: for each method, all seeds together, medians marked.

    Both are of the same runs: a method may have a fit of its own, in which the same weights have another alpha. None
    where no run has an alpha.
    """
    found: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for group, methods in groups(collected).items():
        for name, runs in methods.items():
            start, end = _alphas(runs, "alpha_start"), _alphas(runs, "alpha_end")
            if end:  # a plain run of a script has no look at its layers
                found.setdefault(group, {})[name] = (start, end)
    if not found:
        return None
    looks = ((-0.2, "before training", "0.55"), (0.2, "at the last look", "#0072b2"))
    figure, axes = _panels(len(found), width=5.6, height=4.0, legend=len(looks))
    for ax, (group, alphas) in zip(axes, found.items(), strict=False):
        for look, (side, label, colour) in enumerate(looks):
            for position, of_method in enumerate(alphas.values()):
                if values := of_method[look]:
                    middle = position + side
                    spread = np.random.default_rng(0).uniform(-0.15, 0.15, len(values))
                    ax.plot(middle + spread, values, ".", color=colour, markersize=3, label=label)
                    ax.hlines(np.median(values), middle - 0.18, middle + 0.18, color="black", linewidth=2)
        names = [as_text(name) for name in alphas]
        ax.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor", fontsize=8)
        ax.set(title=as_text(group), ylabel="alpha of a tuned layer (bar: median)")
        ax.grid(alpha=0.3, axis="y")
    _legend(figure, axes)
    return figure


def write_pictures(collected: Collected, source: Path, folder: Path) -> list[Path]:
    """Write curves.png, seeds.png, gains.png, alphas.png, and layers-CELL.png of each cell's first run with a history.

    gains.png only of a study with tuning, alphas.png only where runs have an alpha. The last ones share one colour
    scale for alpha and one for the multipliers, so that they can be laid beside each other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "curves": plot_curves(collected),
        "seeds": plot_seeds(collected),
        "gains": plot_gains(collected),
        "alphas": plot_alphas(collected),
    }
    histories = {
        cell: (run.name, read_history(source / RUNS_NAME / run.name / HISTORY_NAME))
        for cell, run in first_with_history(collected, source).items()
        if cell in collected.mean_multipliers  # a damaged one has been left out
    }
    if histories:
        shown = [looks for _, looks in histories.values()]
        scales = {"alpha": limits(shown, "alpha"), "multiplier": limits(shown, "multiplier")}
        for cell, (name, looks) in histories.items():
            figures[f"layers-{'--'.join(cell)}"] = plot_history(looks, name, scales)
    paths = []
    for name, figure in figures.items():
        if figure is not None:
            paths.append(folder / f"{name}.png")
            figure.savefig(paths[-1], dpi=100, metadata={"Software": None})
    return paths


def _alphas(runs: list[Measured], field: str) -> list[float]:
    values = [layer.get(field) for run in runs for layer in run.layers if is_tuned(layer)]
    return [value for value in values if value is not None and np.isfinite(value)]


def _group(collected: Collected, cell: dict[str, str]) -> str:
    (axis,) = collected.study.baseline
    words = [f"{name} {label}" if _is_number(label) else label for name, label in cell.items() if name != axis]
    return ", ".join(words) or collected.study.name


def _is_number(label: str) -> bool:
    return label.replace(".", "").replace("-", "").isdigit()


def _looks(collected: Collected) -> dict[str, tuple[Any, str, str]]:
    """Line, marker and colour of each label of the baseline's axis: the same in every picture."""
    (axis,) = collected.study.baseline
    styles = zip(collected.study.axes[axis], itertools.cycle(STYLES), itertools.cycle(COLOURS), strict=False)
    return {label: (line, marker, colour) for label, (line, marker), colour in styles}


def _labels(collected: Collected, found: dict[str, dict[str, list[Measured]]]) -> dict[str, str]:
    """Each method with its number of runs, from the fewest in a panel to the most, and of those that diverged."""
    labels = {}
    for method in dict.fromkeys(method for methods in found.values() for method in methods):
        of_method = [methods[method] for methods in found.values() if method in methods]
        counts = sorted({len(runs) for runs in of_method})
        text = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))) + (" run" if counts == [1] else " runs")
        gone = sum(not np.isfinite(run.last) for runs in of_method for run in runs)
        labels[method] = f"{as_text(method)} ({text}{f', {gone} diverged' if gone else ''})"
    return labels


def _end_at(ax: Axes, display: Display) -> None:
    """No accuracy is below 0 or above 100, so no axis shows any there."""
    if display.unit:
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, 0.0), min(high, 100.0))


def _legend(figure: Figure, axes: list[Axes]) -> None:
    """One legend for all panels, below them: beside nine lines there is no room in a panel."""
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    columns = _columns(figure.get_figwidth())
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=columns, fontsize=8, handlelength=3
    )


def _columns(width: float) -> int:
    return max(int(width / 2.6), 1)


def _panels(count: int, *, width: float, height: float, legend: int = 0) -> tuple[Figure, list[Any]]:
    """A figure with this many panels, in inches each, and room for a legend of so many entries below them."""
    columns = min(count, 2) or 1  # three are too small to be read on a page of 800 pixels
    rows = -(-count // columns) or 1
    below = ROW * -(-legend // _columns(width * columns))
    figure = Figure(figsize=(width * columns, height * rows + below), layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(rows, columns)).flat)
    for ax in axes[count:]:
        ax.set_axis_off()
    return figure, axes
