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


def plot_spectrum(eigenvalues: np.ndarray, layer: dict[str, Any], axes: tuple[Axes, Axes] | None = None) -> Figure:
    """The spectrum of one layer: a histogram, and the tail on two logarithmic axes with the fitted power law.

    Args:
        eigenvalues: ascending, of W^T W; those that are 0 are left out.
        layer: ``LayerSpectrum.to_dict()`` of the layer: its name, alpha, xmin and D.
        axes: where to draw; a new figure if None.
    """
    values = eigenvalues[eigenvalues > 0]
    alpha, xmin, distance = layer["alpha"], layer["xmin"], layer["D"]
    if axes is None:
        axes = Figure(figsize=(10, 4), layout="constrained").subplots(1, 2)
    histogram, tail = axes
    bins = np.logspace(np.log10(values[0]), np.log10(values[-1]), 60) if values[0] < values[-1] else 10
    histogram.hist(values, bins=bins, color="0.75", edgecolor="0.4", linewidth=0.4)
    histogram.set(xscale="log", xlabel="eigenvalue", ylabel="number", title=layer["name"])
    # Share of eigenvalues at or above each: a power law of exponent alpha is a line of slope 1 - alpha.
    share = 1 - np.arange(len(values)) / len(values)
    tail.loglog(values, share, ".", color="0.55", markersize=4, label="share of eigenvalues at or above")
    if np.isfinite([alpha, xmin]).all() and xmin > 0:
        start = np.searchsorted(values, xmin)
        fitted = share[min(start, len(share) - 1)] * (values[start:] / xmin) ** (1 - alpha)
        label = f"power law, alpha {alpha:.2f}, D {distance:.3f}"
        tail.loglog(values[start:], fitted, "-", color="black", linewidth=1.5, label=label)
        for ax in axes:
            ax.axvline(xmin, color="black", linestyle=":", linewidth=1, label=f"xmin {xmin:.3g}")
    tail.set(xlabel="eigenvalue", title="tail")
    tail.legend(fontsize=8, loc="lower left")
    tail.grid(alpha=0.3)
    return tail.figure


def plot_alphas(layers: list[dict[str, Any]], ax: Axes | None = None) -> Figure:
    """alpha of every layer as bars, in order; grey bars are layers that keep the schedule's rate.

    Args:
        layers: ``LayerSpectrum.to_dict()`` of each; those without an exponent are left out.
        ax: where to draw; a new figure if None.
    """
    layers = [layer for layer in layers if np.isfinite(layer["alpha"])]
    if ax is None:
        figure = Figure(figsize=(7, 1.4 + 0.2 * min(len(layers), 60)), layout="constrained")
        ax = figure.add_subplot()
    shades = ["0.8" if layer["excluded_by"] else "#0072b2" for layer in layers]
    ax.barh(range(len(layers)), [layer["alpha"] for layer in layers], color=shades, edgecolor="black", linewidth=0.4)
    step = max(len(layers) // MAX_LABELLED, 1)
    ax.set_yticks(range(0, len(layers), step), [layer["name"] for layer in layers[::step]], fontsize=7)
    ax.invert_yaxis()
    for limit in (2, 6):
        ax.axvline(limit, color="black", linestyle="--", linewidth=0.8)
    ax.set(xlabel="alpha (dashed: WeightWatcher's limits 2 and 6)", title="alpha of each layer")
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
