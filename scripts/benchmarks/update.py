"""What looks cost a training: the quick start with one every 20 steps, waited for or beside training."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.race import ratio
from hf_tempbalance.runs.history import cost_of_looks


SCRIPTS = Path(__file__).resolve().parents[1]
EVERY, EPOCHS = 20, 12
TINY = ["--num_train_epochs", "2", "--max_train_samples", "400", "--per_device_train_batch_size", "16"]
LOOKS = ["--tempbalance", "true", "--update_unit", "step", "--update_interval", str(EVERY)]
MODES = {"no looks": [], "looks": LOOKS, "overlapped": [*LOOKS, "--overlap", "true"]}


def update(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds of a training in each mode, and how long it stood still for a look."""
    more = [part for pair in options.train for part in split(pair)]
    more += TINY if options.tiny else []
    modes = ["overlapped"] if options.tiny else list(MODES)
    rows = []
    for _ in range(options.rounds):
        rows += [train(mode, more) for mode in modes]
    settings = " ".join([f"quick start, {EPOCHS} epochs", *more])
    print(f"{settings}, a look every {EVERY} steps, median of {options.rounds} rounds")
    plain = [row["seconds"] for row in rows if row["mode"] == "no looks"]
    for mode in modes:
        mine = [row for row in rows if row["mode"] == mode]
        seconds = [row["seconds"] for row in mine]
        middle, low, high = ratio(plain or seconds, seconds)
        waits = [row["waited"] / row["between"] for row in mine if row["between"]]
        waited = f", stands still {statistics.median(waits):.2%} of the time between looks" if waits else ""
        spread = f"{middle:.2f} ({low:.2f}-{high:.2f})"
        print(f"{mode:12} {statistics.median(seconds):6.1f} s, {spread} of no looks in the same round{waited}")
    return rows


def split(pair: str) -> list[str]:
    """OPTION=VALUE as a flag. Raises ValueError where it is not that."""
    option, separator, value = pair.partition("=")
    if not separator or not option:
        raise ValueError(f"--train {pair!r} is not OPTION=VALUE.")
    return [f"--{option}", value]


def train(mode: str, more: list[str]) -> dict[str, Any]:
    """One run of scripts/train.py without evaluation and checkpoints."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            str(SCRIPTS / "train.py"),
            "--config",
            str(SCRIPTS.parent / "configs/quickstart.yaml"),
        ]
        command += ["--num_train_epochs", str(EPOCHS), "--eval_strategy", "no", "--save_strategy", "no"]
        done = subprocess.run(
            [*command, *more, "--output_dir", folder, *MODES[mode]], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ValueError(f"{mode}: {done.stderr.strip().splitlines()[-1]}")
        seconds = json.loads(Path(folder, "results.json").read_text())["seconds"]
        history = Path(folder, "tempbalance_history.jsonl")
        looks = [json.loads(line) for line in history.read_text().splitlines()] if history.is_file() else []
    looks = looks[1:]  # the first comes before training
    return {
        "mode": mode,
        "seconds": seconds,
        "waited": cost_of_looks(looks) / len(looks) if looks else None,
        "between": seconds / len(looks) if looks else None,
        "look": statistics.mean(look["seconds"] for look in looks) if looks else None,
    }
