"""A study on a Ray cluster of two nodes, one of which is killed, ends as the study on one machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml


SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
STUDY = {
    "name": "tiny",
    "train": {
        "architecture": "resnet18_cifar",
        "width_factor": 0.125,
        "dataset": "digits",
        "max_train_samples": 320,
        "max_test_samples": 50,
        "per_device_train_batch_size": 32,
        "num_train_epochs": 8,
        "learning_rate": 0.05,
        "use_cpu": True,
    },
    "axes": {"method": ["sgd", "tempbalance"]},
    "methods": str(SCRIPTS.parent / "configs" / "studies" / "methods.yaml"),
    "seeds": [1],
    "baseline": {"method": "sgd"},
}
RUNS = [f"{method}--seed{seed}" for method in ("sgd", "tempbalance") for seed in (1,)]
pytestmark = pytest.mark.extras  # Ray


def command(folder: Path, target: Path, *flags: str) -> list[str]:
    return [sys.executable, str(SCRIPTS / "study.py"), "run", str(folder / "tiny.yaml"), "--output_dir", str(target),
            "--cpus", "1", *flags]  # fmt: skip


@pytest.fixture
def cluster(monkeypatch):
    """A head without room for runs and two nodes of one core each."""
    ray_cluster = pytest.importorskip("ray.cluster_utils")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    node = {"object_store_memory": 80 << 20, "include_dashboard": False}
    made = ray_cluster.Cluster(initialize_head=True, head_node_args=node | {"num_cpus": 0})
    made.killable = [made.add_node(**node, num_cpus=1) for _ in range(2)]
    yield made
    made.shutdown()


@pytest.mark.slow
def test_a_node_is_killed_and_all_runs_end_as_on_one_machine(cluster, tmp_path):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(STUDY))
    study = subprocess.Popen(
        command(tmp_path, tmp_path / "ray", "--on", "ray", "--address", cluster.address),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        while not (begun := checkpointed(tmp_path / "ray")):
            assert study.poll() is None, study.communicate()[0]
            time.sleep(0.1)
        process = next(pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if writes(pid, begun[0]))
        cluster.remove_node(node_of(cluster, process), allow_graceful=False)
        out, _ = study.communicate(timeout=400)
    finally:
        study.kill()
    assert study.returncode == 0, out
    assert "2 runs are finished, 0 failed." in out
    assert (begun[0] / "log.txt").read_text().count(" steps in ") == 1  # cut off, and gone on with elsewhere
    assert json.loads((begun[0] / "results.json").read_text())["status"] == "finished"

    done = subprocess.run(command(tmp_path, tmp_path / "local"), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in RUNS:
        one, two = (tmp_path / where / "runs" / name for where in ("ray", "local"))
        assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
        epochs = [json.loads((run / "results.json").read_text())["epochs"] for run in (one, two)]
        measured = [[(e["epoch"], e["eval_accuracy"], e["eval_loss"]) for e in of_run] for of_run in epochs]
        assert len(measured[0]) == 8 and measured[0] == measured[1]


def checkpointed(study: Path) -> list[Path]:
    """Folders of the runs that have a checkpoint and are not finished."""
    begun = [path.parents[1] for path in (study / "runs").glob("*/checkpoint-*/trainer_state.json")]
    return [folder for folder in begun if json.loads((folder / "results.json").read_text())["status"] == "running"]


def writes(pid: int, folder: Path) -> bool:
    """Whether this is the process of the run in a folder."""
    try:
        return os.readlink(f"/proc/{pid}/fd/1") == str(folder / "log.txt")
    except OSError:
        return False


def node_of(cluster, pid: int):
    """The node above a process: its raylet started the worker that started it."""
    above = set()
    while pid > 1:
        above.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return next(
        node for node in cluster.killable
        if any(info.process.pid in above for infos in node.all_processes.values() for info in infos)
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_that_kills_itself_is_recorded_and_the_rest_goes_on(cluster, tmp_path):
    (tmp_path / "train.py").write_text(
        "import os, sys\nif '3' in sys.argv: os.kill(os.getpid(), 9)\nraise ValueError(os.environ['OMP_NUM_THREADS'])"
    )
    study = {"name": "own", "script": str(tmp_path / "train.py"), "metric": "eval_loss", "axes": {"method": ["none"]},
             "seeds": [3, 4], "baseline": {"method": "none"}, "methods": {"none": {"preset": "none"}}}  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(study))
    done = subprocess.run(command(tmp_path, tmp_path / "out", "--on", "ray", "--address", cluster.address),
                          capture_output=True, text=True, timeout=200)  # fmt: skip
    assert "killed by signal 9, probably out of memory" in done.stdout, done.stdout + done.stderr
    assert "exit code 1: ValueError: 1" in done.stdout and "0 runs are finished, 2 failed." in done.stdout


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_one_sentence(tmp_path):
    pytest.importorskip("ray")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(STUDY))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    start = time.time()
    done = subprocess.run(command(tmp_path, tmp_path / "out", "--on", "ray", "--address", f"127.0.0.1:{port}"),
                          capture_output=True, text=True, timeout=100)  # fmt: skip
    line = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and f"study.py: the Ray cluster at 127.0.0.1:{port} can't be reached (" in line
    assert "Traceback" not in done.stderr and time.time() - start < 60 and not (tmp_path / "out").exists()
