"""Many layers in one picture: for each role the median and the quantiles of its layers, or every layer as a line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .drawing import BLUE, DEPTH, WIDTH, Looks, as_text, figure_of, told, tuned_of, values_of
from .numbers import three_digits
from .roles import ROLES, role_of


Field = Literal["alpha", "multiplier", "learning_rate"]
TITLES = {"alpha": "alpha", "multiplier": "multiplier", "learning_rate": "learning rate"}
MOST_LINES = 20  # layers that are told apart as lines; of more there are bands
FEWEST_FOR_A_BAND = 4  # layers of a role
MOST_POINTS = 150  # of a line among many
MOST_STEPS = 40  # looks whose multipliers are drawn as steps
FEW_POINTS = 12  # that are marked
COLUMNS = 3


@dataclass(frozen=True)
class Series:
    """One number of each tuned layer over time.

    Attributes:
        epochs: (points,).
        values: (layers, points), NaN where there is none.
        names, roles: of the layers, in order.
        schedule: (points,), what the rates are multiples of; None for other numbers.
        field: what the numbers are.
    """

    epochs: np.ndarray
    values: np.ndarray
    names: list[str]
    roles: list[str]
    field: Field
    schedule: np.ndarray | None = None


def series_of(looks: Looks, field: Literal["alpha", "multiplier"]) -> Series:
    """A number of the tuned layers at each look."""
    tuned = tuned_of(looks)
    layers = [layer for layer, keep in zip(looks[0]["layers"], tuned, strict=True) if keep]
    epochs = np.array([look["epoch"] for look in looks], dtype=float)
    return Series(epochs, values_of(looks, field)[tuned], *_names(layers), field)


def rates_of(looks: Looks, log: list[dict[str, Any]]) -> Series:
    """Rate of each tuned layer: the logged ``learning_rate`` of a step, times the multiplier then in force.

    Args:
        looks: of `read_history`.
        log: ``log_history`` of a Trainer; entries without a learning rate are left out.
    """
    logged = [entry for entry in log if entry.get("learning_rate") is not None]
    epochs = np.array([entry["epoch"] for entry in logged], dtype=float)
    schedule = np.array([entry["learning_rate"] for entry in logged], dtype=float)
    tuned = tuned_of(looks)
    layers = [layer for layer, keep in zip(looks[0]["layers"], tuned, strict=True) if keep]
    # A look after step s holds from step s + 1, an overlapped one from later on or, at the end, for no step.
    steps = [np.inf if (step := look.get("in_force", look["step"])) is None else step for look in looks]
    in_force = np.searchsorted(steps, [entry["step"] for entry in logged], side="left") - 1
    rates = values_of(looks, "multiplier")[tuned][:, np.maximum(in_force, 0)] * schedule
    return Series(epochs, rates, *_names(layers), "learning_rate", schedule)


def plot_bands(series: Series) -> Figure:
    """A panel for each role: median, middle half and middle four fifths of its layers; lines where it has few."""

    def draw(ax: Axes, rows: np.ndarray) -> None:
        if len(rows) < FEWEST_FOR_A_BAND:
            for row in rows:
                _line(ax, series, row, BLUE, 1.2)
            return
        values = series.values[rows]
        seen = np.isfinite(values).any(axis=0)
        if not seen.any():
            return
        low, first, middle, third, high = np.nanquantile(values[:, seen], [0.1, 0.25, 0.5, 0.75, 0.9], axis=0)
        epochs = series.epochs[seen]
        for (bottom, top), strength in (((low, high), 0.18), ((first, third), 0.32)):
            ax.fill_between(epochs, bottom, top, color=BLUE, alpha=strength, linewidth=0)
        ax.plot(epochs, middle, color=BLUE, linewidth=1.8, marker="o" if len(epochs) == 1 else "")

    return _by_role(series, draw)


def plot_lines(series: Series) -> Figure:
    """A panel for each role with a line for each layer, from the input (blue) to the output (orange)."""
    colours = DEPTH(np.linspace(0, 1, max(len(series.names), 1)))
    step = max(-(-len(series.epochs) // MOST_POINTS), 1)

    def draw(ax: Axes, rows: np.ndarray) -> None:
        for row in rows:
            _line(ax, series, row, colours[row], 0.8, step)

    return _by_role(series, draw)


def plot_few(series: Series, ax: Axes | None = None) -> Figure:
    """All layers as lines in one panel, from the input (blue) to the output (orange)."""
    if ax is None:
        ax = Figure(figsize=(WIDTH, 4.2), layout="constrained").add_subplot()
    colours = DEPTH(np.linspace(0, 1, max(len(series.names), 1)))
    for row, name in enumerate(series.names):
        is_named = row in (0, len(series.names) - 1)
        place = "first tuned layer, " if row == 0 else "last, "
        _line(ax, series, row, colours[row], 1.4, label=place + as_text(name, 40) if is_named else None)
    _schedule(ax, series, "schedule")
    ax.set(xlabel="epoch", ylabel=TITLES[series.field])
    if series.field == "learning_rate":
        ax.set_ylim(0, None)
    ax.grid(alpha=0.3)
    if series.names or series.schedule is not None:
        ax.legend(fontsize=8)
    return figure_of(ax)


def _by_role(series: Series, draw: Callable[[Axes, np.ndarray], None]) -> Figure:
    """Panels that share their axes, one for each role in `ROLES`; draw(ax, rows) fills one."""
    rows_of = {role: np.array([row for row, of in enumerate(series.roles) if of == role]) for role in ROLES}
    groups = {role: rows for role, rows in rows_of.items() if len(rows)}
    columns = 2 if len(groups) in (2, 4) else min(COLUMNS, max(len(groups), 1))
    lines = max(-(-len(groups) // columns), 1)
    figure = Figure(figsize=(WIDTH, 0.6 + 2.1 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for ax, (role, rows) in zip(panels.flat, groups.items(), strict=False):
        _schedule(ax, series)
        draw(ax, rows)
        ax.set_title(f"{role}: {len(rows)} layer{'s' if len(rows) > 1 else ''}", fontsize=9)
        ax.grid(alpha=0.3)
        ax.tick_params(labelsize=8)
    for ax in panels.flat[len(groups) :]:
        ax.set_visible(False)
    if series.field == "learning_rate":
        panels.flat[0].set_ylim(0, None)
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel(TITLES[series.field], fontsize=9)
    return figure


def _line(
    ax: Axes, series: Series, row: int, colour: Any, width: float, step: int = 1, *, label: str | None = None
) -> None:
    """One layer, every step-th point of it and the last, with its name and its numbers as its title."""
    values = series.values[row]
    kept = np.unique([*range(0, len(values), step), len(values) - 1])
    finite = values[np.isfinite(values)]
    numbers = f"{three_digits(finite[0])} to {three_digits(finite[-1])}" if finite.size else "no number"
    # A multiplier holds from its look to the next: seen as steps where there is room for them.
    style = "steps-post" if series.field == "multiplier" and len(values) <= MOST_STEPS else "default"
    ax.plot(
        series.epochs[kept],
        values[kept],
        color=colour,
        linewidth=width,
        marker="." if len(values) <= FEW_POINTS else "",
        drawstyle=style,
        label=label,
        gid=told(f"{series.names[row]}: {numbers}"),
    )


def _schedule(ax: Axes, series: Series, label: str | None = None) -> None:
    if series.schedule is not None:
        marker = "o" if len(series.epochs) == 1 else ""
        ax.plot(series.epochs, series.schedule, "--", color="black", linewidth=1.4, marker=marker, label=label)


def _names(layers: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    return [layer["name"] for layer in layers], [role_of(layer["name"], layer.get("kind", "")) for layer in layers]
