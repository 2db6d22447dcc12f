"""Pictures of a run, from the looks of its ``tempbalance_history.jsonl``. Functions return the figure."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure


Looks = list[dict[str, Any]]
TITLES = {"alpha": "power-law exponent alpha", "multiplier": "learning-rate multiplier"}
MAX_LABELLED = 40  # layers and cells beyond this go without their text


def plot_layers(looks: Looks, field: Literal["alpha", "multiplier"], ax: Axes | None = None) -> Figure:
    """Heat map of one number per layer (rows, input at the top) and look (columns).

    Light is large; cells have their number where there is room, so the picture reads in black and white. A hatched
    cell is a layer that keeps the schedule's rate (multiplier) or a number that could not be computed.

    Args:
        looks: of `read_history`, one at least.
        field: "alpha" or "multiplier".
        ax: where to draw; a new figure if None.
    """
    names = [layer["name"] for layer in looks[0]["layers"]]
    values = np.array([[layer[field] for layer in look["layers"]] for look in looks], dtype=float).T
    if field == "multiplier":
        untuned = [layer["excluded_by"] is not None for layer in looks[0]["layers"]]
        values[untuned] = np.nan
    if ax is None:
        figure = Figure(figsize=(2 + 0.5 * len(looks), 1.2 + 0.22 * min(len(names), 60)), layout="constrained")
        ax = figure.add_subplot()
    ax.set_facecolor("white")
    ax.patch.set(hatch="////", edgecolor="0.75")
    image = ax.imshow(np.ma.masked_invalid(values), aspect="auto", cmap="cividis", interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, fraction=0.05, pad=0.02)
    _label(ax, names, looks)
    ax.set_title(TITLES[field])
    if len(names) <= MAX_LABELLED and len(looks) <= 12:
        middle = (np.nanmin(values) + np.nanmax(values)) / 2 if np.isfinite(values).any() else 0.0
        for row, column in np.argwhere(np.isfinite(values)):
            value = values[row, column]
            shade = "black" if value > middle else "white"
            ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=shade)
    return ax.figure


def plot_comparison(looks: Looks, accuracies: dict[str, list[tuple[float, float]]]) -> Figure:
    """One picture of a run with TempBalance beside runs without: accuracy curves, alpha and multiplier per layer.

    Args:
        looks: of the run with TempBalance.
        accuracies: name of a run -> (epoch, accuracy) pairs.
    """
    height = 1.4 + 0.22 * min(len(looks[0]["layers"]), 60)
    figure = Figure(figsize=(14, max(height, 4)), layout="constrained")
    curve, alpha, multiplier = figure.subplots(1, 3, width_ratios=[1, 1.25, 1.25])
    for (name, points), style in zip(accuracies.items(), ("o-", "s--", "^:", "d-."), strict=False):
        epochs, values = zip(*points, strict=True)
        curve.plot(epochs, values, style, label=name, color="black", markerfacecolor="white")
    curve.set(xlabel="epoch", ylabel="test accuracy", title="accuracy")
    curve.grid(alpha=0.3)
    curve.legend()
    plot_layers(looks, "alpha", alpha)
    plot_layers(looks, "multiplier", multiplier)
    multiplier.set_yticklabels([])
    return figure


def _label(ax: Axes, names: list[str], looks: Looks) -> None:
    step = max(len(names) // MAX_LABELLED, 1)
    ax.set_yticks(range(0, len(names), step), names[::step], fontsize=7)
    every = max(len(looks) // 10, 1)
    epochs = [f"{look['epoch']:g}" for look in looks]
    ax.set_xticks(range(0, len(looks), every), epochs[::every], fontsize=8)
    ax.set_xlabel("epoch of the look")
