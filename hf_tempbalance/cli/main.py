"""``hf-tempbalance``: look at the weights of a model from the command line."""

from __future__ import annotations

import argparse
import csv
import fnmatch
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from .. import __version__
from ..config import Fit, TempBalanceConfig
from ..files import file_stem
from ..terminal import printable, run_command
from .columns import COLUMNS, SHOWN, SPIKES, fitting
from .compare_runs import add_compare_runs, compare_runs_command
from .presets import add_presets, presets_command
from .sparsities import add_sparsities, sparsities_command


if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..spectra.analysis import LayerSpectrum

# Imported inside the commands: --help must be instant.

MODEL_HELP = "safetensors file or index, folder of save_pretrained, Hub id, name of timm, or module:factory"


def main(argv: list[str] | None = None) -> int:
    """The console command. Returns its exit code, as `run_command` does."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["run"]:  # what a script raises is its own, and not for one line of ours
        from ..run import main as run

        return run(argv[1:])
    options = _parser().parse_args(argv)
    commands = {
        "analyze": analyze_command,
        "compare": compare_command,
        "compare-runs": compare_runs_command,
        "report": report_command,
        "presets": presets_command,
        "sparsities": sparsities_command,
    }
    return run_command("hf-tempbalance", lambda: commands[options.command](options), debug=options.debug)


def analyze_command(options: argparse.Namespace) -> None:
    """``hf-tempbalance analyze MODEL``."""
    options.traps |= options.sort == "num_traps"
    spikes: list[dict[str, float]] = []
    spectra = _spectra(options.model, options, plots=options.plots, spikes=spikes)
    rows = [
        {name: column(number, s) for name, column in COLUMNS.items()} | more
        for number, (s, more) in enumerate(zip(spectra, spikes, strict=True))
    ]
    if options.only is not None:
        rows = [row for row in rows if fnmatch.fnmatch(row["name"], options.only)]
        if not rows:
            raise ValueError(f"--only {options.only!r} matches no layer. {spectra[0].name!r} is one.")
    if options.sort is not None:
        numbers = [row for row in rows if not _is_nan(row[options.sort])]
        rows = sorted(numbers, key=lambda row: row[options.sort]) + [row for row in rows if _is_nan(row[options.sort])]
    if options.json is not None:
        settings = {"fit": options.fit, "xmin_pos": options.xmin_pos}
        text = json.dumps({"model": options.model, "settings": settings, "layers": _without_nan(rows)}, indent=2)
        _write(options.json, text + "\n")
    if options.csv is not None:
        _write_csv(options.csv, rows)
    if "-" not in (options.json, options.csv):
        names = [*SHOWN, "num_traps"] if options.traps else SHOWN
        _print_table([{name: row[name] for name in names} for row in rows], options.model)
        found = [row["alpha"] for row in rows if math.isfinite(row["alpha"])]
        if found:
            below, above = sum(alpha < 2 for alpha in found), sum(alpha > 6 for alpha in found)
            print(
                f"{len(found)} layers with an exponent ({options.fit}): mean alpha {sum(found) / len(found):.3f}, "
                f"{below} below 2, {above} above 6."
            )


def compare_command(options: argparse.Namespace) -> None:
    """``hf-tempbalance compare A B``."""
    first, second = ({s.name: s for s in _spectra(model, options)} for model in (options.model, options.other))
    common = [name for name in first if name in second]
    if not common:
        raise ValueError(f"{options.model} and {options.other} have no layer of the same name.")
    rows = [
        {
            "name": name,
            "alpha A": first[name].alpha,
            "alpha B": second[name].alpha,
            "difference": second[name].alpha - first[name].alpha,
            "alpha_relative A": first[name].alpha_relative,
            "alpha_relative B": second[name].alpha_relative,
            "spectral_norm A": first[name].spectral_norm,
            "spectral_norm B": second[name].spectral_norm,
            "stable_rank A": first[name].stable_rank,
            "stable_rank B": second[name].stable_rank,
        }
        for name in common
    ]
    if options.csv is not None:
        _write_csv(options.csv, rows)
    if options.json is not None:
        _write(options.json, json.dumps({"A": options.model, "B": options.other, "layers": _without_nan(rows)}) + "\n")
    if "-" not in (options.json, options.csv):
        _print_table(rows, f"A: {options.model}, B: {options.other}")
        for label, names in (("A", first.keys() - second.keys()), ("B", second.keys() - first.keys())):
            if names:
                print(printable(f"only in {label}: {', '.join(sorted(names))}"))


def report_command(options: argparse.Namespace) -> None:
    """``hf-tempbalance report OUTPUT_DIR``."""
    from ..runs.run import read_run

    run = read_run(options.output_dir)
    from ..runs.report import layers_to_show, write_report

    baseline = None if options.baseline is None else read_run(options.baseline)
    spectra = _spectra_of_run(options.output_dir, layers_to_show(run), run.settings) if run.looks else []
    print(printable(write_report(run, options.output, spectra=spectra, baseline=baseline)))


def _spectra_of_run(folder: Path, names: list[str], settings: dict[str, Any] | None) -> list[Figure]:
    """Pictures of some layers of the saved model; none where the folder has no safetensors file."""
    if not any(folder.glob("*.safetensors")):
        return []
    from ..spectra.analysis import analyze_weights
    from .sources import open_source
    from .spectrum_picture import spectrum_picture

    weights = [weight for weight in open_source(str(folder)).weights if weight.name in names]
    weights.sort(key=lambda weight: names.index(weight.name))
    rules = {"exclude_first": False, "exclude_last": False}
    try:
        config = TempBalanceConfig.from_dict((settings or {}) | rules)
    except ValueError as error:
        raise ValueError(f"{folder}: the run's settings of TempBalance: {error}") from error
    return [
        spectrum_picture(weight, spectrum, eigenvalues, config)
        for weight, (spectrum, eigenvalues) in zip(
            weights, analyze_weights(weights, config) if weights else [], strict=True
        )
        if eigenvalues is not None
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hf-tempbalance", description="Look at the weight spectra of a model.")
    parser.add_argument("--version", action="version", version=f"hf-tempbalance {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("model", help=MODEL_HELP)
    shared.add_argument("--fit", choices=get_args(Fit), default="goodness-of-fit", help="start of the power-law tail")
    shared.add_argument("--xmin_pos", type=float, default=2.0, help="median: the tail starts at index N / xmin_pos")
    shared.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write JSON, to the output without FILE")
    shared.add_argument("--csv", nargs="?", const="-", metavar="FILE", help="write CSV, to the output without FILE")
    shared.add_argument("--debug", action="store_true", help="show the traceback of an error")
    analyze = commands.add_parser("analyze", parents=[shared], help="one line for each layer")
    analyze.add_argument(
        "--plots", type=Path, metavar="DIR", help="write a picture of each spectrum and of all alphas"
    )
    columns = [*COLUMNS, *SPIKES]
    analyze.add_argument("--sort", choices=columns, metavar="COLUMN", help=f"sort by one of {', '.join(columns)}")
    analyze.add_argument("--traps", action="store_true", help="count num_traps, for a second decomposition of all")
    analyze.add_argument("--only", metavar="PATTERN", help="layers whose name matches, such as 'encoder.*'")
    compare = commands.add_parser("compare", parents=[shared], help="two models, layer by layer")
    compare.add_argument("other", help="the second model")
    report = commands.add_parser("report", help="one HTML page of a training run")
    report.add_argument("output_dir", type=Path, help="output folder of a Trainer with TempBalance or of train.py")
    report.add_argument("--output", type=Path, metavar="FILE", help="the page; tempbalance_report.html in the folder")
    report.add_argument("--baseline", type=Path, metavar="RUN", help="a run of plain training to put beside it")
    report.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands.add_parser("run", help="a Trainer script with TempBalance in it, unchanged", add_help=False)
    add_compare_runs(commands)
    add_sparsities(commands, MODEL_HELP)
    add_presets(commands)
    return parser


def _spectra(
    model: str,
    options: argparse.Namespace,
    plots: Path | None = None,
    spikes: list[dict[str, float]] | None = None,
) -> list[LayerSpectrum]:
    from rich.console import Console
    from rich.progress import track

    from ..spectra.analysis import analyze_weights
    from ..spectra.spikes import num_traps, tail_columns
    from .sources import open_source

    source = open_source(model)
    # A file does not tell which layer was registered first and last.
    config = TempBalanceConfig(
        fit=options.fit,
        xmin_pos=options.xmin_pos,
        exclude_first=source.has_model,
        exclude_last=source.has_model,
    )
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
    errors = Console(stderr=True)
    looked_at = track(
        analyze_weights(source.weights, config),
        description="layers",
        total=len(source.weights),
        console=errors,
        disable=not errors.is_terminal,
        transient=True,
    )
    spectra, taken = [], {"alphas"}
    for weight, (spectrum, eigenvalues) in zip(source.weights, looked_at, strict=True):
        spectra.append(spectrum)
        if spikes is not None:
            spikes.append(tail_columns(spectrum, eigenvalues))
            if options.traps:
                spikes[-1]["num_traps"] = math.nan if eigenvalues is None else num_traps(weight.stack())
        if plots is None or eigenvalues is None or not math.isfinite(spectrum.alpha):
            continue
        if fnmatch.fnmatch(spectrum.name, options.only or "*"):
            from .spectrum_picture import spectrum_picture

            path = plots / f"{file_stem(spectrum.name, taken)}.png"
            spectrum_picture(weight, spectrum, eigenvalues, config).savefig(path, dpi=100)
    if plots is not None:
        from ..runs.plots import plot_alphas

        plot_alphas([spectrum.to_dict() for spectrum in spectra], fit=config.fit).savefig(
            plots / "alphas.png", dpi=100
        )
    return spectra


def _print_table(rows: list[dict[str, Any]], title: str) -> None:
    from rich.box import HORIZONTALS
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    is_terminal = console.is_terminal
    table = Table(
        title=Text(printable(title)) if is_terminal else None, box=HORIZONTALS if is_terminal else None, pad_edge=False
    )
    names = list(rows[0])
    if is_terminal:
        names = fitting({name: [_shown(row[name]) for row in rows] for name in names}, console.width)
    for name in names:
        is_text = isinstance(rows[0][name], str)
        is_folded = is_terminal and name == "name"
        table.add_column(name, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_folded)
    for row in rows:
        style = {"over-trained": "yellow", "under-trained": "red"}.get(row.get("warning", ""))
        # Not strings: rich would read brackets in a name as its markup.
        table.add_row(*(Text(_shown(row[name])) for name in names), style=style)
    (console if is_terminal else Console(width=10_000, color_system=None)).print(table)
    if left_out := len(rows[0]) - len(names):
        console.print(f"{left_out} more columns in a wider terminal, a pipe, --csv or --json", style="dim")


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4g}"
    return printable(value)


def _write_csv(path: str, rows: list[dict[str, Any]]) -> None:
    import io

    stream = io.StringIO()
    writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        texts = {key: printable(value) for key, value in row.items() if isinstance(value, str)}
        writer.writerow({key: "" if _is_nan(value) else value for key, value in (row | texts).items()})
    _write(path, stream.getvalue())


def _write(path: str, text: str) -> None:
    if path == "-":
        sys.stdout.write(text)
    else:
        Path(path).write_text(text, encoding="utf-8")


def _without_nan(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: None if _is_nan(value) else value for key, value in row.items()} for row in rows]


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


if __name__ == "__main__":
    sys.exit(main())
