"""Run a study (many runs of scripts/train.py or of any Trainer script, planned in a file) and report it.

    python scripts/study.py run configs/studies/small_cpu.yaml --dry-run      list the runs, time a few steps
    python scripts/study.py run configs/studies/small_cpu.yaml --jobs 2       start, or go on after a kill
    python scripts/study.py run ... --only 'resnet18*' --set num_train_epochs=2 --set seeds=[0,1] --output_dir FOLDER
    python scripts/study.py report runs/studies/small_cpu                     tables and pictures
    python scripts/study.py seeds --sd 1.8                                    differences that 3, 5, ... seeds show

Everything of a study is in its output folder: a folder for each run under runs/, and what report writes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hf_tempbalance.config import TempBalanceConfig
from hf_tempbalance.huggingface.parser import ConfigArgumentParser, run
from hf_tempbalance.huggingface.training_args import TempBalanceTrainingArguments
from hf_tempbalance.study.command import make_job
from hf_tempbalance.study.cost import Estimator, from_finished
from hf_tempbalance.study.executors import LOG_NAME, Executor
from hf_tempbalance.study.executors.local import LocalExecutor
from hf_tempbalance.study.plan import Run, Study, matching
from hf_tempbalance.study.runner import RUNS_NAME, Outcome, Runner, choose, claim, has_ended, is_finished
from hf_tempbalance.study.script_study import check_methods
from hf_tempbalance.study.study_file import load_study
from hf_tempbalance.study.values import curve_and_value
from hf_tempbalance.tasks.image_classification import RECIPE, RunArguments, check
from hf_tempbalance.terminal import printable


TRAIN = str(Path(__file__).resolve().with_name("train.py"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="run what is not finished")
    runs.add_argument("study", type=Path, help="study file")
    runs.add_argument("--output_dir", type=Path, help="folder of the study; runs/studies/NAME if not given")
    runs.add_argument("--dry-run", action="store_true", help="list the runs and what they will cost")
    runs.add_argument("--only", metavar="PATTERN", help="runs whose name matches, such as 'resnet18*--sgd--*'")
    runs.add_argument("--jobs", type=int, help="runs at a time: 1 on this machine, on a cluster what it has room for")
    runs.add_argument(
        "--cpus", type=float, help="CPU cores of each run; this machine's divided by --jobs, or 1 of Ray's"
    )
    runs.add_argument(
        "--gpus", type=float, help="GPUs of each run; 1 on a machine that has any, 0 of Ray's; Ray takes 0.5"
    )
    runs.add_argument("--fresh", action="store_true", help="start a Python for each run, which takes longer; see docs")
    runs.add_argument("--on", choices=["local", "ray"], default="local", help="where: this machine or a Ray cluster")
    runs.add_argument(
        "--address", help="of the Ray cluster, HOST:PORT; RAY_ADDRESS or one on this machine if not given"
    )
    runs.add_argument("--processes", type=int, default=1, help="devices of each run, with accelerate launch")
    runs.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="seeds, or an option of train")
    runs.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    reports = commands.add_parser("report", help="tables and pictures of what is finished")
    reports.add_argument("folder", type=Path, help="output folder of a study")
    reports.add_argument("--output_dir", type=Path, help="where the report goes; FOLDER/report if not given")
    reports.add_argument("--publish", type=Path, metavar="DIR", help="copy what the report is made of to DIR first")
    reports.add_argument("--no-pictures", action="store_true", help="tables only")
    reports.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    seeds = commands.add_parser("seeds", help="what differences how many seeds would show")
    seeds.add_argument("--sd", type=float, required=True, help="standard deviation of the paired differences")
    seeds.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 10, 20, 50], help="numbers of seeds")
    seeds.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    {"run": run_command, "report": report_command, "seeds": seeds_command}[options.command](options)


def run_command(options: argparse.Namespace) -> None:
    study = load_study(options.study, options.set)
    check_options(study)
    folder = options.output_dir or Path("runs", "studies", study.name)
    for name, least in (("jobs", 1), ("processes", 1), ("cpus", 0.001), ("gpus", 0)):
        value = getattr(options, name)
        if value is not None and not value >= least:
            raise ValueError(f"--{name} {value} must be {least} or larger.")
    if options.dry_run:
        dry_run(study, folder, options)
        return
    launch = ()
    if options.processes > 1:
        launch = ("-m", "accelerate.commands.launch", "--multi_gpu", f"--num_processes={options.processes}")
    job_of = partial(make_job, study, train=TRAIN, launch=launch)
    runner = Runner(study, folder, job_of, executor_of(options), only=options.only)
    claim(study, folder)
    try:
        with ConsoleProgress(study, "runs" if runner.epochs is None else "epochs") as progress:
            outcome = runner.run(progress)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("The same command goes on from the last checkpoints.") from error
    finish(outcome, folder)


def executor_of(options: argparse.Namespace) -> Executor:
    """Where the runs take place."""
    gpus = options.processes if options.gpus is None and options.processes > 1 else options.gpus
    if options.on == "ray":
        if options.fresh:
            raise ValueError("--fresh is for this machine: on a cluster every run starts a Python of its own.")
        from hf_tempbalance.study.executors.on_ray import RayExecutor

        return RayExecutor(options.address, jobs=options.jobs, cpus=options.cpus or 1, gpus=gpus or 0)
    if options.address is not None:
        raise ValueError(f"--address {options.address} is that of a Ray cluster. Add --on ray.")
    for name in ("cpus", "gpus"):
        value = getattr(options, name)
        if value is not None and value != int(value):
            raise ValueError(
                f"--{name} {value} is for --on ray. Here runs share GPUs when --jobs is larger than those."
            )
    whole = [None if value is None else int(value) for value in (options.cpus, gpus)]
    return LocalExecutor(options.jobs or 1, cpus=whole[0], gpus=whole[1], fresh=options.fresh)


def report_command(options: argparse.Namespace) -> None:
    from hf_tempbalance.study.collect import collect
    from hf_tempbalance.study.publish import publish
    from hf_tempbalance.study.report import markdown, write_tables

    source = options.folder
    if options.publish is not None:
        publish(source, options.publish)
        source = options.publish
    collected = collect(source)
    target = options.output_dir or (source if options.publish is not None else source / "report")
    written = write_tables(collected, target)
    if not options.no_pictures:
        from hf_tempbalance.study.pictures import write_pictures

        written += write_pictures(collected, source, target)
    print(printable(markdown(collected), keep="\n"))
    print("Written:", printable(", ".join(map(str, written))))


def seeds_command(options: argparse.Namespace) -> None:
    from hf_tempbalance.study.tables import seeds_table

    if not 0 <= options.sd < float("inf"):
        raise ValueError(f"--sd {options.sd} must be a number from 0 up.")
    if few := [n for n in options.seeds if n < 2]:
        raise ValueError(f"--seeds {few[0]} must be 2 or more: one pair shows nothing.")
    print("\n".join(seeds_table(options.sd, options.seeds)))


def finish(outcome: Outcome, folder: Path) -> None:
    for name, error in outcome.failed.items():
        print(printable(f"failed: {name}: {error}"))
    if outcome.failed:  # the last line of a log is not all that a script has said
        name = next(iter(outcome.failed))
        print(f"More is in {printable(folder / RUNS_NAME / name / LOG_NAME)}")
    after = f" python scripts/study.py report {printable(folder)}" if outcome.finished else ""
    print(f"{outcome.finished} runs are finished, {len(outcome.failed)} failed.{after}")
    if outcome.failed:
        sys.exit(1)


def check_options(study: Study) -> None:
    """Every option of every run goes through the training script's own checks before anything starts.

    Of a script of others those of TempBalance do; its flags are its own.
    """
    if study.script is not None:
        check_methods(study)
        return
    seen = set()
    for one in study.possible_runs():
        key = repr({name: value for name, value in one.options.items() if name != "seed"})
        if key not in seen:
            seen.add(key)
            parse(one)


def parse(one: Run) -> tuple[Any, TempBalanceConfig, TempBalanceTrainingArguments]:
    """The run's options as scripts/train.py reads them."""
    parser = ConfigArgumentParser((RunArguments, TempBalanceConfig, TempBalanceTrainingArguments), prog="study.py")
    parser.set_defaults(**RECIPE)
    try:
        options, tempbalance, args = parser.parse_options(one.options)
        check(options)
    except (ValueError, OSError) as error:
        raise ValueError(f"run {one.name}: {error}") from error
    return options, tempbalance, args


class ConsoleProgress:
    """A bar over the whole study with the time left; without a terminal a line for each run.

    unit: of the bar, "epochs" or "runs".
    """

    def __init__(self, study: Study, unit: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.study = study
        self.console = Console()
        columns = (TextColumn(f"{{task.completed:.0f}}/{{task.total:.0f}} {unit}"), BarColumn(), TimeElapsedColumn())
        self.bar = Progress(*columns, TextColumn("{task.description}", markup=False), console=self.console)
        self.task = self.bar.add_task("starting", total=1)
        self.start, self.done_before = time.time(), None
        self.left = ""

    def __enter__(self) -> ConsoleProgress:
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update(self, done: float, total: float, running: Sequence[str]) -> None:
        self.done_before = done if self.done_before is None else self.done_before
        gained = done - self.done_before
        if gained > 0:
            seconds = (time.time() - self.start) / gained * (total - done)
            self.left = (
                f"about {seconds / 3600:.1f} h left" if seconds > 5400 else f"about {seconds / 60:.0f} min left"
            )
        self.bar.update(
            self.task, completed=done, total=total, description=printable(f"{self.left}  {', '.join(running)}")
        )

    def ended(self, one: Run, result: dict[str, Any]) -> None:
        name = "test accuracy" if self.study.metric is None else self.study.metric.report
        try:
            what = result.get("error") or f"{name} {curve_and_value(self.study, result, held_out=False)[1]:.4f}"
        except ValueError as error:
            what = str(error)
        seconds = f"{result.get('seconds', 0):.0f} s"
        self.console.print(
            printable(f"{result.get('status', 'failed')}: {one.name}: {what}, {seconds}. {self.left}"),
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def dry_run(study: Study, folder: Path, options: argparse.Namespace) -> None:
    """The runs and what is left to do, in minutes from a few timed steps of each kind, or from finished runs."""
    chosen = choose(study, folder, has_ended=lambda one: has_ended(folder, one))
    known = {one.name: one for one in (*study.trials(), *study.finals(chosen))}
    runs = matching(known.values(), options.only)
    costs: list[float | str]
    if study.script is None:
        estimator = Estimator()
        costs = [estimator.estimate(options_of, args) for options_of, _, args in map(parse, runs)]
    else:
        seconds = from_finished(study.possible_runs(), folder)
        costs = [seconds.get(tuple(one.cell.values()), "unknown") for one in runs]
    left = 0.0
    for one, cost in zip(runs, costs, strict=True):
        done = is_finished(folder, one)
        left += 0.0 if done or isinstance(cost, str) else cost
        minutes = cost if isinstance(cost, str) else f"{cost / 60:6.1f} min"
        print(printable(f"{'finished' if done else 'to do':9} {one.name:64} {minutes}"))
    to_do = [cost for one, cost in zip(runs, costs, strict=True) if not is_finished(folder, one)]
    missing = sum(isinstance(cost, str) for cost in to_do)
    hours = f"{left / 3600:.1f} h of them to do, one after the other" if missing < len(to_do) or not to_do else ""
    without = f"{missing} to do of which no minutes are known" if missing else ""
    print(f"{len(runs)} runs, {', and '.join(filter(None, (hours, without)))}.")
    unknown = len(study.combinations()) - len(chosen) if study.tune else 0
    if unknown:
        more = unknown * len(set(study.seeds) - set(study.tune.seeds))
        print(f"{more} more follow with the {study.tune.option} that is chosen for {unknown} cells on held-out data.")


if __name__ == "__main__":
    run(main)
