"""Put runs of scripts/train.py side by side: the comparison of two, the layers of those with TempBalance, a picture.

python scripts/compare.py runs/quickstart/sgd runs/quickstart/tempbalance --picture runs/quickstart/comparison.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hf_tempbalance.huggingface.parser import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="output folder of a run")
    parser.add_argument("other", type=Path, help="output folder of the other run")
    parser.add_argument("--picture", type=Path, help="where to write the picture (PNG, PDF or SVG)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args()

    from hf_tempbalance.cli.compare_runs import as_text
    from hf_tempbalance.runs.compare import compare_runs
    from hf_tempbalance.runs.results import read_results

    found = {folder: read_results(folder) for folder in (options.base, options.other)}
    # With held-out images there is an accuracy on each split.
    has_splits = any("eval_test_accuracy" in epoch for epoch in found[options.base].get("epochs", []))
    comparison = compare_runs([options.base], [options.other], "eval_test_accuracy" if has_splits else "eval_accuracy")
    print(as_text(comparison))
    sides = (comparison.base, comparison.other)
    ends = {side.name: final_alphas(found[Path(side.runs[0].run.folder)]) for side in sides}
    tuned = [side for side in sides if side.runs[0].run.looks]
    for side in tuned:
        print(f"\n{layers_table(side.name, side.runs[0].run.looks, ends)}")
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


def layers_table(name: str, looks: list[dict[str, Any]], ends: dict[str, dict[str, float]]) -> str:
    """alpha of each layer at the first look of a run and at the end of all runs, alpha_relative, multiplier."""
    rows = [("layer", "at start", *ends, "relative", "multiplier", "at the end")]
    for first, last in zip(looks[0]["layers"], looks[-1]["layers"], strict=True):
        alphas = [f"{end[first['name']]:.2f}" if first["name"] in end else "-" for end in ends.values()]
        rule = first["excluded_by"]
        rates = ["1", f"({rule})"] if rule else [f"{look['multiplier']:.2f}" for look in (first, last)]
        rows.append((first["name"], f"{first['alpha']:.2f}", *alphas, f"{last['alpha_relative']:.2f}", *rates))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"Layers of {name}: alpha at the start and the end of each run, alpha_relative at the end, multiplier at both"
    ]
    lines += [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
