"""Put a plain run beside one with TempBalance: a table of both, a table of the layers, and a picture.

python scripts/compare.py runs/quickstart/sgd runs/quickstart/tempbalance --picture runs/quickstart/comparison.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hf_tempbalance.huggingface.parser import run
from hf_tempbalance.runs.results import RESULTS_NAME, accuracies, read_results
from hf_tempbalance.terminal import printable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plain", type=Path, help="output folder of the run without TempBalance")
    parser.add_argument("balanced", type=Path, help="output folder of the run with TempBalance")
    parser.add_argument("--picture", type=Path, help="where to write the picture (PNG, PDF or SVG)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args()

    from rich.console import Console

    from hf_tempbalance.runs.history import HISTORY_NAME
    from hf_tempbalance.runs.plots import plot_comparison
    from hf_tempbalance.runs.run import read_run

    runs = {"SGD": read_evaluated(options.plain), "TempBalance": read_evaluated(options.balanced)}
    looks = read_run(options.balanced).looks
    if not looks:
        raise ValueError(f"{options.balanced} has no look in a {HISTORY_NAME}: it is no run with TempBalance.")
    plain = final_alphas(options.plain)
    if missing := [layer["name"] for layer in looks[0]["layers"] if layer["name"] not in plain]:
        raise ValueError(f"{options.plain} is of another network: it has no layer {missing[0]!r}.")
    console = Console(width=None if Console().is_terminal else 1000)  # a file has no edge to cut a table at
    console.print(runs_table(runs))
    console.print(layers_table(looks, plain))
    console.print(
        "alpha: exponent of the power-law tail of a layer's weight spectrum (smaller: heavier tail). "
        "One run each: a difference in accuracy here is no evidence for either method.",
        style="dim",
    )
    if options.picture is not None:
        options.picture.parent.mkdir(parents=True, exist_ok=True)
        plot_comparison(looks, {name: accuracies(result) for name, result in runs.items()}).savefig(
            options.picture, dpi=110
        )
        console.print(printable(f"Picture: {options.picture}"), markup=False, highlight=False, soft_wrap=True)


def read_evaluated(folder: Path) -> dict[str, Any]:
    results = read_results(folder)
    if not accuracies(results):
        raise ValueError(f"{folder / RESULTS_NAME} has no evaluation (status: {results['status']}).")
    return results


def final_alphas(folder: Path) -> dict[str, float]:
    """Layer name -> alpha of the saved weights."""
    from transformers import AutoModelForImageClassification
    from transformers.utils.logging import disable_progress_bar

    import hf_tempbalance.tasks.backbones  # noqa: F401  registers the *_cifar networks
    from hf_tempbalance import analyze

    disable_progress_bar()
    model = AutoModelForImageClassification.from_pretrained(folder)
    return {spectrum.name: spectrum.alpha for spectrum in analyze(model)}


def runs_table(runs: dict[str, dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(title="Two runs, same seed, same data")
    for column in ("run", "last accuracy", "best accuracy", "train loss", "seconds", "of them in TempBalance"):
        table.add_column(column, justify="left" if column == "run" else "right")
    for name, result in runs.items():
        values = [accuracy for _, accuracy in accuracies(result)]
        loss = next((e["loss"] for e in reversed(result["epochs"]) if "loss" in e), float("nan"))
        balancing = f"{result['tempbalance_seconds']:.2f}" if result.get("tempbalance_seconds") else "-"
        table.add_row(
            name,
            f"{values[-1]:.4f}",
            f"{max(values):.4f}",
            f"{loss:.4f}",
            f"{result.get('seconds', 0.0):.1f}",
            balancing,
        )
    return table


def layers_table(looks: list[dict[str, Any]], plain: dict[str, float]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"Layers: alpha at the start and after {looks[-1]['epoch']:g} epochs")
    table.add_column("layer", no_wrap=True)
    for column in (
        "eigenvalues",
        "alpha at start",
        "alpha, SGD",
        "alpha, TempBalance",
        "multiplier at start",
        "at the end",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for first, last in zip(looks[0]["layers"], looks[-1]["layers"], strict=True):
        row = [Text(printable(first["name"])), str(first["num_eigenvalues"])]
        row += [f"{value:.2f}" for value in (first["alpha"], plain[first["name"]], last["alpha"])]
        if first["excluded_by"] is None:
            row += [f"{first['multiplier']:.2f}", f"{last['multiplier']:.2f}"]
        else:
            row += ["1", Text(printable(f"({first['excluded_by']})"))]
        table.add_row(*row)
    return table


if __name__ == "__main__":
    run(main)
