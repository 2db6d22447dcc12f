"""Measures and decides what only a GPU can, the most valuable first; whenever it ends, what it has done is kept.

    python scripts/gpu_day.py --minutes 25 --out day              # all stages, as far as the minutes go
    python scripts/gpu_day.py --minutes 9 --continue day          # goes on with what is not measured there
    python scripts/gpu_day.py --list                              # stages and parts, with what each needs
    python scripts/gpu_day.py --only smoke solvers --out day
    python scripts/gpu_day.py --wheels wheels --data images ...   # on a bare machine without network
    python scripts/gpu_day.py --device cpu --tiny --out dry       # dry run: shows that all runs, measures nothing
    python scripts/gpu_day.py --device cuda --tiny --out dry      # the same on a GPU
    python scripts/gpu_day.py report day dry                      # writes docs/gpu.md

Every part is a process with a time limit of its own, and its results are in day/KIND-OF-GPU/STAGE.json before the
next begins. Studies are in day/studies, as scripts/study.py leaves them: finished runs count on every later day. A run
that was cut off goes on from its checkpoint if that came back (90 MB each); without it the run starts again. To take
home all but these: tar czf day.tgz --exclude 'checkpoint-*' --exclude '*.safetensors' --exclude packages day
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the tree is enough: nothing has to be installed

from gpu.day import Runner, environment
from gpu.machine import ROOT, data_folder, install, kind_of, machine_of, what_is_missing
from gpu.report import kinds_of, write_report
from gpu.stages import Day, Stage, stages

from hf_tempbalance.options import nearest
from hf_tempbalance.terminal import printable, run_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, metavar="DIR", help="new folder of the results")
    where.add_argument("--continue", dest="go_on", type=Path, metavar="DIR", help="folder of results to go on with")
    parser.add_argument("--minutes", type=float, default=25, help="how long it may take")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="these stages; what failed is tried again")
    parser.add_argument("--list", action="store_true", help="stages and parts, and what is done of them")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="dry run: the smallest sizes")
    parser.add_argument("--data", type=Path, help="folder of the data sets; shared/data in the tree or beside it")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install for this day")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command")
    report = commands.add_parser("report", help="write docs/gpu.md from the results of days")
    report.add_argument("folders", type=Path, nargs="+", metavar="DIR")
    report.add_argument("--output", type=Path, default=ROOT / "docs" / "gpu.md")
    report.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.command == "report":
        write_report(options.folders, options.output)
        print(f"Written: {printable(options.output)}")
    elif options.list:
        show(options)
    else:
        run(options)


def run(options: argparse.Namespace) -> None:
    begun = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `timeout` sends it: as Ctrl-C, it ends the parts
    folder = folder_of(options)
    site = (folder / "packages").resolve()
    if options.wheels is not None:
        install(options.wheels, site)
    print(what_is_missing(site), flush=True)
    machine = machine_of(options.device, environment(site, tiny=options.tiny))
    kind = kind_of(machine, tiny=options.tiny)
    others = sorted(kinds_of([folder]).keys() - {kind})
    if others:
        print(f"{folder} has results of {', '.join(others)}; those of {kind} are measured beside them.", flush=True)
    day = day_of(options, folder, kind, machine["gpus"])
    print(f"{machine['device']}, {', '.join(f'{k} {v}' for k, v in machine['versions'].items())}", flush=True)
    runner = Runner(day, machine, site, begun + 60 * options.minutes, again=options.only is not None)
    try:
        ended = runner.run(chosen(options, stages(day)))
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"--continue {folder} goes on.") from error
    print(f"{', '.join(f'{count} {status}' for status, count in ended.items())}; {time.monotonic() - begun:.0f} s.")
    if options.tiny and set(ended) - {"measured", "kept", "skipped"}:
        raise ValueError("the dry run did not get through: see what the parts printed, above.")


def folder_of(options: argparse.Namespace) -> Path:
    """The folder of the results. Raises ValueError where an option does not fit what is there."""
    if options.device == "cpu" and not options.tiny:
        raise ValueError("--device cpu measures nothing about a GPU: add --tiny for a dry run.")
    if options.minutes <= 0:
        raise ValueError(f"--minutes {options.minutes:g} must be above 0.")
    if options.go_on is not None:
        if not kinds_of([options.go_on]):
            raise ValueError(f"--continue {options.go_on} has no results of a GPU day. --out DIR begins one.")
        return options.go_on
    if options.out is None:
        raise ValueError("Where do the results go? --out DIR begins, --continue DIR goes on.")
    if options.out.is_dir() and any(options.out.iterdir()):
        raise ValueError(f"--out {options.out} has files already: --continue {options.out} goes on with results.")
    options.out.mkdir(parents=True, exist_ok=True)
    return options.out


def day_of(options: argparse.Namespace, folder: Path, kind: str, gpus: int) -> Day:
    studies = folder / ("studies-tiny" if options.tiny else "studies")
    data = data_folder(options.data)
    return Day(options.device, options.tiny, (folder / kind).resolve(), studies.resolve(), data, gpus)


def chosen(options: argparse.Namespace, found: list[Stage]) -> list[Stage]:
    """The stages of --only. Raises ValueError where there is no such stage."""
    names = [stage.name for stage in found]
    for name in options.only or []:
        if name not in names:
            raise ValueError(f"--only {name}: there is no such stage. {nearest(name, names)}")
    return [stage for stage in found if options.only is None or stage.name in options.only]


def show(options: argparse.Namespace) -> None:
    """Print what --list tells, without a look at the machine."""
    folder = options.go_on or options.out or Path("day")
    done: dict[str, dict[str, Any]] = {}
    for kind, results in kinds_of([folder]).items():
        for stage, parts in results.items():
            for part, record in parts.items():
                done.setdefault(f"{stage}, {part}", {})[kind] = record["status"]
    for stage in chosen(options, stages(day_of(options, folder, "this-kind", 1))):
        print(f"{stage.name}: {stage.about}; {stage.minutes:g} minutes")
        for part in stage.parts:
            needs = [f"{part.gigabytes:g} GB", *part.packages, *([part.data] if part.data else [])]
            limit = "to the end of the day" if part.open_ended else f"{part.seconds:.0f} s at most"
            states = [f"{kind}: {status}" for kind, status in done.get(f"{stage.name}, {part.name}", {}).items()]
            print(f"    {part.name:36} {limit:21} needs {', '.join(needs)}{'; ' if states else ''}{', '.join(states)}")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(run_command("gpu_day.py", main, debug="--debug" in sys.argv))
