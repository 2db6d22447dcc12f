"""Put runs of scripts/train.py side by side: the comparison of two, the layers of those with TempBalance, a picture.

python scripts/compare.py runs/quickstart/sgd runs/quickstart/tempbalance --picture runs/quickstart/comparison.png
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from hf_tempbalance.huggingface.parser import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="output folder of a run")
    parser.add_argument("other", type=Path, help="output folder of the other run")
    parser.add_argument("--picture", type=Path, help="where to write the picture (PNG, PDF or SVG)")
    parser.add_argument("--wide", action="store_true", help="whole tables, however narrow the terminal")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args()

    from hf_tempbalance.cli.compare_runs import USUAL_WIDTH, as_text
    from hf_tempbalance.runs.compare import compare_runs
    from hf_tempbalance.runs.results import read_results
    from hf_tempbalance.terminal import screen_width

    width = None if options.wide else screen_width()
    found = {folder: read_results(folder) for folder in (options.base, options.other)}
    # With held-out images there is an accuracy on each split.
    has_splits = any("eval_test_accuracy" in epoch for epoch in found[options.base].get("epochs", []))
    comparison = compare_runs([options.base], [options.other], "eval_test_accuracy" if has_splits else "eval_accuracy")
    print(as_text(comparison, None if options.wide else width or USUAL_WIDTH))
    sides = (comparison.base, comparison.other)
    ends = {side.name: final_alphas(found[Path(side.runs[0].run.folder)]) for side in sides}
    tuned = [side for side in sides if side.runs[0].run.looks]
    for side in tuned:
        run = side.runs[0].run
        print("", *layers_table(side.name, run.looks, ends, width, run.settings), sep="\n")
    if not tuned:
        print("\nNeither run has a look at its layers, so there are no multipliers to show.")
    if options.picture is not None:
        if not tuned:
            raise ValueError("Neither run has a look at its layers to draw. Give one with TempBalance.")
        from hf_tempbalance.runs.plots import plot_comparison

        options.picture.parent.mkdir(parents=True, exist_ok=True)
        curves = {side.name: side.runs[0].curve for side in sides}
        plot_comparison(tuned[-1].runs[0].run.looks, curves).savefig(options.picture, dpi=110)
        print(f"\nPicture: {options.picture}")


def final_alphas(results: dict[str, Any]) -> dict[str, float]:
    """Layer name -> alpha at the end of the run."""
    return {layer["name"]: layer["alpha_end"] for layer in results.get("layers", []) if layer.get("alpha_end")}


def layers_table(
    name: str,
    looks: list[dict[str, Any]],
    ends: dict[str, dict[str, float]],
    width: int | None,
    settings: dict[str, Any] | None,
) -> list[str]:
    """alpha of each layer at the first look of a run and at the end of all runs, alpha_relative, multiplier.

    Args:
        name: of the run's method.
        ends: name of a run -> its `final_alphas`, which are of the paper's fit.
        width: of the terminal; None for whole names and all columns.
        settings: of TempBalance, for the name of the fit.
    """
    from hf_tempbalance.cli.tables import lay_out, sentences, shortened
    from hf_tempbalance.config import TempBalanceConfig
    from hf_tempbalance.terminal import printable

    usual = TempBalanceConfig().fit
    fit = (settings or {}).get("fit", usual)
    heads = [*ends] if width is None else shortened([*ends], max(width // 5, 8))
    columns: dict[str, list[str]] = {head: [] for head in ("layer", "at start", *heads, "relative", "multiplier")}
    for first, last in zip(looks[0]["layers"], looks[-1]["layers"], strict=True):
        alphas = [end.get(first["name"], math.nan) for end in ends.values()]
        rule = first["excluded_by"]
        multipliers = f"({rule})" if rule else " to ".join(f"{look['multiplier']:.2f}" for look in (first, last))
        numbers = [_number(value) for value in (first["alpha"], *alphas, last["alpha_relative"])]
        for column, cell in zip(columns.values(), (printable(first["name"]), *numbers, multipliers), strict=True):
            column.append(cell)
    of_ends = "" if fit == usual else f" (fit {usual} at the end)"
    what = f"Layers of {name}: alpha, fit {fit}, at the start and the end of each run{of_ends}, alpha_relative at "
    what += "the end, multiplier at both" + (" (the run has one look)" if len(looks) == 1 else "")
    lines = sentences(what, width)
    lines += lay_out(columns, width, first=("multiplier", "at start", *heads, "relative")).lines
    tuned = [layer for layer in looks[-1]["layers"] if not layer["excluded_by"]]
    if not any(math.isfinite(layer["alpha"]) for layer in tuned):
        lines += sentences("No tuned layer has an exponent at the end: all keep the schedule's rate.", width)
    elif len(tuned) == 1:
        lines += sentences("One layer is tuned, so there is nothing to balance it with: its multiplier is 1.", width)
    return lines


def _number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"


if __name__ == "__main__":
    run(main)
