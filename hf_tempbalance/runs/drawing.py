"""What all pictures have in common: one width, colours that are seen on white and on black, names that are drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from ..terminal import printable
from .history import is_tuned
from .roles import short_names


Looks = list[dict[str, Any]]
WIDTH = 10  # inches, of a picture that has a page's width
MAX_LABELLED = 40  # layers and cells beyond this go without their text, but every k-th
MAX_LETTERS = 60  # of a name; a longer one loses its middle
BLUE = "#0072b2"
# Input to output, all of about one lightness: any line of it is seen on a light and on a dark page.
DEPTH = LinearSegmentedColormap.from_list("depth", ["#3a6fd8", "#139a9a", "#6f9a1a", "#d08010"])


def as_text(name: str, letters: int = MAX_LETTERS) -> str:
    """A name for matplotlib, which reads what stands between two dollars as a formula: as it is, and not too long."""
    if len(name) > letters:
        name = f"{name[: letters // 2]}...{name[-letters // 2 :]}"
    return printable(name).replace("$", r"\$")


def labels(layers: list[dict[str, Any]]) -> list[str]:
    """The short names of a look's layers, for an axis."""
    short = short_names([(layer["name"], layer.get("kind", "")) for layer in layers])
    return [as_text(short[layer["name"]], 32) for layer in layers]


def every(count: int) -> int:
    """k, where every k-th of so many layers has its label."""
    return max(-(-count // MAX_LABELLED), 1)


def told(text: str) -> str:
    """What `inline_svg` makes the title of an artist that has it as its gid: a browser shows it under the mouse."""
    return f"title:{printable(text)}"


def figure_of(ax: Axes) -> Figure:
    """The figure that can be saved, also of axes in a part of it."""
    figure = ax.figure
    return figure if isinstance(figure, Figure) else figure.figure


def values_of(looks: Looks, field: str) -> np.ndarray:
    """Values as (layers, looks); NaN for the multiplier of a layer that keeps the schedule's rate."""
    values = np.array([[layer[field] for layer in look["layers"]] for look in looks], dtype=float).T
    if field == "multiplier":
        values[~tuned_of(looks)] = np.nan
    return values


def tuned_of(looks: Looks) -> np.ndarray:
    """Which layers are tuned, as booleans (layers,)."""
    return np.array([is_tuned(layer) for layer in looks[0]["layers"]], dtype=bool)
