"""Groups of real processes: DDP, FSDP2, DeepSpeed, two hosts, and ranks that fail.

One of each kind is started as a user starts it. Where the ranks alone matter they are forked, since most of what a
small group takes is to import torch and transformers in each.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from everywhere.programs import launch
from forked import run_ranks

from hf_tempbalance.runs.history import HISTORY_NAME, read_history


WORKER = Path(__file__).with_name("worker.py")
pytestmark = pytest.mark.extras  # DeepSpeed


def results(task: str, folder: Path, processes: int, *, launched: bool = False) -> list[dict]:
    """What each rank found."""
    folder.mkdir(parents=True, exist_ok=True)
    if launched:
        done = launch([str(WORKER), task, str(folder)], processes, timeout=240)
        assert done.returncode == 0, done.stderr[-4000:]
    else:
        for rank in run_ranks(folder, processes, WORKER, task, str(folder)):
            assert rank.code == 0, rank.err[-4000:]
    return [json.loads((folder / f"{task}-{rank}.json").read_text()) for rank in range(processes)]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """The result of a task in one process; each is run once."""
    folder, found = tmp_path_factory.mktemp("one"), {}

    def result(task: str) -> dict:
        if task not in found:
            found[task] = results(task, folder / task, 1)[0]
        return found[task]

    return result


@pytest.mark.parametrize(
    ("kind", "processes"),
    [
        ("callback", 2),
        pytest.param("trainer", 2, marks=pytest.mark.slow),
        pytest.param("callback", 4, marks=pytest.mark.slow),
        pytest.param("trainer", 4, marks=pytest.mark.slow),
    ],
)
def test_ddp_gives_every_rank_the_multipliers_of_one_process(tmp_path, kind, processes, one_process):
    ranks = results(kind, tmp_path, processes, launched=(kind, processes) == ("callback", 2))
    assert [rank["size"] for rank in ranks] == [processes] * processes
    assert all(rank == ranks[0] for rank in ranks)  # to the bit
    assert ranks[0]["multipliers"] == pytest.approx(one_process(kind)["multipliers"], rel=1e-6)
    assert ranks[0]["weights"] == pytest.approx(one_process(kind)["weights"], rel=1e-6)
    assert len(set(ranks[0]["multipliers"].values())) == 4
    looks = read_history(tmp_path / "run" / HISTORY_NAME)
    assert [look["step"] for look in looks] == [0, 4, 8, 12]  # one process writes


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_fsdp2_shards_give_the_spectra_of_the_whole_weights(tmp_path, processes, one_process):
    ranks = results("fsdp", tmp_path, processes, launched=processes == 2)
    assert all(rank == ranks[0] for rank in ranks)
    alone = one_process("fsdp")
    for look, expected in zip(ranks[0]["looks"], alone["looks"], strict=True):
        assert look == pytest.approx(expected, rel=1e-6)
    assert ranks[0]["looks"][0] == alone["looks"][0]  # the same weights: equal to the bit
    assert ranks[0]["rates"] == pytest.approx({n: 0.01 * m for n, m in ranks[0]["multipliers"].items()})
    assert len(set(ranks[0]["rates"].values())) == 4


@pytest.mark.slow
def test_fsdp2_shards_are_looked_at_beside_training(tmp_path, one_process):
    ranks = results("fsdp_overlapped", tmp_path, 2)
    assert ranks[0] == ranks[1]
    assert ranks[0]["multipliers"] == pytest.approx(one_process("fsdp_overlapped")["multipliers"], rel=1e-6)
    assert ranks[0]["multipliers"] != pytest.approx(one_process("fsdp")["multipliers"], rel=1e-3)


@pytest.mark.slow
def test_ranks_with_other_weights_still_hold_the_same_multipliers(tmp_path):
    ranks = results("looks_differ", tmp_path, 2)
    assert ranks[0]["weight"] != ranks[1]["weight"]
    assert ranks[0]["multipliers"] == ranks[1]["multipliers"]


@pytest.mark.slow
def test_overlapped_looks_come_into_force_on_every_rank_at_the_same_step(tmp_path):
    ranks = results("overlapped", tmp_path, 2)
    assert ranks[0] == ranks[1]  # to the bit, at every step
    found = ranks[0]["multipliers"]
    changes = [step for step in range(1, 20) if found[step] != found[step - 1]]
    assert changes == [8, 13, 18]  # a look after step 5 is in force in the step after 8
    assert ranks[0]["resumed"] == found[12:]


@pytest.mark.slow
def test_nan_on_one_rank_alone_is_named_once_and_training_goes_on_everywhere(tmp_path):
    ranks = results("nan_on_one_rank", tmp_path, 2)
    assert ranks[0]["multipliers"] == ranks[1]["multipliers"]
    assert all(math.isfinite(multiplier) for multiplier in ranks[0]["multipliers"].values())
    assert [message for rank in ranks for message in rank["messages"] if message[0] < 500] == []
    assert any(message.startswith("fc") and "alpha is nan" in message for _, message in ranks[0]["messages"])
    assert ranks[1]["messages"] == []


@pytest.mark.slow
def test_an_error_in_one_rank_s_look_is_raised_on_all(tmp_path):
    for rank in results("failure_on_one_rank", tmp_path, 2):
        assert rank["error"].startswith("Rank 1 failed while it looked at the weights: OutOfMemoryError")


@pytest.mark.slow
def test_ranks_with_other_models_are_told_which_layer_differs(tmp_path):
    for rank in results("other_model_on_one_rank", tmp_path, 2):
        assert "different models: ('fc1', (64, 64), None) and ('fc1', (96, 64), None)" in rank["error"]


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_job_with_an_error(tmp_path):
    done = launch([str(WORKER), "killed", str(tmp_path)], 2, timeout=120)
    assert done.returncode != 0
    assert not list(tmp_path.glob("killed-*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_steps_each_layer_with_its_rate(tmp_path, stage):
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    ranks = results(f"deepspeed{stage}", tmp_path, 2, launched=stage == 3)
    assert ranks[0] == ranks[1] and ranks[0]["optimizer"] == "DeepSpeedOptimizerWrapper"
    before = read_history(tmp_path / "run" / HISTORY_NAME)[-2]["layers"]
    expected = {layer["name"]: 0.05 * layer["multiplier"] for layer in before if layer["excluded_by"] is None}
    assert ranks[0]["rates"] == pytest.approx(expected | {"null": 0.05})
    assert len(set(expected.values())) == 3


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_steps_with_the_rates_of_an_overlapped_look_when_they_are_due(tmp_path, stage):
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    ranks = results(f"deepspeed{stage}_overlapped", tmp_path, 2)
    assert ranks[0] == ranks[1]
    found = ranks[0]["multipliers"]  # after each of the 12 steps; looks come after 4 and 8
    assert [step for step in range(1, 13) if step > 1 and found[step - 1] != found[step - 2]] == [7, 11]
    assert ranks[0]["rates"] == pytest.approx({name: 0.05 * m for name, m in found[-1].items()} | {"null": 0.05})


@pytest.mark.slow
def test_deepspeed_without_layer_wise_groups_is_refused_with_the_way_out(tmp_path):
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    for rank in results("deepspeed_plain", tmp_path, 2):
        assert "use TempBalanceTrainer" in rank["error"]


def in_namespace(name: str, *command: str) -> list[str]:
    return ["ip", "netns", "exec", name, *command]


@pytest.fixture
def two_hosts():
    """Two network namespaces joined by a pair of virtual devices: names and addresses."""
    names, addresses = [f"tb{os.getpid() % 10000}{side}" for side in "ab"], ["10.231.7.1", "10.231.7.2"]
    devices = [f"v{name}" for name in names]
    commands = [["ip", "netns", "add", name] for name in names]
    commands += [["ip", "link", "add", devices[0], "type", "veth", "peer", "name", devices[1]]]
    for name, device, address in zip(names, devices, addresses, strict=True):
        commands += [["ip", "link", "set", device, "netns", name]]
        commands += [in_namespace(name, "ip", "address", "add", f"{address}/24", "dev", device)]
        commands += [in_namespace(name, "ip", "link", "set", link, "up") for link in (device, "lo")]
    try:
        if shutil.which("ip") is None:
            pytest.skip("two hosts need network namespaces: no `ip` command here")
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"two hosts need network namespaces: {' '.join(command)}: {done.stderr.strip()}")
        yield list(zip(names, devices, addresses, strict=True))
    finally:
        if shutil.which("ip"):
            for name in names:
                subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


@pytest.mark.slow
def test_two_hosts_of_two_processes_each_are_as_four_on_one(tmp_path, two_hosts, one_process):
    running = []
    for number, (name, device, _) in enumerate(two_hosts):
        command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=4"]
        command += ["--mixed_precision=no", "--dynamo_backend=no"]
        command += ["--num_machines=2", f"--machine_rank={number}", f"--main_process_ip={two_hosts[0][2]}"]
        command += ["--main_process_port=29511", "--rdzv_backend=static", str(WORKER), "callback", str(tmp_path)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": device}
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(in_namespace(name, *command), env=environment, **pipes))
    for process in running:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors[-4000:]
    ranks = [json.loads((tmp_path / f"callback-{rank}.json").read_text()) for rank in range(4)]
    assert [rank["size"] for rank in ranks] == [4] * 4 and all(rank == ranks[0] for rank in ranks)
    assert ranks[0]["multipliers"] == pytest.approx(one_process("callback")["multipliers"], rel=1e-6)
