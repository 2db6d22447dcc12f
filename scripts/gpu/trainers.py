"""TempBalance through Trainer on GPUs: ``python -m gpu.trainers TASK --device cuda --processes 1 --json FILE``.

The tasks are those of everywhere.rank: FSDP2, DeepSpeed ZeRO, 8-bit AdamW, torch.compile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from torch.distributed.elastic.utils.distributed import get_free_port

from hf_tempbalance.files import write_json


# Task -> what the README calls it.
TASKS = {
    "callback": "Trainer, TempBalanceCallback",
    "trainer": "TempBalanceTrainer",
    "fsdp": "FSDP2, a loop of one's own",
    "fsdp_overlapped": "FSDP2, looks beside training",
    "fsdp_trainer": "FSDP2, Trainer",
    "deepspeed1": "DeepSpeed ZeRO-1",
    "deepspeed2": "DeepSpeed ZeRO-2",
    "deepspeed3": "DeepSpeed ZeRO-3",
    "adamw_8bit": "8-bit AdamW",
    "compiled": "torch.compile",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    write_json(options.json, {"rows": [row_of(options.task, options.device, options.processes)]})


def row_of(task: str, device: str, processes: int) -> dict[str, Any]:
    """What the processes of a task found. Raises RuntimeError where one failed, or they don't agree."""
    with tempfile.TemporaryDirectory() as folder:
        for rank, (code, errors) in enumerate(launch(task, folder, device, processes)):
            if code:
                last = (errors.strip().splitlines() or ["no output"])[-1]
                raise RuntimeError(f"rank {rank} ended with {code}: {last}")
        ranks = [json.loads(Path(folder, f"{task}-{rank}.json").read_text()) for rank in range(processes)]
    if any(rank != ranks[0] for rank in ranks):
        raise RuntimeError("the ranks found different multipliers")
    found = ranks[0]["multipliers"]
    last = found[-1] if isinstance(found, list) else found  # DeepSpeed's task tells those of every step
    rates = set(last.values()) - {1.0}
    if len(rates) < 3:
        raise RuntimeError(f"the three layers that are tuned have the multipliers {sorted(rates)}")
    if task == "fsdp_trainer" and device != "cpu" and not ranks[0]["sharded"]:
        raise RuntimeError("Trainer did not shard the weights")
    return {"task": TASKS[task], "processes": processes, "multipliers": last}


def launch(task: str, folder: str, device: str, processes: int) -> list[tuple[int, str]]:
    """Exit code and errors of every rank; started without a launcher, which would look names up in a network."""
    group = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"}
    group |= {"MASTER_PORT": str(get_free_port()), "EVERYWHERE_DEVICE": device, "DS_ACCELERATOR": device}
    group |= {"DS_BUILD_OPS": "0"}
    running, outputs = [], []
    for rank in range(processes):
        mine = os.environ | group | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        command = [sys.executable, "-m", "everywhere.rank", task, folder]
        outputs.append(Path(folder, f"errors-{rank}.txt"))
        with outputs[-1].open("w") as errors:
            running.append(subprocess.Popen(command, env=mine, stdout=subprocess.DEVNULL, stderr=errors))
    codes = [process.wait() for process in running]
    return [(code, output.read_text(errors="replace")) for code, output in zip(codes, outputs, strict=True)]


if __name__ == "__main__":
    main()
