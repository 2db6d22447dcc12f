"""scripts/study.py with a Trainer script of others: killed and started again, a run that fails, chosen on one metric
and reported on another."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from forked import run_study, wait_until_free

from hf_tempbalance.study.collect import collect


ROOT = Path(__file__).resolve().parents[2]
STUDY = {
    "name": "text",
    "script": str(ROOT / "tests" / "scripts_of_others" / "classify_text.py"),
    "metric": {"choose": "eval_loss", "report": "predict_accuracy"},
    "train": {
        "do_train": True,
        "do_predict": True,
        "num_train_epochs": 3,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": True,
    },
    "axes": {"method": ["none", "tempbalance", "broken"]},
    "methods": {
        "tempbalance": {"min_eigenvalues": 8},
        "broken": {"preset": "none", "flags": {"hidden_size": 31}},  # two heads do not divide it
    },
    "seeds": [1, 2],
    "tune": {"learning_rate": [1e-4, 1e-2], "seeds": [1]},
    "baseline": {"method": "none"},
}


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / "study.py"), *arguments]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """Of a study that was killed in its first run and started again, and of one that went through."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "text.yaml").write_text(yaml.safe_dump(STUDY))
    cut, through = folder / "cut", folder / "through"
    process = subprocess.Popen(
        command("run", str(folder / "text.yaml"), "--output_dir", str(cut)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.time() + 300
    while not list(cut.glob("runs/*/checkpoint-*/trainer_state.json")):
        assert time.time() < end and process.poll() is None, "waited in vain"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until_free(cut)
    for target in (cut, through):
        done = run_study("run", str(folder / "text.yaml"), "--output_dir", str(target))
        assert done.code == 1, done.out + done.err  # the broken ones
        (target / "said").write_text(done.out)
    return cut, through


@pytest.mark.slow
def test_a_study_of_any_script_that_was_killed_ends_as_one_that_went_through(folders):
    cut, through = (collect(folder) for folder in folders)
    assert len(cut.finals) == 4 and cut.chosen == through.chosen
    assert [(m.run.name, m.last, m.held_out, m.curve) for m in cut.finals] == [
        (m.run.name, m.last, m.held_out, m.curve) for m in through.finals
    ]


@pytest.mark.slow
def test_the_value_is_chosen_on_the_loss_of_the_evaluation_and_the_prediction_is_reported(folders):
    found = collect(folders[1])
    for cell in ({"method": "none"}, {"method": "tempbalance"}):
        losses = {m.run.tuned: m.held_out for m in found.trials if m.run.cell == cell}
        assert found.chosen[tuple(cell.values())] == min(losses, key=losses.__getitem__)
        for measured in found.of(cell):
            path = folders[1] / "runs" / measured.run.name
            results = json.loads((path / "results.json").read_text())
            assert measured.last == results["predictions"][-1]["predict_accuracy"]
            assert results["environment"]["seed"] == measured.run.seed
            assert results["config"]["preset"] == cell["method"]
            assert (path / "tempbalance_history.jsonl").exists() is (cell["method"] == "tempbalance")
            assert bool(measured.layers) is (cell["method"] == "tempbalance")


@pytest.mark.slow
def test_a_run_that_fails_is_recorded_with_the_script_s_own_error_and_the_rest_goes_on(folders):
    said = (folders[1] / "said").read_text()
    assert "6 runs are finished, 2 failed" in said
    assert "failed: broken--learning_rate=0.0001--seed1: exit code 1: ValueError: The hidden size (31)" in said
    left = collect(folders[1]).left_out
    assert "The hidden size (31)" in left["broken--learning_rate=0.01--seed1"]


@pytest.mark.slow
def test_what_is_finished_is_not_run_again_and_gives_the_minutes_of_a_dry_run(folders):
    file = str(folders[1].parent / "text.yaml")
    done = run_study("run", file, "--output_dir", str(folders[1]), "--dry-run", "--only", "[nt]*")
    lines = [line for line in done.out.splitlines() if line.startswith("finished")]
    assert len(lines) == 6 and all(line.endswith(" min") for line in lines), done.out + done.err


@pytest.mark.slow
def test_a_study_stops_where_no_run_can_count(tmp_path):
    content = STUDY | {"metric": "eval_acuracy", "maximize": True, "axes": {"method": ["none"]}, "seeds": [1, 2, 3]}
    content = {key: value for key, value in content.items() if key != "tune"}
    (tmp_path / "text.yaml").write_text(yaml.safe_dump(content))
    done = run_study("run", str(tmp_path / "text.yaml"), "--output_dir", str(tmp_path / "out"))
    assert done.code == 1
    assert "none--seed1 has finished and can't count: it has no eval_acuracy; it has eval_accuracy, " in done.err
    assert not (tmp_path / "out" / "runs" / "none--seed2" / "results.json").exists()
