"""How many trainings at a time one GPU is fastest with: images per second of all of them, ResNet18 on 32 x 32, bf16.

``python -m gpu.jobs --device cuda --json FILE`` starts 1, 2, 4 and 6 processes, each of which trains for some seconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from benchmarks.clock import now
from torch import nn

from hf_tempbalance.files import write_json


BATCH = 128
COUNTS, SECONDS, WARM_UP = (1, 2, 4, 6), 8.0, 20
WORTH = 1.05  # more at a time have to train so many times as many images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--meet", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.meet is not None:
        print(json.dumps(train(options)))
        return
    rows: list[dict[str, Any]] = []
    for count in COUNTS[:2] if options.tiny else COUNTS:
        rows.append({"jobs": count, "images_per_second": together(count, options)})
        write_json(options.json, {"rows": rows})


def best(rows: list[dict[str, Any]]) -> int:
    """The number of jobs to run a study with: the smallest that no larger one beats by a twentieth."""
    chosen = rows[0]
    for row in rows[1:]:
        if row["images_per_second"] > WORTH * chosen["images_per_second"]:
            chosen = row
    return int(chosen["jobs"])


def together(count: int, options: argparse.Namespace) -> float:
    """Images per second of so many processes, all begun before any is measured."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "gpu.jobs", "--device", options.device, "--meet", folder]
        command += ["--tiny"] if options.tiny else []
        running = [
            subprocess.Popen([*command, "--number", str(number)], stdout=subprocess.PIPE, text=True)
            for number in range(count)
        ]
        while len(list(Path(folder).glob("ready-*"))) < count:
            if any(process.poll() for process in running):
                raise RuntimeError(f"one of {count} trainings at a time failed to start")
            time.sleep(0.1)
        Path(folder, "go").touch()
        return sum(json.loads(process.communicate()[0].splitlines()[-1]) for process in running)


def train(options: argparse.Namespace) -> float:
    """Images per second of this process, from the moment at which all are ready."""
    from benchmarks.models import TINY, build

    device = options.device
    model = build(TINY if options.tiny else "ResNet18", device).train()
    shape = (BATCH, 32) if options.tiny else (BATCH, 3, 32, 32)
    inputs, labels = torch.randn(shape, device=device), torch.randint(10, (BATCH,), device=device)
    if not options.tiny:
        model, inputs = model.to(memory_format=torch.channels_last), inputs.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()

    for _ in range(WARM_UP):
        step()
    now(device)
    Path(options.meet, f"ready-{options.number}").touch()
    while not Path(options.meet, "go").exists():
        time.sleep(0.01)
    start, steps = now(device), 0
    while now(device) - start < (0.2 if options.tiny else SECONDS):
        for _ in range(10):
            step()
        steps += 10
    return BATCH * steps / (now(device) - start)


if __name__ == "__main__":
    main()
