"""scripts/train.py and scripts/compare.py, started by a launcher, killed, or forked where that is the same."""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from forked import Ended, run_aside
from safetensors.torch import load_file

from hf_tempbalance.runs.history import HISTORY_NAME, read_history


SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SMALL = [
    "--width_factor=0.125",
    "--max_train_samples=320",
    "--max_test_samples=50",
    "--per_device_train_batch_size=32",
    "--num_train_epochs=2",
    "--learning_rate=0.05",
]


TOKEN = "hf_aVerySecretToken"  # noqa: S105


def train(folder: Path, *flags: str) -> list[str]:
    return [sys.executable, str(SCRIPTS / "train.py"), *SMALL, f"--output_dir={folder}", "--tempbalance=true", *flags]


def run(command: list[str]) -> Ended:
    """The command line of a script, in a forked process."""
    return run_aside(*command[1:])


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nobody stopped, started by accelerate launch."""
    folder = tmp_path_factory.mktemp("whole")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes=1", "--cpu"]
    command = [*launcher, *train(folder, "--validation_fraction=0.1", f"--hub_token={TOKEN}")[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (folder / "printed.txt").write_text(done.stdout + done.stderr)
    return folder


def test_it_prints_a_line_an_epoch_and_no_bar_of_a_save(whole):
    printed = (whole / "printed.txt").read_text()
    assert re.search(r"epoch +loss .*\n +1/2 .*\n +2/2 .*\n18 steps in ", printed), printed
    assert "Writing model shards" not in printed and "{'" not in printed


def test_results_json_tells_what_was_run_and_measured(whole):
    results = json.loads((whole / "results.json").read_text())
    assert results["status"] == "finished"
    assert [epoch["epoch"] for epoch in results["epochs"]] == [1, 2]
    for epoch in results["epochs"]:
        assert 0 <= epoch["eval_test_accuracy"] <= 1 and 0 <= epoch["eval_validation_accuracy"] <= 1
        assert epoch["loss"] > 0
    assert results["epochs"][0]["learning_rate"] == pytest.approx(0.05)  # the staircase's first step
    assert results["best_metric"] == max(epoch["eval_validation_accuracy"] for epoch in results["epochs"])
    assert Path(results["best_checkpoint"]).is_dir() and Path(results["last_checkpoint"]).name == "checkpoint-18"
    assert 0 < results["tempbalance_seconds"] < results["seconds"]
    assert results["config"]["dataset"] == "digits" and results["config"]["settings"]["mapping"] == "linear"
    assert results["arguments"]["weight_decay_on_all"] is True
    assert results["environment"]["versions"]["torch"] == version("torch")
    assert results["environment"]["seed"] == 43


def test_no_file_of_a_run_has_the_token(whole):
    files = [path for path in whole.rglob("*") if path.is_file()]
    assert "results.json" in {path.name for path in files}
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []


def test_the_folder_has_what_the_hub_needs(whole):
    files = {path.name for path in whole.iterdir()}
    assert {"config.json", "model.safetensors", "backbones.py", "preprocessor_config.json", HISTORY_NAME} <= files
    processor = json.loads((whole / "preprocessor_config.json").read_text())
    assert processor["size"] == {"height": 32, "width": 32} and len(processor["image_mean"]) == 3


def test_killed_in_the_middle_of_an_epoch_and_resumed_it_ends_with_the_same_weights(tmp_path):
    flags = ["--save_strategy=steps", "--save_steps=3"]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert run(train(straight, *flags)).code == 0
    with subprocess.Popen(train(killed, *flags), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.time() + 120
        # A complete checkpoint in the middle of the second epoch; the state is written last.
        while not (killed / "checkpoint-15" / "trainer_state.json").exists():
            assert process.poll() is None and time.time() < deadline, "the run ended before it could be killed"
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    assert json.loads((killed / "results.json").read_text())["status"] == "running"
    done = run(train(killed, *flags, f"--resume_from_checkpoint={killed / 'checkpoint-15'}"))
    assert done.code == 0, done.err
    one, other = load_file(straight / "model.safetensors"), load_file(killed / "model.safetensors")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    looks = [
        [(look["step"], str(look["layers"])) for look in read_history(f / HISTORY_NAME)] for f in (straight, killed)
    ]
    assert looks[0] == looks[1] and [step for step, _ in looks[0]] == [0, 10, 20]
    assert json.loads((killed / "results.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_a_run_that_fails_is_recorded_with_its_error(tmp_path):
    done = run(train(tmp_path, "--optim=adagrad", "--optim_args=lr_decay=-1"))
    assert done.code == 1
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["status"] == "failed" and "lr_decay" in results["error"]


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--min_ratio=2"], 1, "min_ratio=2.0 is larger than max_ratio=1.5"),
        (["--min_ratio=-1"], 1, "min_ratio=-1.0 is not allowed"),
        (["--xmin_pos=1"], 1, "xmin_pos=1.0 is not allowed"),
        (["--mapping=cubic"], 2, "argument --mapping: invalid choice: 'cubic'"),
        (["--lr_minratio=1"], 2, "unknown option '--lr_minratio=1'. Did you mean 'min_ratio'?"),
        (["--config=none.yaml"], 1, "none.yaml can't be read"),
        (["--architecture=resnet19_cifar"], 1, "'resnet19_cifar' is not in timm's registry"),
        (["--model_args={depth"], 1, "is not JSON, an object"),
        (["--image_size=0"], 1, "image_size=0 is not allowed: it must be 1 or larger"),
        (["--validation_fraction=2"], 1, "validation_fraction=2.0 is not allowed"),
        (["--architecture=resnet18.nope"], 1, "timm has no such weights"),
        (["--accelerator_config=3"], 1, "the value of an option is not allowed"),
        (["--resume_from_checkpoint=last"], 1, "has no complete checkpoint to resume from"),
        (["--resume_from_checkpoint=last", "--overwrite_output_dir=true"], 1, "Give one of them"),
        (["--resume_from_checkpoint=gone"], 1, "resume_from_checkpoint='gone' is not a folder"),
        (["--scheduler_unit=epoch", "--lr_scheduler_type=greedy"], 1, "depends on a metric"),
    ],
)
def test_a_mistake_is_one_line_and_no_traceback(tmp_path, flags, code, message, monkeypatch, capsys):
    script = runpy.run_path(str(SCRIPTS / "train.py"), run_name="train")
    monkeypatch.setattr(sys, "argv", train(tmp_path / "run", *flags)[1:])
    with pytest.raises(SystemExit) as ended:
        script["run"](script["main"])
    assert ended.value.code == code
    lines = capsys.readouterr().err.strip().splitlines()  # the last one: libraries may have something to say before
    assert lines[-1].startswith("train.py: ") and message in lines[-1] and not any("Traceback" in one for one in lines)


def test_a_mistake_in_a_file_ends_the_process_with_one_line(tmp_path):
    (tmp_path / "a.yaml").write_text("min_rate: 0.5")
    done = run([sys.executable, str(SCRIPTS / "train.py"), "--config", str(tmp_path / "a.yaml")])
    assert done.code == 1
    # Optimizers that are installed besides may have something to say when they are imported; ours is the last line.
    message = f"train.py: {tmp_path}/a.yaml: unknown key 'min_rate'. Did you mean 'min_ratio'?"
    assert done.err.splitlines()[-1] == message and "Traceback" not in done.err


def test_debug_shows_where(tmp_path):
    lines = run(train(tmp_path, "--debug", "--min_ratio=2")).err.splitlines()
    assert "Traceback (most recent call last):" in lines and lines[-1].startswith("train.py: min_ratio=2.0")


def test_debug_with_a_value_is_trainer_s(tmp_path):
    script = runpy.run_path(str(SCRIPTS / "train.py"), run_name="train")
    kinds = (script["RunArguments"], script["TempBalanceConfig"], script["TempBalanceTrainingArguments"])
    parser = script["ConfigArgumentParser"](kinds)
    flags = ["--output_dir", str(tmp_path)]
    assert parser.parse([*flags, "--debug", "underflow_overflow"])[2].debug == ["underflow_overflow"]
    assert parser.parse([*flags, "--debug"])[2].debug == []


def test_a_folder_without_images_and_one_of_broken_images_are_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    for name in ("train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/dog/1.png"):
        (tmp_path / "broken" / name).parent.mkdir(parents=True)
        (tmp_path / "broken" / name).write_text("no image")
    (tmp_path / "broken.parquet").write_text("no table")
    for name in ("empty", "broken.parquet", "broken"):
        message = refused(tmp_path / "run", f"--dataset={tmp_path / name}", monkeypatch=monkeypatch, capsys=capsys)
        assert "unexpected" not in message and ("has no image" in message or str(tmp_path / name) in message), message


def refused(folder: Path, *flags: str, monkeypatch, capsys) -> str:
    """The last line of a start that is refused, in this process."""
    script = runpy.run_path(str(SCRIPTS / "train.py"), run_name="train")
    monkeypatch.setattr(sys, "argv", train(folder, *flags)[1:])
    with pytest.raises(SystemExit) as ended:
        script["run"](script["main"])
    assert ended.value.code == 1
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_used_folder_is_refused_and_both_ways_out_are_named(whole, monkeypatch, capsys):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.name != "_lock"}
    message = refused(whole, monkeypatch=monkeypatch, capsys=capsys)
    assert "has a run already (results.json)" in message
    assert "--resume_from_checkpoint last" in message and "--overwrite_output_dir true" in message
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.name != "_lock"} == before


def interrupted(process: subprocess.Popen) -> str:
    """What the process says when Ctrl-C has ended it: again where a library has swallowed the first."""
    for _ in range(5):
        process.send_signal(signal.SIGINT)
        try:
            return process.communicate(timeout=25)[1]
        except subprocess.TimeoutExpired:
            continue
    process.kill()
    raise AssertionError("five times Ctrl-C did not end it")


@pytest.mark.slow
def test_one_process_at_a_time_then_ctrl_c_then_a_new_run_in_its_place(tmp_path, monkeypatch, capsys):
    command = train(tmp_path, "--num_train_epochs=500")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.time() + 120
        while not (tmp_path / "checkpoint-20" / "trainer_state.json").exists():
            assert process.poll() is None and time.time() < deadline, "the run ended too early"
            time.sleep(0.02)
        for flags in ([], ["--resume_from_checkpoint=last"], ["--overwrite_output_dir=true"]):
            message = refused(tmp_path, *flags, monkeypatch=monkeypatch, capsys=capsys)
            assert "is in use: another process is running in it" in message, flags
        err = interrupted(process)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "train.py: Interrupted. Go on with --resume_from_checkpoint last"
    assert "Traceback" not in err
    assert json.loads((tmp_path / "results.json").read_text())["status"] == "interrupted"
    done = run(train(tmp_path, "--num_train_epochs=1", "--overwrite_output_dir=true"))
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "results.json").read_text())["status"] == "finished"
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-10"]  # nothing of the old run
    assert [look["step"] for look in read_history(tmp_path / HISTORY_NAME)] == [0, 10]


def test_compare_prints_both_runs_and_every_layer_and_draws_a_picture(whole, tmp_path):
    plain, picture = tmp_path / "plain", tmp_path / "pictures" / "comparison.png"
    assert run(train(plain, "--tempbalance=false", "--validation_fraction=0.1")).code == 0
    assert not (plain / HISTORY_NAME).exists()
    done = run([sys.executable, str(SCRIPTS / "compare.py"), str(plain), str(whole), "--picture", str(picture)])
    assert done.code == 0, done.err
    results = json.loads((whole / "results.json").read_text())
    assert f"{results['epochs'][-1]['eval_test_accuracy']:.4f}" in done.out
    for layer in read_history(whole / HISTORY_NAME)[-1]["layers"]:
        row = next(line for line in done.out.splitlines() if layer["name"] in line)
        assert f"{layer['alpha']:.2f}" in row and f"{layer['alpha_relative']:.2f}" in row
        assert (f"{layer['multiplier']:.2f}" if layer["excluded_by"] is None else layer["excluded_by"]) in row
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and picture.stat().st_size > 20_000


def test_compare_says_what_is_missing(tmp_path, whole):
    done = run([sys.executable, str(SCRIPTS / "compare.py"), str(tmp_path), str(whole)])
    assert done.code == 1 and "has no results.json" in done.err and "Traceback" not in done.err
