"""``hf-tempbalance sparsities``: how much of each layer to prune, as a table or as JSON for a sparsity library."""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ..config import Fit, TempBalanceConfig, Unit
from ..terminal import printable


if TYPE_CHECKING:
    from ..spectra.analysis import LayerSpectrum
    from ..spectra.weights import Weight

GAP = "  "


def add_sparsities(commands: Any, model_help: str) -> None:
    """Put the command into the parser's subcommands."""
    parser = commands.add_parser("sparsities", help="how much of each layer to prune (AlphaPruning)")
    parser.add_argument("model", help=model_help)
    parser.add_argument("--sparsity", type=float, required=True, help="share of zeros over all pruned layers, 0 to 1")
    parser.add_argument("--spread", type=float, default=0.3, help="how far layers may differ, 0 (not at all) to 1")
    parser.add_argument("--unit", choices=get_args(Unit), default="block", help="what shares one sparsity")
    parser.add_argument("--fit", choices=get_args(Fit), default="fix-finger", help="start of the power-law tail")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write {layer: sparsity}, to the output without FILE"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def sparsities_command(options: argparse.Namespace) -> None:
    """``hf-tempbalance sparsities MODEL --sparsity S``."""
    from ..pruning import checked_share, layer_sparsities, prunable
    from .sources import open_source

    for name in ("sparsity", "spread"):  # before the spectra, which can take an hour
        checked_share(f"--{name}", getattr(options, name))
    weights = prunable(open_source(options.model).weights, options.unit)  # without the head, which would take longest
    spectra = _spectra(weights, options.fit)
    sparsities = layer_sparsities(spectra, options.sparsity, options.spread, options.unit)
    if options.json is not None:
        text = json.dumps(sparsities, indent=2) + "\n"
        sys.stdout.write(text) if options.json == "-" else Path(options.json).write_text(text, encoding="utf-8")
    if options.json != "-":
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print("\n".join(table(spectra, sparsities, options.unit, width)))


def table(
    spectra: list[LayerSpectrum], sparsities: dict[str, float], unit: Unit, width: int | None = None
) -> Iterator[str]:
    """Lines: one for each unit, and the sum. In a terminal that is too narrow the part that all names share is left
    out and said above, then the numbers of weights are."""
    from ..pruning import mean_alpha, units_of

    columns: dict[str, list[str]] = {unit: [], "layers": [], "weights": [], "alpha": [], "sparsity": []}
    zeros, total = 0.0, 0
    for name, layers in units_of(spectra, unit).items():
        size = sum(math.prod(layer.shape) for layer in layers)
        share = sparsities[layers[0].name]
        alpha = mean_alpha(layers)
        cells = [
            printable(name),
            str(len(layers)),
            f"{size:,}",
            "-" if math.isnan(alpha) else f"{alpha:.3f}",
            f"{share:.4f}",
        ]
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(cell)
        zeros, total = zeros + size * share, total + size
    if unit == "layer":
        del columns["layers"]
    shared = os.path.commonprefix(columns[unit]).rpartition(".")[0] + "."
    if width is not None and _width(columns) > width and shared != ".":
        yield f"names after {shared}"
        columns[unit] = [name.removeprefix(shared) for name in columns[unit]]
    if width is not None and _width(columns) > width:
        del columns["weights"]
    widths = [_width({head: cells}) for head, cells in columns.items()]
    for row in zip(*([head, *cells] for head, cells in columns.items()), strict=True):
        numbers = (cell.rjust(space) for cell, space in zip(row[1:], widths[1:], strict=True))
        yield GAP.join([row[0].ljust(widths[0]), *numbers])
    yield f"{len(sparsities)} layers, {total:,} weights, sparsity {zeros / total:.4f} in all"
    full = sum(share == 1 for share in sparsities.values())
    if full:
        yield f"at sparsity 1 nothing is left of {full} layers: a smaller --spread avoids that"


def _width(columns: dict[str, list[str]]) -> int:
    return sum(max(map(len, [head, *cells])) for head, cells in columns.items()) + len(GAP) * (len(columns) - 1)


def _spectra(weights: list[Weight], fit: Fit) -> list[LayerSpectrum]:
    from rich.console import Console
    from rich.progress import track

    from ..spectra.analysis import analyze_weights

    config = TempBalanceConfig(fit=fit, exclude_first=False, exclude_last=False)
    errors = Console(stderr=True)
    looked_at = track(
        analyze_weights(weights, config),
        description="layers",
        total=len(weights),
        console=errors,
        disable=not errors.is_terminal,
        transient=True,
    )
    return [spectrum for spectrum, _ in looked_at]
