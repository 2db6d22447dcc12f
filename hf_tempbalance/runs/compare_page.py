"""One page of a comparison: ``hf-tempbalance compare-runs ... --output page.html``. It opens offline."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import __version__
from ..files import write_whole
from .compare import Comparison, Side
from .drawing import BLUE, WIDTH
from .measured import Measured
from .svg import inline_svg


Curve = Callable[[Measured], list[tuple[float, float]]]
STYLES = (("-", "black", "o"), ("--", BLUE, "s"))  # told apart in black and white too
FEWEST_FOR_A_BAND = 3


def write_page(comparison: Comparison, path: str | Path) -> Path:
    """Write the page. Returns its path.

    Raises:
        OSError: it could not be written.
    """
    environment = Environment(loader=PackageLoader(__package__), autoescape=True, trim_blocks=True)
    sides = (comparison.base, comparison.other)
    page = environment.get_template("compare.html").render(
        title=f"{comparison.other.name} and {comparison.base.name}: {comparison.metric}",
        comparison=comparison,
        sides=sides,
        pairs=[
            (
                comparison.base.runs[a].seed if comparison.paired_by == "seed" else number,
                comparison.base.runs[a].value,
                comparison.other.runs[b].value,
                comparison.other.runs[b].value - comparison.base.runs[a].value,
            )
            for number, (a, b) in enumerate(comparison.pairs, start=1)
        ],
        pictures=[
            {**picture, "svg": inline_svg(picture["figure"], f"{picture['title']}: {picture['caption']}")}
            for picture in _pictures(comparison)
        ],
        number=_number,
        version=__version__,
    )
    path = Path(path)
    write_whole(path, page)
    return path


def plot_curves_of(sides: Sequence[Side], curve: Curve, name: str) -> Figure:
    """A thin line for each run, a thick one for the mean of a side, and with 3 runs or more a band of one sd.

    Args:
        sides: two.
        curve: (epoch, value) pairs of a run.
        name: of what is drawn.
    """
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    ax = figure.add_subplot()
    for side, (style, colour, marker) in zip(sides, STYLES, strict=True):
        curves = [points for run in side.runs if (points := curve(run))]
        for points in curves:
            ax.plot(*zip(*points, strict=True), style, color=colour, linewidth=0.6, alpha=0.6)
        if curves:
            _mean_and_band(
                ax, curves, f"{side.name}, {len(curves)} run{'s' if len(curves) > 1 else ''}", style, colour, marker
            )
    if "accuracy" in name:  # shares end at 0 and 1, percentages at 0 and 100
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, 0), min(high, 1 if high <= 1.2 else 100))
    ax.set(xlabel="epoch", title=name)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    return figure


def _mean_and_band(
    ax: Axes, curves: list[list[tuple[float, float]]], label: str, style: str, colour: str, marker: str
) -> None:
    """Draw mean and band over the epochs that all curves have."""
    values = [dict(points) for points in curves]
    epochs = sorted(set.intersection(*(set(points) for points in values)))
    table = np.array([[points[epoch] for epoch in epochs] for points in values], dtype=float)
    if not epochs:
        ax.plot([], [], style, color=colour, label=label)
        return
    mean = table.mean(axis=0)
    size = 4 if len(epochs) <= 20 else 0
    ax.plot(epochs, mean, style, color=colour, linewidth=1.8, marker=marker, markersize=size, label=label)
    if len(curves) >= FEWEST_FOR_A_BAND:
        sd = table.std(axis=0, ddof=1)
        ax.fill_between(epochs, mean - sd, mean + sd, color=colour, alpha=0.15, linewidth=0)


def _pictures(comparison: Comparison) -> list[dict[str, Any]]:
    sides = (comparison.base, comparison.other)
    runs = [run for side in sides for run in side.runs]
    curves: list[tuple[str, str, Curve]] = [
        (comparison.metric, f"{comparison.metric} of every evaluation.", lambda run: run.curve),
        ("training loss", "As the Trainer logged it.", lambda run: run.losses),
        ("mean multiplier", "Of the tuned layers; each value holds to the next.", lambda run: run.multipliers),
    ]
    note = "Thin: single runs; thick: the mean of a side" + (
        ", with a band of one standard deviation."
        if max(len(side.runs) for side in sides) >= FEWEST_FOR_A_BAND
        else "."
    )
    return [
        {"title": title, "caption": f"{caption} {note}", "figure": plot_curves_of(sides, curve, title)}
        for title, caption, curve in curves
        if any(curve(run) for run in runs)
    ]


def _number(value: float | None, form: str = ".4g") -> str:
    return "-" if value is None or math.isnan(value) else format(value, form)
