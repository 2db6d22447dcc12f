"""scripts/study.py as a user starts it: killed, started again, with a run that fails, and with mistakes."""

from __future__ import annotations

import json
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from forked import run_study, wait_until_free
from safetensors.torch import load_file


SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
STUDIES = SCRIPTS.parent / "configs" / "studies"
STUDY = {
    "name": "tiny",
    "train": {
        "architecture": "resnet18_cifar",
        "width_factor": 0.125,
        "max_train_samples": 320,
        "max_test_samples": 50,
        "per_device_train_batch_size": 32,
        "num_train_epochs": 3,
        "learning_rate": 0.05,
        "validation_fraction": 0.1,
        "use_cpu": True,
    },
    "axes": {"method": ["snr", "tempbalance"]},
    "methods": str(STUDIES / "methods.yaml"),
    "seeds": [1],
    "baseline": {"method": "snr"},
}


def file_of(folder: Path, **keys) -> str:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(STUDY | keys))
    return str(path)


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(SCRIPTS / "study.py"), *arguments]


def wait_for(condition, seconds: float = 120) -> None:
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> tuple[Path, Path]:
    """Folders of a study that was killed in its runs and started again, and of one that went through.

    With as many jobs each time: another number of threads adds up in another order.
    """
    folder = tmp_path_factory.mktemp("study")
    path, cut, through = file_of(folder), folder / "cut", folder / "through"
    process = subprocess.Popen(
        command("run", path, "--output_dir", str(cut), "--jobs", "2"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    first = cut / "runs" / "snr--seed1"
    wait_for((first / "checkpoint-9" / "trainer_state.json").is_file)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until_free(cut)
    (folder / "left").write_text(json.dumps(json.loads((first / "results.json").read_text())["status"]))
    for target in (cut, through):
        done = run_study("run", path, "--output_dir", str(target), "--jobs", "2")
        assert done.code == 0, done.out + done.err
    return cut, through


@pytest.mark.slow
def test_a_study_that_was_killed_ends_as_one_that_went_through(killed):
    cut, through = killed
    assert json.loads((cut.parent / "left").read_text()) == "running"
    for name in ("snr--seed1", "tempbalance--seed1"):
        one, two = (load_file(folder / "runs" / name / "model.safetensors") for folder in (cut, through))
        assert all((one[key] == two[key]).all() for key in one)
        results = [json.loads((folder / "runs" / name / "results.json").read_text()) for folder in (cut, through)]
        assert [r["status"] for r in results] == ["finished", "finished"]
        accuracies = [[epoch["eval_test_accuracy"] for epoch in r["epochs"]] for r in results]
        assert accuracies[0] == accuracies[1] and len(accuracies[0]) == 3
        assert results[0]["layers"] == results[1]["layers"]
    log = (cut / "runs" / "snr--seed1" / "log.txt").read_text()
    assert log.count(", mean loss ") == 1  # of the two starts one reached the end
    config = yaml.safe_load((cut / "runs" / "snr--seed1" / "config.yaml").read_text())
    assert config["optimizer"] == "sgd_snr" and config["seed"] == 1


@pytest.mark.slow
def test_what_is_finished_is_not_run_again_and_the_report_has_it(killed):
    cut, _ = killed
    file = cut / "runs" / "snr--seed1" / "results.json"
    before = file.stat().st_mtime_ns
    done = run_study("run", str(cut.parent / "tiny.yaml"), "--output_dir", str(cut))
    assert done.code == 0 and "2 runs are finished, 0 failed." in done.out
    assert file.stat().st_mtime_ns == before
    report = run_study("report", str(cut))
    assert report.code == 0, report.err
    assert "| tempbalance | 1 |" in report.out and "better than snr: not shown (one pair" in report.out
    names = {path.name for path in (cut / "report").iterdir()}
    assert names >= {"table.md", "table.csv", "table.tex", "curves.png", "seeds.png", "alphas.png"}
    assert "layers-tempbalance.png" in names


@pytest.mark.slow
def test_another_version_of_the_study_does_not_touch_the_folder(killed):
    cut, _ = killed
    before = sorted(path.stat().st_mtime_ns for path in cut.rglob("*"))
    done = run_study("run", str(cut.parent / "tiny.yaml"), "--output_dir", str(cut), "--set", "seeds=[2]")
    assert done.code == 1
    assert f"study.py: {cut} belongs to study 'tiny'" in done.err and "they differ in seeds" in done.err
    assert sorted(path.stat().st_mtime_ns for path in cut.rglob("*")) == before


@pytest.mark.slow
def test_a_run_that_fails_is_recorded_and_the_rest_goes_on(tmp_path):
    axes = {"method": ["tempbalance", "sgd"]}
    cells = [{"method": "tempbalance", "set": {"model_args": {"depth": 9}}}]  # found out by making the network
    path = file_of(tmp_path, axes=axes, cells=cells, baseline={"method": "sgd"})
    done = run_study("run", path, "--output_dir", str(tmp_path / "out"), "--set", "num_train_epochs=1")
    assert done.code == 1
    assert "failed: tempbalance--seed1: " in done.out and "1 runs are finished, 1 failed." in done.out
    results = {m: json.loads((tmp_path / f"out/runs/{m}--seed1/results.json").read_text()) for m in axes["method"]}
    assert results["sgd"]["status"] == "finished"
    assert results["tempbalance"]["status"] == "failed"
    assert "resnet18_cifar does not take model_args={'depth': 9" in results["tempbalance"]["error"]
    report = run_study("report", str(tmp_path / "out"), "--no-pictures")
    assert "* tempbalance--seed1: it has not finished (status: failed: " in report.out


def test_a_dry_run_lists_the_runs_with_minutes_and_starts_nothing(tmp_path):
    tune = {"learning_rate": [0.1, 0.2], "seeds": [1]}
    path = file_of(tmp_path, tune=tune, seeds=[1, 2])
    done = run_study("run", path, "--output_dir", str(tmp_path / "out"), "--dry-run", "--only", "snr*")
    assert done.code == 0, done.err
    lines = [line for line in done.out.splitlines() if line.startswith("to do")]
    assert [line.split()[2] for line in lines] == [f"snr--learning_rate={rate}--seed1" for rate in (0.1, 0.2)]
    assert all(line.endswith(" min") and float(line.split()[-2]) < 5 for line in lines)
    assert "2 more follow with the learning_rate that is chosen for 2 cells" in done.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("keys", "flags", "message"),
    [
        ({"train": {"architecture": "resnet18_cifr"}}, [], "architecture='resnet18_cifr' is not in timm's registry"),
        ({"train": {"dataset": "cifar11"}}, [], "dataset='cifar11' does not exist"),
        ({"train": {"learning_rat": 0.1}}, [], "unknown key 'learning_rat'. Did you mean 'learning_rate'?"),
        ({"train": {"mapping": "cubic"}}, [], "invalid choice: 'cubic'"),
        ({}, ["--set", "seeds=[1,1]"], "seeds has 1 twice"),
        ({}, ["--only", "adam*"], "--only 'adam*' matches no run"),
        ({}, ["--jobs", "0"], "must be 1 or larger"),
    ],
)
def test_a_mistake_is_one_line_before_anything_runs(tmp_path, keys, flags, message, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    script = runpy.run_path(str(SCRIPTS / "study.py"), run_name="study")
    arguments = ["run", file_of(tmp_path, **keys), "--output_dir", str(tmp_path / "out"), *flags]
    monkeypatch.setattr(sys, "argv", ["study.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        script["run"](script["main"])
    assert ended.value.code == 1
    lines = capsys.readouterr().err.strip().splitlines()  # the last one: libraries may have something to say before
    assert lines[-1].startswith("study.py: ") and message in lines[-1] and not any("Traceback" in one for one in lines)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    done = run_study("run", file_of(tmp_path), "--output_dir", str(tmp_path / "out"))
    assert done.code == 1 and "it belongs to something else" in done.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]
