"""Loops of one's own and groups of processes: real programs, started as a user starts them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from torch.distributed.elastic.utils.distributed import get_free_port

from .outcome import WORKS


SCRIPTS = Path(__file__).resolve().parents[1]


def launch(program: list[str], processes: int, *, timeout: float = 300) -> subprocess.CompletedProcess:
    """``accelerate launch`` on the CPU; its --multi_gpu starts processes that use gloo where there is no GPU."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines=1", f"--num_processes={processes}"]
    command += ["--mixed_precision=no", "--dynamo_backend=no", f"--main_process_port={get_free_port()}"]
    command += ["--multi_gpu"] if processes > 1 else []
    paths = os.pathsep.join(filter(None, [str(SCRIPTS), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {
        "PYTHONPATH": paths,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cpu",
    }
    return subprocess.run(
        [*command, *program], capture_output=True, text=True, env=environment, timeout=timeout, check=False
    )


def check_loops() -> dict[str, str]:
    """Example script -> outcome."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        loop = [str(SCRIPTS / "accelerate_loop.py"), "--epochs=2"]
        results["Accelerator, 1 process"] = _ended(launch([*loop, f"--output_dir={folder}/1"], 1))
        results["Accelerator, resumed"] = _ended(
            launch([*loop, "--epochs=3", f"--output_dir={folder}/1", "--resume"], 1)
        )
        results["Accelerator, 2 processes"] = _ended(launch([*loop, f"--output_dir={folder}/2"], 2))
    for dtype in ("bfloat16", "float16"):
        loop = [str(SCRIPTS / "amp_loop.py"), "--epochs=2", f"--dtype={dtype}"]
        results[f"torch.amp, GradScaler, {dtype}"] = _ended(launch(loop, 1))
    return results


def check_processes() -> dict[str, str]:
    """Kind of process group -> outcome; each program holds what its ranks found against each other."""
    tasks = {"DDP, Trainer and callback": "callback", "DDP, TempBalanceTrainer": "trainer", "FSDP2": "fsdp"}
    tasks |= {f"DeepSpeed ZeRO-{stage}, TempBalanceTrainer": f"deepspeed{stage}" for stage in (1, 2, 3)}
    results = {}
    for name, task in tasks.items():
        if task.startswith("deepspeed") and importlib.util.find_spec("deepspeed") is None:
            results[f"{name}, 2 processes"] = "not tried: deepspeed is not installed"
            continue
        for processes in (2,) if task.startswith("deepspeed") else (2, 4):
            with tempfile.TemporaryDirectory() as folder:
                done = launch(["-m", "everywhere.rank", task, folder], processes)
                parts = [path.read_text() for path in sorted(Path(folder).glob(f"{task}-*.json"))]
            result = _ended(done)
            if result == WORKS and (len(parts) != processes or len(set(parts)) != 1):
                result = f"failed: {len(parts)} of {processes} ranks reported, {len(set(parts))} different results"
            results[f"{name}, {processes} processes"] = result
    return results


def _ended(done: subprocess.CompletedProcess) -> str:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return WORKS if done.returncode == 0 else f"failed: exit {done.returncode}: {lines[-1] if lines else ''}"
