"""``hf-tempbalance analyze MODEL`` and ``hf-tempbalance compare A B``."""

from __future__ import annotations

import argparse
import csv
import fnmatch
import io
import json
import math
import sys
from pathlib import Path
from typing import Any, get_args

from ..config import Fit
from ..files import file_stem
from ..terminal import printable, screen_width
from .columns import (
    COLUMNS,
    FIRST,
    IN_TERMINAL,
    LEFT,
    LOWER,
    SHOWN,
    SPIKES,
    TEXTS,
    UPPER,
    WITH_LIMITS,
    as_text,
    in_terminal,
    row_of,
)


# Imported inside the commands: --help must be instant.

COLOURS = {"over-trained": "yellow", "under-trained": "red"}
PAIRS = ("alpha", "alpha_relative", "spectral_norm", "stable_rank")
# A heading of 16 characters for a number of 5 would take the room of the next column.
SHORT = {f"{name} {side}": f"{name.removeprefix('alpha_')} {side}" for name in PAIRS for side in "AB"}


def add_analyze(commands: Any, model_help: str) -> None:
    """Add both commands to the subparsers of ``hf-tempbalance``."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("model", help=model_help)
    shared.add_argument(
        "--fit", choices=get_args(Fit), help=f"start of the power-law tail; that of the run, or {WITH_LIMITS}"
    )
    shared.add_argument("--xmin_pos", type=float, help="median: the tail starts at index N / xmin_pos; 2")
    shared.add_argument("--pretrained", action="store_true", help="timm's weights of a name of timm, not random ones")
    shared.add_argument("--wide", action="store_true", help="all columns and whole names, however narrow the terminal")
    shared.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write JSON, to the output without FILE")
    shared.add_argument("--csv", nargs="?", const="-", metavar="FILE", help="write CSV, to the output without FILE")
    shared.add_argument("--debug", action="store_true", help="show the traceback of an error")
    analyze = commands.add_parser("analyze", parents=[shared], help="one line for each layer")
    analyze.add_argument(
        "--plots", type=Path, metavar="DIR", help="write a picture of each spectrum and of all alphas"
    )
    columns = [*COLUMNS, *TEXTS, *SPIKES]
    analyze.add_argument("--sort", choices=columns, metavar="COLUMN", help=f"sort by one of {', '.join(columns)}")
    analyze.add_argument("--traps", action="store_true", help="count num_traps, for a second decomposition of all")
    analyze.add_argument("--only", metavar="PATTERN", help="layers whose name matches, such as 'encoder.*'")
    compare = commands.add_parser("compare", parents=[shared], help="two models, layer by layer")
    compare.add_argument("other", help="the second model")


def analyze_command(options: argparse.Namespace) -> None:
    """``hf-tempbalance analyze MODEL``."""
    from ..spectra.spikes import num_traps, tail_columns
    from .fits import choose
    from .sources import open_source
    from .spectra_of import spectra_of

    options.traps |= options.sort == "num_traps"
    chosen = choose([options.model], options.fit, options.xmin_pos)
    source = open_source(options.model, pretrained=options.pretrained)
    if options.plots is not None:
        options.plots.mkdir(parents=True, exist_ok=True)
    rows, spectra, taken = [], [], {"alphas"}
    for number, (weight, spectrum, eigenvalues) in enumerate(spectra_of(source, chosen.config)):
        row = row_of(number, spectrum, chosen.config.fit) | tail_columns(spectrum, eigenvalues)
        if options.traps:
            row["num_traps"] = math.nan if eigenvalues is None else num_traps(weight.stack())
        rows.append(row)
        spectra.append(spectrum.to_dict())
        is_wanted = options.plots is not None and fnmatch.fnmatch(spectrum.name, options.only or "*")
        if is_wanted and eigenvalues is not None and math.isfinite(spectrum.alpha):
            from .spectrum_picture import spectrum_picture

            path = options.plots / f"{file_stem(spectrum.name, taken)}.png"
            spectrum_picture(weight, spectrum, eigenvalues, chosen.config).savefig(path, dpi=100)
    if options.plots is not None:
        from ..runs.plots import plot_alphas

        plot_alphas(spectra, fit=chosen.config.fit).savefig(options.plots / "alphas.png", dpi=100)
    if options.only is not None:
        wanted = [row for row in rows if fnmatch.fnmatch(row["name"], options.only)]
        if not wanted:
            raise ValueError(f"--only {options.only!r} matches no layer. {rows[0]['name']!r} is one.")
        rows = wanted
    if options.sort is not None:
        numbers = [row for row in rows if not _is_nan(row[options.sort])]
        rows = sorted(numbers, key=lambda row: row[options.sort]) + [row for row in rows if _is_nan(row[options.sort])]
    settings = {"fit": chosen.config.fit, "xmin_pos": chosen.config.xmin_pos, "weights": source.weights_are}
    _write(options, rows, {"model": options.model, "settings": settings})
    if "-" not in (options.json, options.csv):
        width = None if options.wide else screen_width()
        names = [*(SHOWN if width is None else IN_TERMINAL), *(["num_traps"] if options.traps else [])]
        names = list(rows[0]) if options.wide else names
        told = f"{source.weights_are}, " if source.weights_are else ""
        caption = (options.model, f": {told}fit {chosen.words()}")
        _print(rows, names, width, caption)
        _tell(_summary(rows, chosen.words()), width)
        if source.weights_are.startswith("random"):
            _tell(f"{options.model}: {source.weights_are}. --pretrained takes timm's.", width)


def compare_command(options: argparse.Namespace) -> None:
    """``hf-tempbalance compare A B``."""
    from .fits import choose
    from .sources import open_source
    from .spectra_of import spectra_of

    models = [options.model, options.other]
    chosen = choose(models, options.fit, options.xmin_pos)
    sources = [open_source(model, pretrained=options.pretrained) for model in models]
    first, second = ({s.name: s for _, s, _ in spectra_of(source, chosen.config)} for source in sources)
    common = [name for name in first if name in second]
    if not common:
        raise ValueError(f"{options.model} and {options.other} have no layer of the same name.")
    rows: list[dict[str, Any]] = []
    for name in common:
        sides = (("A", first[name]), ("B", second[name]))
        row = {f"{pair} {side}": getattr(spectrum, pair) for pair in PAIRS for side, spectrum in sides}
        alphas = {f"alpha {side}": row.pop(f"alpha {side}") for side in "AB"}
        difference = {"difference": second[name].alpha - first[name].alpha}
        rows.append({"name": name} | alphas | difference | row | {"fit": chosen.config.fit})
    settings = {"fit": chosen.config.fit, "xmin_pos": chosen.config.xmin_pos}
    _write(options, rows, {"A": options.model, "B": options.other, "settings": settings})
    if "-" not in (options.json, options.csv):
        width = None if options.wide else screen_width()
        columns = [name for name in rows[0] if name != "fit"]
        _print(rows, columns, width, None, {} if width is None else SHORT)
        for label, source in zip("AB", sources, strict=True):
            of = f", {source.weights_are}" if source.weights_are else ""
            _tell(f"{label}: {printable(source.name)}{of}", width)
        found = [row for row in rows if math.isfinite(row["difference"])]
        means = ", ".join(
            f"{side} {sum(row[f'alpha {side}'] for row in found) / len(found):.3f}" for side in "AB" if found
        )
        _tell(f"{len(found)} layers with an exponent in both ({chosen.words()}): mean alpha {means or '-'}.", width)
        for label, names in (("A", first.keys() - second.keys()), ("B", second.keys() - first.keys())):
            if names:
                _tell(printable(f"only in {label}: {', '.join(sorted(names))}"), width)


def _print(
    rows: list[dict[str, Any]],
    names: list[str],
    width: int | None,
    caption: tuple[str, str] | None,
    short: dict[str, str] | None = None,
) -> None:
    """The table, and what is missing of it. caption: name and what stands behind it, above the table in a terminal."""
    from .tables import lay_out, short_name, show

    short = short or {}
    cells = [row if width is None or "N" not in row else in_terminal(row) for row in rows]
    columns = {short.get(name, name): [printable(as_text(name, row[name])) for row in cells] for name in names}
    if width is not None:  # a column that says nothing is no column
        columns = {name: texts for name, texts in columns.items() if any(texts)}
    pairs = [tuple(short.get(f"{pair} {side}", "") for side in "AB") for pair in PAIRS]
    first: list[str | tuple[str, ...]] = [pairs[0], "difference", *pairs[1:]] if short else [*FIRST]
    table = lay_out(columns, width, first=first, left=LEFT)
    above = None
    if caption is not None and width is not None:
        above = short_name(caption[0], width - len(caption[1])) + caption[1]
    show(table, caption=above, styles=[COLOURS.get(row.get("warning", "")) for row in rows])
    if table.left_out:
        _tell(
            f"{len(table.left_out)} more columns in a wider terminal and with --wide: {', '.join(table.left_out)}",
            width,
        )


def _summary(rows: list[dict[str, Any]], fit: str) -> str:
    found = [row["alpha"] for row in rows if math.isfinite(row["alpha"])]
    if not found:
        return f"No layer has an exponent ({fit}): too few eigenvalues, or all equal, zero or not finite."
    text = f"{len(found)} layers with an exponent ({fit}): mean alpha {sum(found) / len(found):.3f}"
    if fit.partition(",")[0] != WITH_LIMITS:
        return f"{text}."
    below, above = sum(alpha < LOWER for alpha in found), sum(alpha > UPPER for alpha in found)
    return f"{text}, {below} below {LOWER}, {above} above {UPPER}."


def _tell(text: str, width: int | None) -> None:
    from .tables import sentences

    print("\n".join(sentences(text, width)))


def _write(options: argparse.Namespace, rows: list[dict[str, Any]], about: dict[str, Any]) -> None:
    """The rows as CSV and as JSON, where they are asked for."""
    if options.json is not None:
        layers = [{key: None if _is_nan(value) else value for key, value in row.items()} for row in rows]
        _write_text(options.json, json.dumps(about | {"layers": layers}, indent=2) + "\n")
    if options.csv is not None:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            texts = {key: printable(value) for key, value in row.items() if isinstance(value, str)}
            writer.writerow({key: "" if _is_nan(value) else value for key, value in (row | texts).items()})
        _write_text(options.csv, stream.getvalue())


def _write_text(path: str, text: str) -> None:
    if path == "-":
        sys.stdout.write(text)
    else:
        Path(path).write_text(text, encoding="utf-8")


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
