"""``hf-tempbalance sparsities``: how much of each layer to prune, as a table or as JSON for a sparsity library."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ..config import Fit, TempBalanceConfig, Unit
from ..terminal import printable, screen_width
from .columns import as_text


if TYPE_CHECKING:
    from ..spectra.analysis import LayerSpectrum


def add_sparsities(commands: Any, model_help: str) -> None:
    """Put the command into the parser's subcommands."""
    parser = commands.add_parser("sparsities", help="how much of each layer to prune (AlphaPruning)")
    parser.add_argument("model", help=model_help)
    parser.add_argument("--sparsity", type=float, required=True, help="share of zeros over all pruned layers, 0 to 1")
    parser.add_argument("--spread", type=float, default=0.3, help="how far layers may differ, 0 (not at all) to 1")
    parser.add_argument("--unit", choices=get_args(Unit), default="block", help="what shares one sparsity")
    parser.add_argument("--fit", choices=get_args(Fit), default="fix-finger", help="start of the power-law tail")
    parser.add_argument("--wide", action="store_true", help="all columns and whole names, however narrow the terminal")
    parser.add_argument("--pretrained", action="store_true", help="timm's weights of a name of timm, not random ones")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write {layer: sparsity}, to the output without FILE"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def sparsities_command(options: argparse.Namespace) -> None:
    """``hf-tempbalance sparsities MODEL --sparsity S``."""
    from ..pruning import checked_share, layer_sparsities, prunable
    from .sources import open_source
    from .spectra_of import with_bar

    for name in ("sparsity", "spread"):  # before the spectra, which can take an hour
        checked_share(f"--{name}", getattr(options, name))
    source = open_source(options.model, pretrained=options.pretrained)
    weights = prunable(source.weights, options.unit)  # without the head, which would take longest
    config = TempBalanceConfig(fit=options.fit, exclude_first=False, exclude_last=False)
    spectra = [spectrum for spectrum, _ in with_bar(weights, config)]
    sparsities = layer_sparsities(spectra, options.sparsity, options.spread, options.unit)
    if options.json is not None:
        text = json.dumps(sparsities, indent=2) + "\n"
        sys.stdout.write(text) if options.json == "-" else Path(options.json).write_text(text, encoding="utf-8")
    if options.json != "-":
        width = None if options.wide else screen_width()
        print("\n".join(table(spectra, sparsities, options.unit, width, options.fit)))
        if source.weights_are:
            print(f"{options.model}: {source.weights_are}")


def table(
    spectra: list[LayerSpectrum],
    sparsities: dict[str, float],
    unit: Unit,
    width: int | None = None,
    fit: str = "fix-finger",
) -> Iterator[str]:
    """Lines: one for each unit, and the sum. width: of the terminal; None where nothing has to leave."""
    from ..pruning import mean_alpha, units_of
    from .tables import lay_out, sentences

    columns: dict[str, list[str]] = {unit: [], "layers": [], "weights": [], "alpha": [], "sparsity": []}
    zeros, total = 0.0, 0
    for name, layers in units_of(spectra, unit).items():
        size = sum(math.prod(layer.shape) for layer in layers)
        share = sparsities[layers[0].name]
        cells = [printable(name), str(len(layers)), f"{size:,}", as_text("alpha", mean_alpha(layers)), f"{share:.4f}"]
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(cell)
        zeros, total = zeros + size * share, total + size
    if unit == "layer":
        del columns["layers"]
    yield from lay_out(columns, width, first=("sparsity", "alpha")).lines
    told = f"{len(sparsities)} layers, {total:,} weights, sparsity {zeros / total:.4f} in all; alpha: fit {fit}"
    yield from sentences(told, width)
    full = sum(share == 1 for share in sparsities.values())
    if full:
        yield from sentences(f"at sparsity 1 nothing is left of {full} layers: a smaller --spread avoids that", width)
