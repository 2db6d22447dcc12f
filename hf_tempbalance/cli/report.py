"""``hf-tempbalance report FOLDER``: the page of a run, the pages of several runs, or the tables of a study."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import TempBalanceConfig
from ..terminal import printable


if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..runs.run import Run

INDEX_NAME = "tempbalance_runs.html"


def add_report(commands: Any) -> None:
    """Add the command to the subparsers of ``hf-tempbalance``."""
    about = "One HTML page of a training run; of a folder with several runs one of each and an index; of a study its "
    about += "tables and pictures."
    report = commands.add_parser("report", help="one HTML page of a training run", description=about)
    report.add_argument(
        "output_dir",
        type=Path,
        help="output folder of a Trainer with TempBalance or of train.py, a folder with several of them, or a study's",
    )
    report.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the page or the index, in the folder if not given; of a study the folder of its report",
    )
    report.add_argument(
        "--baseline", type=Path, metavar="RUN", help="a run of plain training: the page says what differed from it"
    )
    report.add_argument("--debug", action="store_true", help="show the traceback of an error")


def report_command(options: argparse.Namespace) -> None:
    """``hf-tempbalance report FOLDER``."""
    from ..runs.run import read_run
    from ..study.study_file import STUDY_NAME

    folder: Path = options.output_dir
    if (folder / STUDY_NAME).is_file():
        if options.baseline is not None:
            raise ValueError(f"{folder} is a study, which has a baseline of its own. Leave out --baseline.")
        _study(folder, options.output or folder / "report")
        return
    baseline = None if options.baseline is None else read_run(options.baseline)
    inside = runs_inside(folder)
    if inside:
        _several(folder, inside, options.output or folder / INDEX_NAME, baseline)
    else:
        print(printable(_page(read_run(folder), options.output, baseline)))


def runs_inside(folder: Path) -> list[Path]:
    """The folders in it that are runs, where it is none itself."""
    from ..runs.checkpoints import STATE_NAME, last_complete_checkpoint
    from ..runs.history import HISTORY_NAME
    from ..runs.results import RESULTS_NAME

    def is_run(place: Path) -> bool:
        files = (HISTORY_NAME, RESULTS_NAME, STATE_NAME)
        return any((place / name).is_file() for name in files) or last_complete_checkpoint(place)[0] is not None

    if not folder.is_dir() or is_run(folder):
        return []
    return [place for place in sorted(folder.iterdir()) if place.is_dir() and is_run(place)]


def _page(run: Run, path: Path | None = None, baseline: Run | None = None) -> Path:
    from ..runs.report import layers_to_show, write_report

    spectra = _spectra_of_run(run, layers_to_show(run)) if run.looks else []
    return write_report(run, path, spectra=spectra, baseline=baseline)


def _several(folder: Path, places: list[Path], index: Path, baseline: Run | None = None) -> None:
    """A page in each run's folder, and one with a line for each. A run that can't be read is a line as well.

    The baseline may be one of them; its own page goes without.
    """
    import os

    from jinja2 import Environment, PackageLoader

    from .. import __version__
    from ..files import write_whole
    from ..runs.run import read_run

    rows = []
    for place in places:
        row: dict[str, Any] = {"name": printable(place.name), "link": "", "metrics": "", "what": ""}
        try:
            run = read_run(place)
            is_it = baseline is not None and place.resolve() == baseline.folder.resolve()
            page = _page(run, baseline=None if is_it else baseline)
        except ValueError as error:
            row["what"] = printable(error)
            print(printable(f"{place.name}: {error}"))
        else:
            row["link"] = os.path.relpath(page.resolve(), index.resolve().parent)
            row["what"] = ", ".join(filter(None, [run.status, f"{len(run.looks)} looks" if run.looks else "no looks"]))
            found = run.last_metrics.items()
            row["metrics"] = ", ".join(f"{name.removeprefix('eval_')} {value:.4g}" for name, value in found)
            print(printable(page))
        rows.append(row)
    environment = Environment(loader=PackageLoader("hf_tempbalance.runs"), autoescape=True, trim_blocks=True)
    title = printable(folder.resolve().name)
    write_whole(index, environment.get_template("runs.html").render(title=title, rows=rows, version=__version__))
    print(printable(f"{index}: {len(rows)} runs"))


def _study(folder: Path, target: Path) -> None:
    """The tables and pictures of a study, as scripts/study.py writes them."""
    from ..study.collect import collect
    from ..study.pictures import write_pictures
    from ..study.report import markdown, write_tables

    collected = collect(folder)
    written = [*write_tables(collected, target), *write_pictures(collected, folder, target)]
    print(printable(markdown(collected), keep="\n"))
    print("Written:", printable(", ".join(map(str, written))))


def _spectra_of_run(run: Run, names: list[str]) -> list[Figure]:
    """Pictures of some layers of the saved model; none where the folder has no safetensors file."""
    if not any(run.folder.glob("*.safetensors")):
        return []
    from ..spectra.analysis import analyze_weights
    from .fits import config_of_run
    from .sources import open_source
    from .spectrum_picture import spectrum_picture

    weights = [weight for weight in open_source(str(run.folder)).weights if weight.name in names]
    weights.sort(key=lambda weight: names.index(weight.name))
    settings = (config_of_run(str(run.folder)) or TempBalanceConfig()).to_dict()
    config = TempBalanceConfig.from_dict(settings | {"exclude_first": False, "exclude_last": False})
    found = zip(weights, analyze_weights(weights, config) if weights else [], strict=True)
    return [
        spectrum_picture(weight, spectrum, eigenvalues, config)
        for weight, (spectrum, eigenvalues) in found
        if eigenvalues is not None
    ]
