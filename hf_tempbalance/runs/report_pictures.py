"""The pictures of a run's page, with their captions: what is drawn of few layers, and what of many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from . import plots
from .about import fit_of
from .bands import MOST_LINES, Series, plot_bands, plot_few, plot_lines, rates_of, series_of
from .drawing import MAX_LABELLED
from .history import is_tuned
from .run import Run
from .svg import inline_svg


BANDS = (
    "For each role of layers the median (line), the middle half and the middle four fifths of its layers (bands); "
    "roles with few layers have their lines."
)


@dataclass(frozen=True)
class Picture:
    """A section of the page. Texts are plain, svgs are elements.

    Attributes:
        svgs: shown at once.
        more: (what it is, svg) of what is folded away.
    """

    title: str
    caption: str
    svgs: list[str]
    more: tuple[str, str] | None = None


def pictures_of(run: Run, spectra: Sequence[Figure] = (), baseline: Run | None = None) -> list[Picture]:
    """All that there is to be seen of a run, in the order of the page."""
    found = []
    if run.log:
        caption = "Losses and metrics over epochs." + (" Grey: the baseline." if baseline is not None else "")
        figure = plots.plot_curves(run.log, None if baseline is None else baseline.log)
        found.append(Picture("Training", caption, [inline_svg(figure, "Training: losses and metrics over epochs")]))
    if run.looks:
        found += _of_looks(run)
    if spectra:
        caption = (
            "Eigenvalues of W^T W of the saved weights: the tuned layers with the smallest, the middle and the "
            "largest alpha. Above: all eigenvalues, and their tail. Below: alpha and D if the tail started elsewhere, "
            "and how many eigenvalues they would rest on. Dotted: where it does start."
        )
        svgs = [inline_svg(figure, f"Spectrum {number}") for number, figure in enumerate(spectra, start=1)]
        found.append(Picture("Spectra", caption, svgs))
    return found


def _of_looks(run: Run) -> list[Picture]:
    looks, fit = run.looks, fit_of(run)
    words = f" alpha: {fit} fit." if fit else ""
    caption = (
        "Input at the top, light is large; the colours span the tuned layers. Hatched: the layer keeps the schedule's "
        f"rate, or there is no number. A multiplier holds from its look to the next.{words}"
    )
    title = "alpha and multiplier of each layer"
    found = [Picture(title, caption, [inline_svg(plots.plot_history(looks), title)])]
    if not any(is_tuned(layer) for layer in looks[0]["layers"]):
        return found + _at_the_end(run)
    if len(looks) > 1:
        alphas = series_of(looks, "alpha")
        if len(alphas.names) > MOST_LINES and any(math.isfinite(value) for value in alphas.values.flat):
            svg = inline_svg(plot_bands(alphas), "alpha of the tuned layers by role")
            found.append(Picture("alpha by role", f"{BANDS}{words}", [svg]))
        found.append(_over_time(series_of(looks, "multiplier"), "Multipliers", "What the schedule is multiplied by."))
    if any(entry.get("learning_rate") is not None for entry in run.log) and run.target != "weight decay":
        caption = "The schedule (dashed) times each layer's multiplier, at the steps that were logged."
        found.append(_over_time(rates_of(looks, run.log), "Learning rates", caption))
    return found + _at_the_end(run)


def _over_time(series: Series, title: str, caption: str) -> Picture:
    """Lines of few layers; of many bands by role, and the lines folded away."""
    if len(series.names) <= MOST_LINES:
        caption += " From the first tuned layer (blue) to the last (orange); the mouse on a line tells its name."
        return Picture(title, caption, [inline_svg(plot_few(series), title)])
    more = (f"All {len(series.names)} layers, a line each", inline_svg(plot_lines(series), f"{title}, all layers"))
    return Picture(title, f"{caption} {BANDS}", [inline_svg(plot_bands(series), f"{title} by role")], more)


def _at_the_end(run: Run) -> list[Picture]:
    layers = run.looks[-1]["layers"]
    if not any(math.isfinite(layer["alpha"]) for layer in layers):
        return []
    title = "alpha at the end"
    caption = "At the last look. Grey: layers that keep the schedule's rate."
    if len(layers) > MAX_LABELLED:
        caption += " What lies beyond the range of the tuned layers is on the edge; the mouse tells its number."
    return [Picture(title, caption, [inline_svg(plots.plot_alphas(layers, fit=fit_of(run)), title)])]
