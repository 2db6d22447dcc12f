"""What a look at the weights costs, as ratios to others in the same run. Each contender has a process of its own.

    python scripts/bench.py                                # all parts, one after the other
    python scripts/bench.py analysis                       # every model, against a plain loop and WeightWatcher
    python scripts/bench.py analysis --model ResNet18 --fit goodness-of-fit --rounds 7
    python scripts/bench.py methods                        # windows, alpha_relative, depth against the plain look
    python scripts/bench.py solvers                        # eigenvalues by side and solver
    python scripts/bench.py solvers --device cuda --write-table    # and what the package chooses by
    python scripts/bench.py memory                         # of a look, and of a file of 1 GB
    python scripts/bench.py start                          # import and --help
    python scripts/bench.py step                           # an optimizer step with layer-wise rates
    python scripts/bench.py update                         # of a training: looks waited for, and beside it
    python scripts/bench.py share --device cuda            # a look beside an epoch, or 100 steps of a Llama
    python scripts/bench.py distributed --processes 4      # a look shared by processes, against one alone
    python scripts/bench.py scale                          # models of 1B to 405B on 1 to 1,024 ranks, predicted
    python scripts/bench.py training                       # images per second against loops of one's own
    python scripts/bench.py training --width_factor 1 --bf16 --channels_last    # on a GPU

scripts/gpu_day.py runs those that tell something about a GPU, one after the other.
A ratio above 1 means that this package is faster: median of the rounds (smallest-largest). WeightWatcher needs
`pip install '.[everywhere]'`. --json FILE also writes every number.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.clock import timed
from benchmarks.distributed import distributed
from benchmarks.methods import methods
from benchmarks.models import MODELS, TINY, WHOLE_LLAMA
from benchmarks.race import race, ratio
from benchmarks.scale import scale
from benchmarks.share import shares
from benchmarks.solvers import solvers
from benchmarks.step import steps
from benchmarks.training import training
from benchmarks.update import update

from hf_tempbalance.files import write_json
from hf_tempbalance.huggingface.parser import run
from hf_tempbalance.spectra.solvers import TABLE_PATH


# The loop over xmin takes minutes for larger models; of Llama two blocks are raced, and all if --model asks.
GOODNESS = ["ResNet18"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "all"], nargs="?", default="all")
    choices = [*MODELS, "file of 1 GB"]
    parser.add_argument("--model", choices=choices, nargs="+", help="analysis, memory, share: these models only")
    parser.add_argument("--fit", choices=["median", "goodness-of-fit"], help="analysis: this fit only")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds")
    parser.add_argument("--device", default="cpu", help="where the weights are")
    parser.add_argument("--sides", type=int, nargs="+", help="solvers: these sides only")
    table = {"nargs": "?", "type": Path, "const": TABLE_PATH, "metavar": "FILE"}
    parser.add_argument("--write-table", **table, help="solvers: the fastest of each, for the package or in FILE")
    parser.add_argument("--processes", type=int, default=2, help="distributed: how many share a look")
    parser.add_argument("--width_factor", type=float, default=0.25, help="training: of the network's channels")
    parser.add_argument("--bf16", action="store_true", help="training: autocast")
    parser.add_argument("--channels_last", action="store_true", help="training: memory format")
    parser.add_argument("--dataset", default="digits", help="training: as of scripts/train.py")
    more = {"nargs": "+", "default": [], "metavar": "OPTION=VALUE"}
    parser.add_argument("--train", **more, help="update: more options of scripts/train.py")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes: shows that a part runs, no more")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args()
    import torch

    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": options.device}
    if options.device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise ValueError(f"--device {options.device}: torch {torch.__version__} sees no CUDA device.")
        machine["device"] = torch.cuda.get_device_name()
    print(", ".join(f"{key} {value}" for key, value in machine.items()), flush=True)
    rows: dict[str, list[dict[str, Any]]] = {}
    for part in PARTS if options.part == "all" else [options.part]:
        print(f"\n## {part}", flush=True)
        rows[part] = []
        for row in PARTS[part](options):
            rows[part].append(row)
            if options.json is not None:  # after every row: a part that is cut off loses only the one it was at
                write_json(options.json, {"machine": machine} | rows)


def analysis(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Time of a look for each model and fit, and the error of alpha."""
    names = [name for name in MODELS if options.model or name not in (WHOLE_LLAMA, TINY)]
    jobs = [(name, "median", ["ours", "loop"]) for name in names]
    jobs += [(name, "goodness-of-fit", ["ours", "loop"]) for name in GOODNESS]
    jobs += [(name, "goodness-of-fit", ["ours, from a file", "WeightWatcher"]) for name in GOODNESS]
    jobs = [job for job in jobs if (not options.model or job[0] in options.model) and options.fit in (None, job[1])]
    if options.device != "cpu":
        jobs = [job for job in jobs if "WeightWatcher" not in job[2]]
    print(f"{'model':20} {'fit':16} {'contender':14} {'ours':>9} {'theirs':>9} {'ratio':>22} {'error of alpha':>15}")
    for name, fit, contenders in jobs:
        row = race(contenders, name, fit, options.device, options.rounds)
        ours, other = (row["seconds"][contender] for contender in contenders)
        middle, low, high = ratio(ours, other)
        print(
            f"{name:20} {fit:16} {contenders[1]:14} {statistics.median(ours):8.3f}s {statistics.median(other):8.3f}s "
            f"{f'{middle:.2f} ({low:.2f}-{high:.2f})':>22} {row['accuracy']['worst']:15.1e}",
            flush=True,
        )
        yield row


def memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Growth of the process to its peak (Linux), after everything is imported."""
    rows = []
    for name in options.model or ["ResNet18", "VGG16", "BERT-base", "file of 1 GB"]:
        command = [sys.executable, "-m", "benchmarks.memory", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
        if done.returncode:
            raise ValueError(f"{name}: {done.stderr.strip().splitlines()[-1]}")
        row = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{name:20} {row['extra'] / 1e6:7.1f} MB, {row['extra'] / row['largest']:.2f} of {row['of']}", flush=True
        )
        rows.append({"model": name, **row})
    return rows


def start(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds of `hf-tempbalance --help`, and what our import adds to that of transformers."""
    command = str(Path(sys.executable).with_name("hf-tempbalance"))
    jobs = {
        "hf-tempbalance --help": [command, "--help"],
        "import transformers": [sys.executable, "-c", "import transformers"],
        "import transformers, hf_tempbalance": [sys.executable, "-c", "import transformers, hf_tempbalance"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(options.rounds + 1):
        for name, job in jobs.items():
            seconds[name].append(timed(partial(subprocess.run, job, capture_output=True, check=True))[0])
    for name, times in seconds.items():
        times.pop(0)  # files are read from the disk for the first time
        print(f"{name:40} {statistics.median(times):.2f} s ({min(times):.2f}-{max(times):.2f})")
    return [{"what": name, "seconds": times} for name, times in seconds.items()]


PARTS = {
    "analysis": analysis,
    "methods": methods,
    "solvers": solvers,
    "memory": memory,
    "start": start,
    "step": steps,
    "update": update,
    "share": shares,
    "distributed": distributed,
    "scale": scale,
    "training": training,
}


if __name__ == "__main__":
    run(main)
