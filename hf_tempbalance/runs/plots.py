"""Pictures of a run, from the looks of its ``tempbalance_history.jsonl``. Functions return the figure."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..terminal import printable
from .history import is_tuned, metric_keys


Looks = list[dict[str, Any]]
TITLES = {"alpha": "power-law exponent alpha", "multiplier": "multiplier"}
_DEPTH = colormaps["cividis"]
MAX_LABELLED = 40  # layers and cells beyond this go without their text
MAX_LETTERS = 60  # of a name; a longer one loses its middle


def as_text(name: str) -> str:
    """A name for matplotlib, which reads what stands between two dollars as a formula: as it is, and not too long."""
    if len(name) > MAX_LETTERS:
        name = f"{name[: MAX_LETTERS // 2]}...{name[-MAX_LETTERS // 2 :]}"
    return printable(name).replace("$", r"\$")


def limits(histories: list[Looks], field: Literal["alpha", "multiplier"]) -> tuple[float, float]:
    """Smallest and largest number of several runs, for heat maps that share one colour scale.

    Of the layers that are tuned, if there are any: the head's alpha is often several times theirs, and on its scale
    they would all look alike.
    """
    values = np.concatenate([_values(looks, field)[_is_tuned(looks)].ravel() for looks in histories])
    if not np.isfinite(values).any():
        values = np.concatenate([_values(looks, field).ravel() for looks in histories])
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
    cell is a layer that keeps the schedule's rate (multiplier) or a number that could not be computed.

    Args:
        looks: of `read_history`, one at least.
        field: "alpha" or "multiplier".
        ax: where to draw; a new figure if None.
        scale: numbers of the darkest and the lightest colour, from `limits`; those of these looks if None. Numbers
            beyond are drawn in the nearest colour, and the colour bar has an arrow there.
    """
    names = [as_text(layer["name"]) for layer in looks[0]["layers"]]
    values = _values(looks, field)
    low, high = scale or limits([looks], field)
    if ax is None:
        figure = Figure(figsize=(2 + 0.5 * len(looks), 1.2 + 0.22 * min(len(names), 60)), layout="constrained")
        ax = figure.add_subplot()
    ax.set_facecolor("white")
    ax.patch.set(hatch="////", edgecolor="0.75")
    shown = np.ma.masked_invalid(values)
    image = ax.imshow(shown, aspect="auto", cmap="cividis", interpolation="nearest", vmin=low, vmax=high)
    beyond = bool((shown < low).any()), bool((shown > high).any())
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[beyond]
    ax.figure.colorbar(image, ax=ax, fraction=0.05, pad=0.02, extend=extend)
    _label(ax, names, looks)
    ax.set_title(TITLES[field])
    if len(names) <= MAX_LABELLED and len(looks) <= 12:
        for row, column in np.argwhere(np.isfinite(values)):
            value = values[row, column]
            shade = "black" if value > (low + high) / 2 else "white"
            ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=shade)
    return _figure_of(ax)


def plot_history(looks: Looks, title: str = "", scales: dict[str, tuple[float, float]] | None = None) -> Figure:
    """alpha and multiplier of each layer over the looks of one run, side by side.

    Args:
        looks: of `read_history`.
        title: above both.
        scales: "alpha" and "multiplier" -> `limits`, where several runs share a scale.
    """
    scales = scales or {}
    height = max(1.4 + 0.22 * min(len(looks[0]["layers"]), 60), 3)
    figure = Figure(figsize=(12, height), layout="constrained")
    alpha, multiplier = figure.subplots(1, 2)
    plot_layers(looks, "alpha", alpha, scales.get("alpha"))
    plot_layers(looks, "multiplier", multiplier, scales.get("multiplier"))
    multiplier.set_yticklabels([])
    figure.suptitle(as_text(title), fontsize=10)
    return figure


def effective_rates(looks: Looks, log: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Rate of each tuned layer: the logged ``learning_rate`` of a step, times the multiplier then in force.

    Args:
        looks: of `read_history`.
        log: ``log_history`` of a Trainer; entries without a learning rate are left out.

    Returns:
        Epochs (points,), the schedule (points,), rates (layers, points), and the layers' names.
    """
    logged = [entry for entry in log if entry.get("learning_rate") is not None]
    epochs = np.array([entry["epoch"] for entry in logged], dtype=float)
    schedule = np.array([entry["learning_rate"] for entry in logged], dtype=float)
    multipliers = _values(looks, "multiplier")
    tuned = np.isfinite(multipliers).any(axis=1)
    # A look after step s holds from step s + 1, an overlapped one from later on or, at the end, for no step.
    steps = [np.inf if (step := look.get("in_force", look["step"])) is None else step for look in looks]
    in_force = np.searchsorted(steps, [entry["step"] for entry in logged], side="left") - 1
    rates = multipliers[tuned][:, np.maximum(in_force, 0)] * schedule
    return (
        epochs,
        schedule,
        rates,
        [layer["name"] for layer, keep in zip(looks[0]["layers"], tuned, strict=True) if keep],
    )


def plot_rates(looks: Looks, log: list[dict[str, Any]], ax: Axes | None = None) -> Figure:
    """Learning rate of each tuned layer over time, dark at the input and light at the output, and the schedule.

    Args:
        looks: of `read_history`.
        log: ``log_history`` of the same run.
        ax: where to draw; a new figure if None.
    """
    epochs, schedule, rates, names = effective_rates(looks, log)
    if ax is None:
        ax = Figure(figsize=(8, 4.2), layout="constrained").add_subplot()
    colours = _DEPTH(np.linspace(0, 0.75, max(len(names), 1)))
    width = 1.4 if len(names) <= MAX_LABELLED else 0.6
    marker = "." if len(epochs) <= 12 else ""
    for rate, colour in zip(rates, colours, strict=False):
        ax.plot(epochs, rate, color=colour, linewidth=width, marker=marker)
    ax.plot(epochs, schedule, "--", color="black", linewidth=2.2, label="schedule")
    if len(names):
        ax.plot([], [], color=colours[0], label=f"first tuned layer, {as_text(names[0])}")
        ax.plot([], [], color=colours[-1], label=f"last, {as_text(names[-1])}")
    ax.set(xlabel="epoch", ylabel="learning rate", title="learning rate of each tuned layer", ylim=(0, None))
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    return _figure_of(ax)


def plot_curves(log: list[dict[str, Any]]) -> Figure:
    """Losses, and every other metric of the evaluations, over epochs.

    Args:
        log: ``log_history`` of a Trainer.
    """
    keys = {key for entry in log for key in metric_keys(entry)}
    losses = ["loss", *sorted(key for key in keys if key.endswith("loss"))]
    panels = {"loss": losses, "evaluation": sorted(keys - set(losses))}
    logged = {key for entry in log for key, value in entry.items() if value is not None}
    panels = {title: names for title, names in panels.items() if logged & set(names)} or {"loss": []}
    figure = Figure(figsize=(5.2 * len(panels), 3.6), layout="constrained")
    for ax, (title, names) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True):
        for number, name in enumerate(names):
            points = [(entry["epoch"], entry[name]) for entry in log if entry.get(name) is not None]
            style = ("-", "--", "-.", ":")[number % 4]
            shade = ("black", "0.45")[number // 4 % 2]
            marker = "o" if len(points) <= 12 else ""
            if points:
                label = {"loss": "training", "eval_loss": "evaluation"}.get(name, as_text(name.removeprefix("eval_")))
                ax.plot(*zip(*points, strict=True), style, color=shade, marker=marker, markersize=4, label=label)
        ax.set(xlabel="epoch", title=title)
        ax.grid(alpha=0.3)
        if ax.lines:
            ax.legend(fontsize=8)
    return figure


def plot_spectrum(eigenvalues: np.ndarray, layer: dict[str, Any], axes: tuple[Axes, Axes] | None = None) -> Figure:
    """The spectrum of one layer: a histogram, and the tail on two logarithmic axes with the fitted power law.

    Args:
        eigenvalues: ascending, of W^T W; those that are 0 are left out.
        layer: ``LayerSpectrum.to_dict()`` of the layer: its name, alpha, alpha_relative, xmin and D.
        axes: where to draw; a new figure if None.
    """
    values = eigenvalues[eigenvalues > 0]
    alpha, xmin, distance = layer["alpha"], layer["xmin"], layer["D"]
    if axes is None:
        axes = Figure(figsize=(10, 4), layout="constrained").subplots(1, 2)
    histogram, tail = axes
    number = int(np.clip(len(values) / 4, 10, 60))
    edges = np.logspace(np.log10(values[0]), np.log10(values[-1]), number).tolist()
    histogram.hist(
        values, bins=edges if values[0] < values[-1] else number, color="0.75", edgecolor="0.4", linewidth=0.4
    )
    histogram.set(xscale="log", xlabel="eigenvalue", ylabel="number", title=as_text(layer["name"]))
    # Share of eigenvalues at or above each: a power law of exponent alpha is a line of slope 1 - alpha.
    share = 1 - np.arange(len(values)) / len(values)
    tail.loglog(values, share, ".", color="0.55", markersize=4, label="share of eigenvalues at or above")
    if np.isfinite([alpha, xmin]).all() and xmin > 0:
        start = np.searchsorted(values, xmin)
        fitted = share[min(start, len(share) - 1)] * (values[start:] / xmin) ** (1 - alpha)
        relative = layer.get("alpha_relative", np.nan)
        label = f"power law, alpha {alpha:.2f}{f' (relative {relative:.2f})' if np.isfinite(relative) else ''}"
        label += f", D {distance:.3f}"
        tail.loglog(values[start:], fitted, "-", color="black", linewidth=1.5, label=label)
        for ax in axes:
            ax.axvline(xmin, color="black", linestyle=":", linewidth=1, label=f"xmin {xmin:.3g}")
    tail.set(xlabel="eigenvalue", title="tail")
    tail.legend(fontsize=8, loc="lower left")
    tail.grid(alpha=0.3)
    return _figure_of(tail)


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
    shades = ["#0072b2" if is_tuned(layer) else "0.8" for layer in layers]
    ax.barh(range(len(layers)), [layer["alpha"] for layer in layers], color=shades, edgecolor="black", linewidth=0.4)
    step = max(len(layers) // MAX_LABELLED, 1)
    ax.set_yticks(range(0, len(layers), step), [as_text(layer["name"]) for layer in layers[::step]], fontsize=7)
    ax.set_ylim(len(layers) - 0.3, -0.7)
    for limit in (2, 6):
        ax.axvline(limit, color="black", linestyle="--", linewidth=0.8)
    ax.set(xlabel="alpha (dashed: WeightWatcher's limits 2 and 6)", title="alpha of each layer")
    return _figure_of(ax)


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
        curve.plot(epochs, values, style, label=as_text(name), color="black", markerfacecolor="white")
    curve.set(xlabel="epoch", ylabel="test accuracy", title="accuracy")
    curve.grid(alpha=0.3)
    curve.legend()
    plot_layers(looks, "alpha", alpha)
    plot_layers(looks, "multiplier", multiplier)
    multiplier.set_yticklabels([])
    return figure


def _figure_of(ax: Axes) -> Figure:
    """The figure that can be saved, also of axes in a part of it."""
    figure = ax.figure
    return figure if isinstance(figure, Figure) else figure.figure


def _values(looks: Looks, field: str) -> np.ndarray:
    """Values as (layers, looks); NaN for the multiplier of a layer that keeps the schedule's rate."""
    values = np.array([[layer[field] for layer in look["layers"]] for look in looks], dtype=float).T
    if field == "multiplier":
        values[~_is_tuned(looks)] = np.nan
    return values


def _is_tuned(looks: Looks) -> np.ndarray:
    return np.array([is_tuned(layer) for layer in looks[0]["layers"]])


def _label(ax: Axes, names: list[str], looks: Looks) -> None:
    step = max(len(names) // MAX_LABELLED, 1)
    ax.set_yticks(range(0, len(names), step), names[::step], fontsize=7)
    every = max(len(looks) // 10, 1)
    epochs = [f"{look['epoch']:g}" for look in looks]
    ax.set_xticks(range(0, len(looks), every), epochs[::every], fontsize=8)
    ax.set_xlabel("epoch of the look")
