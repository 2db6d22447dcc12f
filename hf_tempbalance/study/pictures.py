"""Pictures of a study: curves with bands, a dot for each seed, and the layers' alpha. Functions return the figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..runs.history import HISTORY_NAME, is_tuned, read_history
from ..runs.intervals import interval
from ..runs.plots import as_text, limits, plot_history
from .collect import Collected, Measured
from .runner import RUNS_NAME


# Told apart without colour as well.
STYLES = [("-", "o"), ("--", "s"), ("-.", "^"), (":", "D"), ((0, (5, 1)), "v"), ((0, (1, 3)), "P")]
COLOURS = ["#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"]  # Okabe and Ito's, for the colour-blind


def groups(collected: Collected) -> dict[str, dict[str, list[Measured]]]:
    """Labels of the axes that are not the baseline's -> label of that axis -> runs."""
    (axis,) = collected.study.baseline
    found: dict[str, dict[str, list[Measured]]] = {}
    for cell in collected.study.combinations():
        if measured := collected.of(cell):
            group = ", ".join(label for name, label in cell.items() if name != axis) or collected.study.name
            found.setdefault(group, {})[cell[axis]] = measured
    return found


def plot_curves(collected: Collected) -> Figure:
    """Test accuracy over epochs: mean over the seeds, band of its 95% interval."""
    found = groups(collected)
    figure, axes = _panels(len(found), width=5.2, height=4.0)
    for ax, (group, methods) in zip(axes, found.items(), strict=False):
        for number, (method, runs) in enumerate(methods.items()):
            curves = [dict(run.curve) for run in runs]
            epochs = sorted(set.intersection(*(set(curve) for curve in curves)))
            values = [interval([100 * curve[epoch] for curve in curves]) for epoch in epochs]
            line, _ = STYLES[number % len(STYLES)]
            colour = COLOURS[number % len(COLOURS)]
            label = f"{as_text(method)} ({len(runs)} {'run' if len(runs) == 1 else 'runs'})"
            ax.plot(epochs, [v.mean for v in values], linestyle=line, color=colour, label=label)
            ax.fill_between(epochs, [v.low for v in values], [v.high for v in values], color=colour, alpha=0.15)
        ax.set(title=as_text(group), xlabel="epoch", ylabel="test accuracy, %")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8, loc="lower right")
    return figure


def plot_seeds(collected: Collected) -> Figure:
    """Last test accuracy: a dot for each seed, joined between methods, with mean and 95% interval beside them."""
    found = groups(collected)
    figure, axes = _panels(len(found), width=5.2, height=4.0)
    for ax, (group, methods) in zip(axes, found.items(), strict=False):
        names = list(methods)
        by_seed: dict[int, list[tuple[int, float]]] = {}
        for position, name in enumerate(names):
            for run in methods[name]:
                by_seed.setdefault(run.run.seed, []).append((position, 100 * run.last))
            mean = interval([100 * run.last for run in methods[name]])
            ax.errorbar(
                position + 0.18, mean.mean, yerr=np.nan_to_num(mean.half_width), fmt="_", color="black", capsize=4
            )
        for points in by_seed.values():
            ax.plot(*zip(*points, strict=True), color="0.7", linewidth=0.8, zorder=1)
            ax.plot(*zip(*points, strict=True), "o", color="#0072b2", markersize=4, zorder=2)
        ax.set_xticks(range(len(names)), list(map(as_text, names)), rotation=20, ha="right", fontsize=8)
        ax.set_xlim(-0.5, len(names) - 0.3)
        ax.set(title=as_text(group), ylabel="last test accuracy, %")
        ax.grid(alpha=0.3, axis="y")
    return figure


def plot_alphas(collected: Collected) -> Figure:
    """alpha of every layer before and after training, for each method: all seeds together, median marked."""
    found = groups(collected)
    figure, axes = _panels(len(found), width=5.6, height=4.0)
    for ax, (group, methods) in zip(axes, found.items(), strict=False):
        columns = [("start", _alphas(next(iter(methods.values())), "alpha_start"))]
        columns += [(name, _alphas(runs, "alpha_end")) for name, runs in methods.items()]
        columns = [(name, values) for name, values in columns if values]
        for position, (_, values) in enumerate(columns):
            spread = np.random.default_rng(0).uniform(-0.25, 0.25, len(values))
            ax.plot(position + spread, values, ".", color="0.55", markersize=3)
            ax.hlines(np.median(values), position - 0.3, position + 0.3, color="black", linewidth=2)
        ax.set_xticks(range(len(columns)), [as_text(name) for name, _ in columns], rotation=20, ha="right", fontsize=8)
        ax.set(title=as_text(group), ylabel="alpha of a layer that can be tuned")
        ax.grid(alpha=0.3, axis="y")
    return figure


def write_pictures(collected: Collected, source: Path, folder: Path) -> list[Path]:
    """Write curves.png, seeds.png, alphas.png, and layers-CELL.png of the first seed of each cell that has a history.

    Those share one colour scale for alpha and one for the multipliers, so that they can be laid beside each other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "curves": plot_curves(collected),
        "seeds": plot_seeds(collected),
        "alphas": plot_alphas(collected),
    }
    histories = _first_histories(collected, source)
    if histories:
        shown = [looks for _, looks in histories.values()]
        scales = {"alpha": limits(shown, "alpha"), "multiplier": limits(shown, "multiplier")}
        for label, (name, looks) in histories.items():
            figures[f"layers-{label}"] = plot_history(looks, name, scales)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=100, metadata={"Software": None})
    return paths


def _first_histories(collected: Collected, source: Path) -> dict[str, tuple[str, list[dict[str, Any]]]]:
    """Label of a cell -> name and looks of its first run that has some."""
    found = {}
    for cell in collected.study.combinations():
        for one in collected.of(cell):
            path = source / RUNS_NAME / one.run.name / HISTORY_NAME
            if path.is_file():
                found["--".join(cell.values())] = (one.run.name, read_history(path))
                break
    return found


def _alphas(runs: list[Measured], field: str) -> list[float]:
    values = [layer.get(field) for run in runs for layer in run.layers if is_tuned(layer)]
    return [value for value in values if value is not None and np.isfinite(value)]


def _panels(count: int, *, width: float, height: float) -> tuple[Figure, list[Any]]:
    columns = min(count, 3) or 1
    rows = -(-count // columns) or 1
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(rows, columns)).flat)
    for ax in axes[count:]:
        ax.set_axis_off()
    return figure, axes
