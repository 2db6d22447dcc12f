"""Pictures of a run, from the looks of its ``tempbalance_history.jsonl``. Functions return the figure."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .bands import MOST_LINES, plot_bands, plot_few, rates_of
from .drawing import (
    BLUE,
    DEPTH,
    MAX_LABELLED,
    WIDTH,
    Looks,
    as_text,
    every,
    figure_of,
    labels,
    told,
    tuned_of,
    values_of,
)
from .history import is_tuned, metric_keys
from .numbers import three_digits
from .roles import ROLES, role_of
from .spectrum_plot import plot_spectrum as plot_spectrum


TITLES = {"alpha": "power-law exponent alpha", "multiplier": "multiplier"}
LIMITS_FIT = "goodness-of-fit"  # the fit whose exponents WeightWatcher's limits 2 and 6 are of
MOST_COLUMNS = 12  # looks; of more the cells go without their numbers


def limits(histories: list[Looks], field: Literal["alpha", "multiplier"]) -> tuple[float, float]:
    """Smallest and largest number of several runs, for heat maps that share one colour scale.

    Of the layers that are tuned, if there are any: the head's alpha is often several times theirs, and on its scale
    they would all look alike.
    """
    values = np.concatenate([values_of(looks, field)[tuned_of(looks)].ravel() for looks in histories])
    if not np.isfinite(values).any():
        values = np.concatenate([values_of(looks, field).ravel() for looks in histories])
    values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)


def plot_layers(
    looks: Looks,
    field: Literal["alpha", "multiplier"],
    ax: Axes | None = None,
    scale: tuple[float, float] | None = None,
) -> Figure:
    """Heat map of one number per layer (rows, input at the top) and look (columns).

    Light is large; cells have their number where there is room, so the picture reads in black and white. A hatched
    cell is a layer that keeps the schedule's rate or a number that could not be computed; where no layer is tuned all
    have colours. Up to 40 layers have their short name (`roles.short_names`), of more every k-th.

    Args:
        looks: of `read_history`, one at least.
        field: "alpha" or "multiplier".
        ax: where to draw; a new figure if None.
        scale: numbers of the darkest and the lightest colour, from `limits`; those of these looks if None. Numbers
            beyond are drawn in the nearest colour, and the colour bar has an arrow there.
    """
    layers = looks[0]["layers"]
    names = labels(layers)
    values = values_of(looks, field)
    low, high = scale or limits([looks], field)
    if ax is None:
        ax = Figure(figsize=(WIDTH, _height(len(names))), layout="constrained").add_subplot()
    ax.set_facecolor("white")
    ax.patch.set(hatch="////", edgecolor="0.75")
    tuned = tuned_of(looks)
    shown = np.ma.masked_invalid(np.where(tuned[:, None], values, np.nan) if tuned.any() else values)
    # Not resampled: a pixel of the file is a cell, however many there are.
    image = ax.imshow(shown, aspect="auto", cmap="cividis", interpolation="none", vmin=low, vmax=high)
    if shown.count():
        beyond = bool((shown < low).any()), bool((shown > high).any())
        extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[beyond]
        bar = ax.figure.colorbar(image, ax=ax, fraction=0.05, pad=0.02, extend=extend)
        bar.ax.tick_params(labelsize=8)
    _label(ax, names, looks)
    ax.set_title(TITLES[field], fontsize=10)
    for row, layer in enumerate(layers):  # nothing to be seen, but the mouse finds its title there
        title = told(_title(layer, values[row]))
        ax.add_patch(
            Rectangle((-0.5, row - 0.5), len(looks), 1, facecolor="white", linewidth=0, alpha=0.001, gid=title)
        )
    if len(names) <= MAX_LABELLED and len(looks) <= MOST_COLUMNS:
        is_hatched = np.ma.getmaskarray(shown)
        for row, column in np.argwhere(np.isfinite(values)):
            value = values[row, column]
            # On a colour not the black and white that a dark page exchanges.
            shade = "#010101" if value > (low + high) / 2 else "#fefefe"
            shade = "black" if is_hatched[row, column] else shade
            ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=shade)
    return figure_of(ax)


def plot_history(looks: Looks, title: str = "", scales: dict[str, tuple[float, float]] | None = None) -> Figure:
    """alpha and multiplier of each layer over the looks of one run, side by side.

    Args:
        looks: of `read_history`.
        title: above both.
        scales: "alpha" and "multiplier" -> `limits`, where several runs share a scale.
    """
    scales = scales or {}
    figure = Figure(figsize=(WIDTH, max(_height(len(looks[0]["layers"])), 3)), layout="constrained")
    alpha, multiplier = figure.subplots(1, 2)
    plot_layers(looks, "alpha", alpha, scales.get("alpha"))
    plot_layers(looks, "multiplier", multiplier, scales.get("multiplier"))
    multiplier.set_yticklabels([])
    if title:
        figure.suptitle(as_text(title), fontsize=10)
    return figure


def plot_rates(looks: Looks, log: list[dict[str, Any]], ax: Axes | None = None) -> Figure:
    """Learning rate of each tuned layer over time and the schedule: lines, or of many layers bands by role.

    Args:
        looks: of `read_history`.
        log: ``log_history`` of the same run.
        ax: where to draw lines, however many; a new figure if None.
    """
    rates = rates_of(looks, log)
    return plot_few(rates, ax) if ax is not None or len(rates.names) <= MOST_LINES else plot_bands(rates)


def plot_curves(log: list[dict[str, Any]], baseline: list[dict[str, Any]] | None = None) -> Figure:
    """Losses, and every other metric of the evaluations, over epochs.

    Args:
        log: ``log_history`` of a Trainer.
        baseline: that of another run, drawn thin and in grey.
    """
    keys = {key for entry in log for key in metric_keys(entry)}
    losses = ["loss", *sorted(key for key in keys if key.endswith("loss"))]
    panels = {"loss": losses, "evaluation": sorted(keys - set(losses))}
    logged = {key for entry in log for key, value in entry.items() if value is not None}
    panels = {title: names for title, names in panels.items() if logged & set(names)} or {"loss": []}
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    for ax, (title, names) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True):
        for number, name in enumerate(names):
            label = {"loss": "training", "eval_loss": "evaluation"}.get(name, as_text(name.removeprefix("eval_"), 40))
            style = ("-", "--", "-.", ":")[number % 4]
            shade = ("black", BLUE)[number // 4 % 2]
            _curve(ax, baseline or [], name, style, f"{label}, baseline", color="0.45", linewidth=1)
            _curve(ax, log, name, style, label, color=shade, linewidth=1.6)
        ax.set(xlabel="epoch", title=title)
        ax.grid(alpha=0.3)
        if ax.lines:
            ax.legend(fontsize=8)
    return figure


def plot_alphas(layers: list[dict[str, Any]], ax: Axes | None = None, *, fit: str = "") -> Figure:
    """alpha of every layer, in order; grey are layers that keep the schedule's rate.

    Bars with names for up to 40 layers; of more points, in the colour of their role, over the range of the tuned
    layers: what lies beyond is on the edge.

    Args:
        layers: ``LayerSpectrum.to_dict()`` of each; those without an exponent are left out.
        ax: where to draw; a new figure if None.
        fit: what the exponents are from; those of "goodness-of-fit" are drawn with WeightWatcher's limits 2 and 6.
    """
    layers = [layer for layer in layers if np.isfinite(layer["alpha"])]
    is_many = len(layers) > MAX_LABELLED
    if ax is None:
        height = 4.4 if is_many else 1.4 + 0.2 * len(layers)
        ax = Figure(figsize=(WIDTH, height), layout="constrained").add_subplot()
    (_points if is_many else _bars)(ax, layers)
    name = f"alpha ({fit} fit)" if fit else "alpha"
    if fit == LIMITS_FIT:
        for limit in (2, 6):
            (ax.axhline if is_many else ax.axvline)(limit, color="black", linestyle="--", linewidth=0.8)
        name += ", dashed: WeightWatcher's limits 2 and 6"
    ax.set(**{"ylabel" if is_many else "xlabel": name})
    ax.grid(alpha=0.3, axis="y" if is_many else "x")
    return figure_of(ax)


def plot_comparison(looks: Looks, accuracies: dict[str, list[tuple[float, float]]]) -> Figure:
    """One picture of a run with TempBalance beside runs without: accuracy curves, alpha and multiplier per layer.

    Args:
        looks: of the run with TempBalance.
        accuracies: name of a run -> (epoch, accuracy) pairs.
    """
    figure = Figure(figsize=(14, max(_height(len(looks[0]["layers"])), 4)), layout="constrained")
    curve, alpha, multiplier = figure.subplots(1, 3, width_ratios=[1, 1.25, 1.25])
    for (name, points), style in zip(accuracies.items(), ("o-", "s--", "^:", "d-."), strict=False):
        epochs, values = zip(*points, strict=True)
        curve.plot(epochs, values, style, label=as_text(name), color="black", markerfacecolor="white")
    curve.set(xlabel="epoch", ylabel="test accuracy", title="accuracy")
    curve.grid(alpha=0.3)
    curve.legend()
    plot_layers(looks, "alpha", alpha)
    plot_layers(looks, "multiplier", multiplier)
    multiplier.set_yticklabels([])
    return figure


def _bars(ax: Axes, layers: list[dict[str, Any]]) -> None:
    for row, layer in enumerate(layers):
        shade = BLUE if is_tuned(layer) else "0.8"
        (bar,) = ax.barh(row, layer["alpha"], color=shade, edgecolor="black", linewidth=0.4)
        bar.set_gid(told(f"{layer['name']}: {three_digits(layer['alpha'])}"))
    ax.set_yticks(range(len(layers)), labels(layers), fontsize=7)
    ax.set_ylim(len(layers) - 0.3, -0.7)


def _points(ax: Axes, layers: list[dict[str, Any]]) -> None:
    roles = [role_of(layer["name"], layer.get("kind", "")) for layer in layers]
    present = [role for role in ROLES if role in roles]
    colours = dict(zip(present, DEPTH(np.linspace(0, 1, max(len(present), 1))), strict=True))
    markers = dict(zip(present, "o^sDvPX<>*hp", strict=False))
    for role in present:
        ax.plot([], [], markers[role], color=colours[role], label=role, linestyle="")
    # The range is that of the tuned layers: the head's alpha is often several times theirs.
    within = [layer["alpha"] for layer in layers if is_tuned(layer)] or [layer["alpha"] for layer in layers]
    margin = 0.08 * (max(within) - min(within)) or 0.1
    low, high = min(within) - margin, max(within) + margin
    for place, (layer, role) in enumerate(zip(layers, roles, strict=True)):
        shade = colours[role] if is_tuned(layer) else "0.8"
        title = told(f"{layer['name']}: {three_digits(layer['alpha'])}")
        height = min(max(layer["alpha"], low), high)
        ax.plot(place, height, markers[role], color=shade, markersize=5, gid=title, clip_on=False)
    ax.set_ylim(low, high)
    ax.set(xlabel="layer, from the input to the output")
    ax.legend(fontsize=8, ncols=6, loc="lower center", bbox_to_anchor=(0.5, 1))


def _curve(ax: Axes, log: list[dict[str, Any]], name: str, style: str, label: str, **how: Any) -> None:
    points = [(entry["epoch"], entry[name]) for entry in log if entry.get(name) is not None]
    if points:
        marker = "o" if len(points) <= 12 else ""
        ax.plot(*zip(*points, strict=True), style, marker=marker, markersize=4, label=label, **how)


def _title(layer: dict[str, Any], values: np.ndarray) -> str:
    finite = values[np.isfinite(values)]
    numbers = f"{three_digits(finite[0])} to {three_digits(finite[-1])}" if finite.size else "no number"
    return f"{layer['name']}: {numbers}" if is_tuned(layer) else f"{layer['name']}, not tuned: {numbers}"


def _height(count: int) -> float:
    """Inches of a heat map of so many layers."""
    return 1.4 + 0.22 * min(count, MAX_LABELLED)


def _label(ax: Axes, names: list[str], looks: Looks) -> None:
    step = every(len(names))
    ax.set_yticks(range(0, len(names), step), names[::step], fontsize=7)
    apart = max(-(-len(looks) // 10), 1)
    epochs = [f"{look['epoch']:.3g}" for look in looks]
    ax.set_xticks(range(0, len(looks), apart), epochs[::apart], fontsize=8)
    ax.set_xlabel("epoch of the look", fontsize=9)
