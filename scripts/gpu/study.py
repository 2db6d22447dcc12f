"""The runs of one seed of a study, by scripts/study.py; started again, they go on from their last checkpoints.

    python -m gpu.study configs/studies/gpu_cifar10.yaml --seed 43 --studies DIR --data DATA --json FILE

Whenever it ends, FILE tells how far each run is. On Ctrl-C it lets the runs end first.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpu.jobs import best
from gpu.machine import SCRIPTS
from hf_tempbalance.files import read_json, write_json
from hf_tempbalance.runs.results import accuracies
from hf_tempbalance.study.plan import Run
from hf_tempbalance.study.runner import RUNS_NAME, result_of
from hf_tempbalance.study.study_file import load_study


JOBS = 4  # where nobody has measured it
PATIENCE = 15  # seconds for runs to end in
# The dry run: one method on images that are in a package; the options of all runs are read in any case. Not narrower:
# with channels_last and fewer than 8 channels, oneDNN's weight gradient of a strided 1x1 convolution writes beyond its
# memory on CPUs without AVX-512 (torch 2.14).
TINY = {
    "dataset": "digits",
    "image_mean": "null",
    "image_std": "null",
    "width_factor": "0.125",
    "max_train_samples": "64",
    "max_test_samples": "64",
    "num_train_epochs": "1",
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "per_device_eval_batch_size": "64",
}
TINY_METHOD = "shape_free"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--studies", type=Path, required=True, help="folder of all studies")
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--jobs_of", type=Path, help="results of gpu.jobs")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of scripts/study.py")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()

    changes = [f"{key}={value}" for key, value in TINY.items()] if options.tiny else []
    changes += options.set
    study = load_study(options.study, changes)
    folder = options.studies / study.name
    pattern = f"{TINY_METHOD if options.tiny else '*'}--seed{options.seed}"
    command = [sys.executable, str(SCRIPTS / "study.py"), "run", str(options.study.resolve()), "--only", pattern]
    command += ["--output_dir", str(folder.resolve()), "--jobs", str(jobs_of(options.jobs_of))]
    command += [part for change in changes for part in ("--set", change)]
    code = run(command, seat(options.studies, options.data))
    runs = [one for one in study.possible_runs() if one.seed == options.seed]
    rows = [row_of(folder, one) for one in runs if not options.tiny or TINY_METHOD in one.cell.values()]
    complete = all(row["status"] == "finished" for row in rows)
    write_json(options.json, {"rows": rows, "complete": complete})
    sys.exit(0 if complete else code)


def jobs_of(results: Path | None) -> int:
    """What gpu.jobs has measured on this kind of machine."""
    if results is None or not results.is_file():
        return JOBS
    rows = read_json(results)["parts"].get("jobs", {}).get("rows")
    return best(rows) if rows else JOBS


def seat(studies: Path, data: Path | None) -> Path:
    """A folder beside which the data sets are found as ../shared/data, as the study files name them.

    A path of the machine's own among the options would make another study of it.
    """
    here = studies.resolve() / "seat" / "here"
    here.mkdir(parents=True, exist_ok=True)
    link = here.parent / "shared" / "data"
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    if data is not None:
        link.symlink_to(data.resolve(), target_is_directory=True)
    return here


def run(command: list[str], folder: Path) -> int:
    """The exit code of study.py, which is waited for on Ctrl-C as well: it ends its runs."""
    process = subprocess.Popen(command, cwd=folder, env=os.environ)
    try:
        return process.wait()
    except KeyboardInterrupt:
        try:
            return process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def row_of(folder: Path, one: Run) -> dict[str, Any]:
    """How far a run is, and the size of its largest checkpoint in MB, which is what going on elsewhere takes along."""
    result = result_of(folder, one) or {}
    sizes = [
        sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file()) / 1e6
        for checkpoint in (folder / RUNS_NAME / one.name).glob("checkpoint-*")
    ]
    found = accuracies(result)
    return {
        "run": one.name,
        "status": result.get("status", "not begun"),
        "epochs": max((epoch["epoch"] for epoch in result.get("epochs", [])), default=0),
        "accuracy": found[-1][1] if found else None,
        "seconds": result.get("seconds"),
        "checkpoint_mb": round(max(sizes, default=0.0), 1),
    } | ({"error": result["error"]} if "error" in result else {})


if __name__ == "__main__":
    main()
