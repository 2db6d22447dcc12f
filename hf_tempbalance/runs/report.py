"""One page that puts a run together: ``hf-tempbalance report OUTPUT_DIR``. It opens offline; nothing is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from matplotlib.figure import Figure

from .. import __version__
from ..files import write_whole
from ..terminal import printable
from .about import about, duration, fit_of, title_of
from .beside import beside, shown
from .drawing import MAX_LABELLED
from .history import is_tuned
from .numbers import three_digits
from .report_pictures import pictures_of
from .roles import role_of, short_names
from .run import Run


REPORT_NAME = "tempbalance_report.html"
RULES = {None: "", "first": "first layer", "last": "last layer", "min_eigenvalues": "too few eigenvalues"}
MOST_NAMED = 8  # layers in a sentence


def write_report(
    run: Run,
    path: str | Path | None = None,
    *,
    spectra: Sequence[Figure] = (),
    baseline: Run | None = None,
) -> Path:
    """Write the page of a run.

    Args:
        run: of `read_run`.
        path: of the page; ``tempbalance_report.html`` in the run's folder if None.
        spectra: pictures of single layers (`plot_spectrum`) to show as well.
        baseline: a run of plain training; the page then says what differed.

    Returns:
        The path of the page.

    Raises:
        ValueError: the baseline is the run itself, or a log is damaged.
        OSError: the page could not be written.
    """
    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        trim_blocks=True,
        # Pictures are markup already, and their names are printable.
        finalize=lambda v: v if isinstance(v, Markup) else printable(v, keep="\n"),
    )
    path = Path(path or run.folder / REPORT_NAME)
    path.parent.mkdir(parents=True, exist_ok=True)  # before the work whose result would have no place
    layers = _layers(run)
    page = environment.get_template("report.html").render(
        title=title_of(run),
        about=about(run),
        beside=None if baseline is None else beside(run, baseline),
        baseline=None if baseline is None else baseline.folder,
        facts=_facts(run),
        notes=_notes(run),
        pictures=pictures_of(run, spectra, baseline),
        layers=layers,
        is_folded=len(layers) > MAX_LABELLED,
        fit=fit_of(run),
        details=_details(run),
        svg=Markup,
        version=__version__,
    )
    write_whole(path, page)
    return path


def _facts(run: Run) -> list[tuple[str, str, str]]:
    """The numbers at the top as (name, value, detail)."""
    facts = []
    last = max((entry.get("epoch") or 0 for entry in (*run.log, *run.looks)), default=0)
    facts.append(("epochs", f"{last:.4g}", f"{max(entry['step'] for entry in (*run.log, *run.looks))} steps"))
    for name, value in run.last_metrics.items():
        best = [entry[name] for entry in run.log if entry.get(name) is not None]
        spread = f"largest {three_digits(max(best))}, smallest {three_digits(min(best))}"
        facts.append((shown(name), three_digits(value), f"{spread}, of {_count(len(best), 'evaluation')}"))
    if run.looks:
        first, end = (_alphas(run.looks[position]) for position in (0, -1))
        tuned = [layer for layer in run.looks[0]["layers"] if is_tuned(layer)]
        facts.append((f"layers with their own {run.target}", f"{len(tuned)}", f"of {len(run.looks[0]['layers'])}"))
        start, now = (three_digits(run.looks[position]["multiplier_mean"]) for position in (0, -1))
        facts.append(("mean multiplier at the end", now, f"at the start {start}; by tuned parameters"))
        if first and end:
            spreads = [f"{three_digits(min(found))} to {three_digits(max(found))}" for found in (first, end)]
            facts.append((f"alpha ({fit_of(run)} fit) of these at the end", spreads[1], f"at the start {spreads[0]}"))
        share = f", {three_digits(100 * run.tempbalance_seconds / run.seconds)}% of the run" if run.seconds else ""
        cost = f"{three_digits(run.tempbalance_seconds)} s"
        facts.append(("time of all looks", cost, f"{_count(len(run.looks), 'look')}{share}"))
    if run.seconds:
        facts.append(("time of the run", duration(run.seconds), run.environment.get("machine", "")))
    return facts


def _notes(run: Run) -> list[str]:
    """What a reader has to know before the pictures, as sentences."""
    notes = []
    if run.status not in (None, "finished"):
        notes.append(f"This run is {run.status}: what follows is not that of a whole run.")
    losses = [entry["loss"] for entry in run.log if "loss" in entry]
    if losses and (losses[-1] is None or not math.isfinite(losses[-1])):  # null is what NaN is in our JSON
        notes.append("The training loss ended as no finite number: the run diverged.")
    if not run.looks:
        if run.settings is not None:
            return [*notes, "There is no look at the weights in these files, so nothing is told of the layers."]
        return [*notes, "This run has no TempBalance: every layer had the schedule's rate."]
    if len(run.looks) == 1:
        notes.append("There is one look at the weights: nothing is shown of how the layers change.")
    tuned = [layer for layer in run.looks[-1]["layers"] if is_tuned(layer)]
    if len(tuned) < 2:
        only = f"Only {tuned[0]['name']} is tuned, and there is no other layer to balance it with." if tuned else ""
        notes.append(only or "No layer is tuned: the settings exclude them all, and each keeps the schedule's rate.")
    if (run.settings or {}).get("metric") != "depth":  # which asks for no alpha
        notes += _without_alpha(run, [layer for layer in tuned if not layer.get("is_pinned")])
    multipliers = [layer["multiplier"] for look in run.looks for layer in look["layers"]]
    if all(multiplier == 1 for multiplier in multipliers):
        notes.append("Every multiplier was 1 in every look: this run is one of plain training.")
    return notes


def _without_alpha(run: Run, tuned: list[dict[str, Any]]) -> list[str]:
    missing = [layer["name"] for layer in tuned if not math.isfinite(layer["alpha"])]
    if not missing:
        return []
    if len(missing) == len(tuned) and not any(_alphas(look) for look in run.looks):
        return ["No layer has an alpha at any look (its weights are zero, NaN, infinite or of low rank)."]
    names = ", ".join(missing[:MOST_NAMED])
    more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
    return [f"No alpha could be computed at the end, so these keep the schedule's rate: {names}{more}."]


def layers_to_show(run: Run) -> list[str]:
    """The tuned layers with the smallest, the middle and the largest alpha at the last look."""
    if not run.looks:
        return []
    layers = [layer for layer in run.looks[-1]["layers"] if is_tuned(layer)]
    ranked = sorted((layer["alpha"], layer["name"]) for layer in layers if math.isfinite(layer["alpha"]))
    positions = {0, len(ranked) // 2, len(ranked) - 1} if ranked else set()
    return [ranked[position][1] for position in sorted(positions)]


def _layers(run: Run) -> list[dict[str, Any]]:
    if not run.looks:
        return []
    short = short_names([(layer["name"], layer["kind"]) for layer in run.looks[0]["layers"]])
    rows = []
    for first, last in zip(run.looks[0]["layers"], run.looks[-1]["layers"], strict=True):
        rule = first["excluded_by"]
        rows.append(
            {
                "name": first["name"],
                "short": short[first["name"]],
                "role": role_of(first["name"], first["kind"]),
                "kind": first["kind"],
                "eigenvalues": first["num_eigenvalues"],
                "alpha_start": three_digits(first["alpha"]),
                "alpha_end": three_digits(last["alpha"]),
                "relative_start": three_digits(first["alpha_relative"]),
                "relative_end": three_digits(last["alpha_relative"]),
                "multiplier_start": "1" if rule else three_digits(first["multiplier"]),
                "multiplier_end": "1" if rule else three_digits(last["multiplier"]),
                "D": three_digits(last["D"]),
                "stable_rank": three_digits(last["stable_rank"]),
                "verdict": RULES.get(rule, rule) or _change(first["alpha"], last["alpha"]),
                "rule": rule,
            }
        )
    return rows


def _change(start: float, end: float) -> str:
    if not (math.isfinite(start) and math.isfinite(end)):
        return ""
    return f"alpha {'down' if end < start else 'up'} {three_digits(abs(end - start))}"


def _details(run: Run) -> list[tuple[str, str]]:
    parts = {
        "TempBalance settings": run.settings,
        "Options of the run": run.options,
        "Training arguments": run.arguments,
        "Versions and machine": run.environment,
    }
    return [(name, json.dumps(content, indent=2)) for name, content in parts.items() if content]


def _alphas(look: dict[str, Any]) -> list[float]:
    found = [layer["alpha"] for layer in look["layers"] if is_tuned(layer)]
    return [alpha for alpha in found if math.isfinite(alpha)]


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
