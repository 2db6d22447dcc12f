"""The picture of one layer's spectrum: what its exponent rests on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from .drawing import BLUE, WIDTH, as_text, figure_of
from .numbers import three_digits


# What a name of `Fit` is, in the words of the picture.
WORDS = {"median": "median: a summary of the tail, not a fit"}
MOST_BINS = 60
MOST_POINTS = 300  # eigenvalues that are drawn, and starts of a tail that are tried
SHORTEST_TAIL = 5  # eigenvalues; the exponents of shorter ones leave the picture

Density = Callable[[np.ndarray], np.ndarray]


def plot_spectrum(
    eigenvalues: np.ndarray,
    layer: dict[str, Any],
    axes: tuple[Axes, Axes] | None = None,
    *,
    fit: str = "",
    random: Density | None = None,
) -> Figure:
    """The spectrum of one layer: histogram and tail, and below them alpha and D of every tail that could be chosen.

    Where a large alpha rests on few eigenvalues, the lower two show it: their upper axis counts the eigenvalues in the
    tail that starts at xmin, and the dotted line is the start that was chosen.

    Args:
        eigenvalues: ascending, of W^T W; those that are 0 are left out.
        layer: ``LayerSpectrum.to_dict()`` of the layer: its name, alpha, alpha_relative, xmin and D.
        axes: where to draw histogram and tail alone; a new figure with all four if None.
        fit: what chose the tail, an option ``fit`` of `TempBalanceConfig`. Of the median the picture says that it is
            no fit.
        random: density of the eigenvalues of a random matrix of this layer's shape, drawn as a thin line.
    """
    values = eigenvalues[eigenvalues > 0]
    main: tuple[Axes, ...] = () if axes is None else axes
    if axes is None:
        grid = Figure(figsize=(WIDTH, 6.4), layout="constrained").subplots(2, 2)
        if len(values):
            _scan(grid[1, 0], grid[1, 1], values, layer)
        main = tuple(grid.flat)
    histogram, tail = main[:2]
    if len(values):
        _histogram(histogram, values, random)
        _tail(tail, values, layer)
    if np.isfinite(layer["xmin"]) and layer["xmin"] > 0:
        for ax in main:
            ax.axvline(layer["xmin"], color="black", linestyle=":", linewidth=1)
    histogram.set_title(as_text(layer["name"], 48), fontsize=10)
    tail.set_title(f"tail ({WORDS.get(fit, fit)})" if fit else "tail", fontsize=10)
    for ax in main:
        ax.minorticks_off()  # which would take most of the time of a picture
    for ax in (histogram, tail):
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=8, loc="lower left" if ax is tail else "best")
    return figure_of(tail)


def tails(values: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""alpha and D of the tails that begin at some positions, as `fit_power_law` defines them.

        alpha(i) = 1 + n / sum_{j>=i} ln(x[j] / x[i]),   n = N - i
        D(i)     = max_j | 1 - (x[i+j] / x[i])^(1 - alpha(i)) - j / n |

    Args:
        values: ascending eigenvalues (N,), above 0.
        starts: positions (m,).

    Returns:
        alpha and D, (m,) each; infinite and NaN where all values of the tail are equal.
    """
    logs = np.log(values)
    above = np.cumsum(logs[::-1])[::-1]
    counts = len(values) - starts
    with np.errstate(divide="ignore"):
        alphas = 1 + counts / np.maximum(above[starts] - counts * logs[starts], 0)
    distances = np.full(len(starts), np.nan)
    for place in np.flatnonzero(np.isfinite(alphas)):
        start, count = starts[place], counts[place]
        fitted = 1 - np.exp((1 - alphas[place]) * (logs[start:] - logs[start]))
        distances[place] = np.abs(fitted - np.arange(count) / count).max()
    return alphas, distances


def _histogram(ax: Axes, values: np.ndarray, random: Density | None) -> None:
    number = int(np.clip(len(values) / 4, 10, MOST_BINS))
    edges: Any = number
    if values[0] < values[-1]:
        edges = np.logspace(np.log10(values[0]), np.log10(values[-1]), number)
    heights, edges, _ = ax.hist(values, bins=edges, color="0.8", edgecolor="0.45", linewidth=0.4)
    ax.set(xscale="log", xlabel="eigenvalue", ylabel="number")
    if random is None or not values[0] < values[-1]:
        return
    # A random matrix's eigenvalues end above 0 where it is not square, often above the smallest of this one.
    points = np.logspace(np.log10(edges[0]), np.log10(edges[-1]), 400)
    expected = len(values) * random(points) * points * np.log(edges[1] / edges[0])
    ax.plot(points, expected, color=BLUE, linewidth=1, label="random matrix of this shape (Marchenko-Pastur)")
    ax.set_ylim(0, 1.3 * max(np.max(heights), np.nanmax(expected)))


def _tail(ax: Axes, values: np.ndarray, layer: dict[str, Any]) -> None:
    alpha, xmin, distance = layer["alpha"], layer["xmin"], layer["D"]
    # Share of eigenvalues at or above each: a power law of exponent alpha is a line of slope 1 - alpha.
    share = 1 - np.arange(len(values)) / len(values)
    kept = _spread(len(values))
    ax.loglog(values[kept], share[kept], ".", color="0.45", markersize=4, label="share of eigenvalues at or above")
    if np.isfinite([alpha, xmin]).all() and xmin > 0:
        start = int(np.searchsorted(values, xmin))
        start = min(start, len(values) - 1)
        ends = np.array([values[start], values[-1]])
        relative = layer.get("alpha_relative", np.nan)
        label = f"power law, alpha {three_digits(alpha)}"
        label += f" (relative {three_digits(relative)})" if np.isfinite(relative) else ""
        label += f",\nD {three_digits(distance)}, {len(values) - start} of {len(values)} eigenvalues"
        ax.loglog(ends, share[start] * (ends / xmin) ** (1 - alpha), "-", color="black", linewidth=1.5, label=label)
    ax.set(xlabel="eigenvalue")
    ax.grid(alpha=0.3)


def _scan(alphas: Axes, distances: Axes, values: np.ndarray, layer: dict[str, Any]) -> None:
    """alpha and D against the start of the tail, with the number of eigenvalues in it above."""
    starts = _spread(max(len(values) - SHORTEST_TAIL + 1, 1))
    found = dict(zip(("alpha", "D"), tails(values, starts), strict=True))
    for ax, (name, numbers) in zip((alphas, distances), found.items(), strict=True):
        ax.plot(values[starts], numbers, color=BLUE, linewidth=1.4, marker="." if len(starts) < 30 else "")
        if np.isfinite([layer["xmin"], layer[name]]).all() and layer["xmin"] > 0:
            ax.plot(layer["xmin"], layer[name], "o", color="black", markersize=5)
        ax.set(xscale="log", xlabel="xmin, where the tail starts", ylabel=name)
        ax.grid(alpha=0.3)
        ax.set_xlim(values[0] / 1.1, values[-1] * 1.1)
        _count_above(ax, values)


def _count_above(ax: Axes, values: np.ndarray) -> None:
    """An upper axis that tells how many eigenvalues are at or above."""
    counts = [len(values), *(n for n in (5000, 1000, 500, 200, 100, 50, 20, 10, 5, 2, 1) if n < len(values))]
    places: list[float] = []
    kept: list[int] = []
    for count in counts:
        place = float(np.log(values[len(values) - count]))
        span = np.log(values[-1] / values[0]) or 1.0
        if not places or place - places[-1] > 0.07 * span:
            places.append(place)
            kept.append(count)
    above = ax.twiny()
    above.set(xscale="log", xlim=ax.get_xlim())
    above.xaxis.set_major_locator(FixedLocator(list(np.exp(places))))
    above.xaxis.set_major_formatter(FixedFormatter([str(count) for count in kept]))
    above.xaxis.set_minor_locator(NullLocator())
    above.tick_params(labelsize=7)
    above.set_xlabel("eigenvalues in the tail", fontsize=8)


def _spread(count: int) -> np.ndarray:
    """Positions among so many: every one of the last, fewer and fewer of those before."""
    if count <= MOST_POINTS:
        return np.arange(count)
    back = np.unique(np.geomspace(1, count, MOST_POINTS).astype(int))
    return np.unique(count - back)
