"""One page that puts a run together: ``hf-tempbalance report OUTPUT_DIR``. It opens offline; nothing is loaded."""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure

from .. import __version__
from ..terminal import printable
from . import plots
from .beside import beside
from .history import is_tuned
from .run import Run


REPORT_NAME = "tempbalance_report.html"
RULES = {None: "", "first": "first layer", "last": "last layer", "min_eigenvalues": "too few eigenvalues"}


def write_report(
    run: Run,
    path: str | Path | None = None,
    *,
    spectra: list[Figure] | None = None,
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
        finalize=lambda v: printable(v, keep="\n"),
    )
    page = environment.get_template("report.html").render(
        title=run.folder.resolve().name,
        what=_what(run),
        beside=None if baseline is None else beside(run, baseline),
        facts=_facts(run),
        notes=_notes(run),
        pictures=_pictures(run, spectra or []),
        layers=_layers(run),
        details=_details(run),
        version=__version__,
    )
    path = Path(path or run.folder / REPORT_NAME)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def _what(run: Run) -> str:
    options, arguments = run.options, run.arguments
    words = [
        " on ".join(str(options[key]) for key in ("architecture", "dataset") if options.get(key)),
        f"{options.get('optimizer') or arguments.get('optim', '')}",
        f"learning rate {arguments['learning_rate']:g}" if "learning_rate" in arguments else "",
        f"{arguments['lr_scheduler_type']} schedule" if "lr_scheduler_type" in arguments else "",
        f"seed {arguments['seed']}" if "seed" in arguments else "",
    ]
    return ", ".join(filter(None, words))


def _facts(run: Run) -> list[tuple[str, str, str]]:
    """The numbers at the top as (name, value, detail)."""
    facts = []
    last = max((entry.get("epoch") or 0 for entry in (*run.log, *run.looks)), default=0)
    facts.append(("epochs", f"{last:g}", f"{max(entry['step'] for entry in (*run.log, *run.looks))} steps"))
    for name, value in run.last_metrics.items():
        best = [entry[name] for entry in run.log if entry.get(name) is not None]
        detail = f"largest {max(best):.4g}, smallest {min(best):.4g}, of {len(best)} evaluations"
        facts.append((name.removeprefix("eval_").replace("_", " "), f"{value:.4g}", detail))
    if run.looks:
        first, end = (_alphas(run.looks[position]) for position in (0, -1))
        tuned = [layer for layer in run.looks[0]["layers"] if is_tuned(layer)]
        facts.append((f"layers with their own {run.target}", f"{len(tuned)}", f"of {len(run.looks[0]['layers'])}"))
        start, now = (run.looks[position]["multiplier_mean"] for position in (0, -1))
        facts.append(("mean multiplier at the end", f"{now:.2f}", f"at the start {start:.2f}; by tuned parameters"))
        if first and end:
            spread = f"{min(end):.2f} to {max(end):.2f}"
            facts.append(("alpha of these at the end", spread, f"at the start {min(first):.2f} to {max(first):.2f}"))
        share = f", {100 * run.tempbalance_seconds / run.seconds:.2f}% of the run" if run.seconds else ""
        facts.append(("time of all looks", f"{run.tempbalance_seconds:.2f} s", f"{len(run.looks)} looks{share}"))
    if run.seconds:
        facts.append(("time of the run", f"{run.seconds:.0f} s", run.environment.get("machine", "")))
    return facts


def _notes(run: Run) -> list[str]:
    if not run.looks:
        return ["This run has no TempBalance: every layer had the schedule's rate."]
    notes = []
    missing = [
        layer["name"]
        for layer in run.looks[-1]["layers"]
        if is_tuned(layer) and not math.isfinite(layer["alpha"]) and not layer.get("is_pinned")
    ]
    if (run.settings or {}).get("metric") == "depth":
        missing = []  # none was asked for
    if missing:
        notes.append(
            f"No alpha could be computed at the end, so these keep the schedule's rate: {', '.join(missing)}."
        )
    multipliers = [layer["multiplier"] for look in run.looks for layer in look["layers"]]
    if all(multiplier == 1 for multiplier in multipliers):
        notes.append("Every multiplier was 1 in every look: this run is one of plain training.")
    return notes


def _pictures(run: Run, spectra: list[Figure]) -> list[dict[str, Any]]:
    found = []
    if run.log:
        found.append(("Training", "Losses and metrics over epochs.", [plots.plot_curves(run.log)]))
    if run.looks:
        caption = (
            "Input at the top, light is large. Hatched: the layer keeps the schedule's rate, or there is no number. "
            "A multiplier holds from its look to the next."
        )
        found.append(("alpha and multiplier of each layer", caption, [plots.plot_history(run.looks)]))
        if any(entry.get("learning_rate") is not None for entry in run.log) and run.target != "weight decay":
            caption = "The schedule times each layer's multiplier at the steps that were logged."
            found.append(("Learning rates", caption, [plots.plot_rates(run.looks, run.log)]))
        if any(math.isfinite(layer["alpha"]) for layer in run.looks[-1]["layers"]):
            caption = "At the last look. Grey: layers that keep the schedule's rate."
            found.append(("alpha at the end", caption, [plots.plot_alphas(run.looks[-1]["layers"])]))
    if spectra:
        caption = (
            "Eigenvalues of W^T W of the saved weights, and their tail with the fitted power law: the tuned layers "
            "with the smallest, the middle and the largest alpha."
        )
        found.append(("Spectra", caption, spectra))
    return [
        {"title": title, "caption": caption, "images": [_png(figure) for figure in figures]}
        for title, caption, figures in found
    ]


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
    rows = []
    for first, last in zip(run.looks[0]["layers"], run.looks[-1]["layers"], strict=True):
        rule = first["excluded_by"]
        rows.append(
            {
                "name": first["name"],
                "kind": first["kind"],
                "eigenvalues": first["num_eigenvalues"],
                "alpha_start": _number(first["alpha"]),
                "alpha_end": _number(last["alpha"]),
                "relative_start": _number(first["alpha_relative"]),
                "relative_end": _number(last["alpha_relative"]),
                "multiplier_start": "1" if rule else _number(first["multiplier"]),
                "multiplier_end": "1" if rule else _number(last["multiplier"]),
                "D": _number(last["D"]),
                "stable_rank": _number(last["stable_rank"]),
                "verdict": RULES.get(rule, rule) or _change(first["alpha"], last["alpha"]),
                "rule": rule,
            }
        )
    return rows


def _change(start: float, end: float) -> str:
    if not (math.isfinite(start) and math.isfinite(end)):
        return ""
    return f"alpha {'down' if end < start else 'up'} {abs(end - start):.2f}"


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
    return [alpha for alpha in found if np.isfinite(alpha)]


def _number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"


def _png(figure: Figure) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return base64.b64encode(stream.getvalue()).decode()
