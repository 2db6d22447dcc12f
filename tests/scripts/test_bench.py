"""The benchmark measures the same thing for all: contenders agree, and memory stays within its bounds."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path

import bench
import pytest
import torch
from benchmarks import share, solvers, step
from benchmarks.processes import shared_look
from benchmarks.race import Worker
from benchmarks.scale import LLAMAS, RANKS, predict, shapes_of
from benchmarks.share import Training
from tiny import mlp

from hf_tempbalance.spectra.analysis import decomposition_cost


SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("contenders", "fit", "tolerance"),
    [
        (["ours", "loop"], "median", 1e-4),
        (["ours", "loop"], "goodness-of-fit", 1e-3),  # in the loop's spectra of float32 another start may be as good
        pytest.param(["ours, from a file", "WeightWatcher"], "goodness-of-fit", 1e-3, marks=pytest.mark.extras),
    ],
)
def test_contenders_find_the_same_exponents(contenders, fit, tolerance):
    found = []
    for contender in contenders:
        worker = Worker(contender, "ResNet18", fit, "cpu")
        found.append(worker.ask("run")["alphas"])
        worker.close()
    ours, theirs = found
    common = ours.keys() & theirs.keys()
    assert len(common) >= 20
    apart = [name for name in common if abs(ours[name] / theirs[name] - 1) > tolerance]
    assert len(apart) <= (0 if contenders[1] == "loop" else 2)  # WeightWatcher leaves small eigenvalues out


@pytest.mark.slow
def test_our_alpha_is_that_of_float64():
    worker = Worker("ours", "WRN16-8", "median", "cpu")
    worker.ask("run")
    checked = worker.ask("check")
    worker.close()
    assert checked["worst"] < 1e-4 and checked["layers"] > 10


@pytest.mark.slow
def test_a_worker_that_fails_says_why():
    with pytest.raises(ValueError, match="'nobody'"):
        Worker("nobody", "ResNet18", "median", "cpu").ask("run")


def memory(name: str) -> dict:
    command = [sys.executable, "-m", "benchmarks.memory", name]
    done = subprocess.run(command, cwd=SCRIPTS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_file_of_1_gb_takes_at_most_300_mb():
    assert memory("file of 1 GB")["extra"] < 300e6


@pytest.mark.slow
def test_a_look_takes_at_most_the_largest_batch_of_gram_matrices_and_a_tenth():
    found = memory("ResNet18")
    assert found["extra"] < 1.1 * found["largest"]


def test_the_fastest_solver_of_a_side_is_one_that_is_right(monkeypatch, capsys):
    def wrong(gram):
        return torch.zeros(gram.shape[:2])

    def lacking(gram):
        raise RuntimeError("this build lacks it")

    monkeypatch.setattr(solvers, "SIDES", (32, 64))
    monkeypatch.setattr(solvers, "ON_CPU", solvers.ON_CPU | {"wrong": wrong, "lacking": lacking})
    rows = list(solvers.solvers(Namespace(device="cpu", rounds=2)))
    assert [row["side"] for row in rows] == [32, 64]
    assert all(
        len(row["seconds"]) == len(solvers.ON_CPU) - 2 and set(row["failed"]) == {"wrong", "lacking"} for row in rows
    )
    printed = capsys.readouterr().out
    assert "lacking: this build lacks it" in printed and "wrong: its values are off by" in printed


def test_a_solver_that_would_take_too_long_is_not_tried_and_torch_always_is():
    smaller = {
        "side": 1024,
        "matrices": 8,
        "seconds": {"jacobi": [4.0], "torch": [4.0], "magma": [0.01]},
        "failed": {},
    }
    row = {"side": 2048, "matrices": 8}
    solvers.refuse_what_takes_too_long("magma", row, smaller)
    solvers.refuse_what_takes_too_long("torch", row, smaller)
    with pytest.raises(RuntimeError, match="too slow: from side 2048"):
        solvers.refuse_what_takes_too_long("jacobi", row, smaller)
    larger = row | {"seconds": {}, "failed": {"jacobi": "too slow: from side 2048 more than 5 s are expected"}}
    with pytest.raises(RuntimeError, match="too slow: from side 2048"):
        solvers.refuse_what_takes_too_long("jacobi", {"side": 4096, "matrices": 1}, larger)


def test_the_package_s_table_is_never_that_of_a_cpu():
    with pytest.raises(ValueError, match="the package's table is that of a GPU"):
        list(solvers.solvers(Namespace(device="cpu", rounds=1, write_table=solvers.TABLE_PATH)))


def test_without_a_part_all_parts_run_and_their_rows_are_written(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "PARTS", {name: lambda options, name=name: [{"of": name}] for name in bench.PARTS})
    monkeypatch.setattr(sys, "argv", ["bench.py", "--json", str(tmp_path / "out" / "all.json")])
    bench.main()
    written = json.loads((tmp_path / "out" / "all.json").read_text())
    assert written.pop("machine")["device"] == "cpu"
    assert written == {name: [{"of": name}] for name in bench.PARTS} and len(written) == 11


def test_the_share_of_a_look_is_that_of_the_steps_between_two(monkeypatch, capsys):
    def loss(model, inputs):
        return model(inputs).square().mean()

    training = Training(lambda: mlp(64, 96, 64), lambda device: torch.randn(8, 64, device=device), loss, 50, 3)
    monkeypatch.setattr(share, "TRAININGS", {"ResNet18": training})
    (row,) = share.shares(Namespace(model=None, device="cpu", rounds=3))
    look, step = (statistics.median(row[what]) for what in ("look", "step"))
    assert len(row["look"]) == len(row["step"]) == 3 and row["share"] == pytest.approx(look / (50 * step))
    assert "50 steps" in capsys.readouterr().out


def test_the_prediction_is_the_load_of_the_rank_with_the_most_to_do():
    costs = {256: decomposition_cost(1, 256, 256) * 1e-9, 4096: decomposition_cost(1, 4096, 4096) * 1e-9}
    for sizes in LLAMAS.values():
        shapes = shapes_of(*sizes)
        total = sum(decomposition_cost(1, *shape) for shape in shapes) * 1e-9
        predicted = [predict(shapes, ranks, costs) for ranks in RANKS]
        assert predicted[0] == pytest.approx(total)
        assert predicted == sorted(predicted, reverse=True)
        largest = max(decomposition_cost(1, *shape) for shape in shapes) * 1e-9
        for ranks, seconds in zip(RANKS, predicted, strict=True):
            assert max(total / ranks, largest) <= seconds * (1 + 1e-12)
            assert seconds <= total / ranks + largest


@pytest.mark.slow
def test_processes_share_a_look_and_one_alone_is_timed_beside_them():
    seconds = shared_look(partial(mlp, 64, 96, 64), processes=2, rounds=2)
    assert {what: len(times) for what, times in seconds.items()} == {"together": 2, "alone": 2}
    assert min(seconds["together"] + seconds["alone"]) > 0


def test_a_step_of_every_contender_is_compared_to_the_plain_one(monkeypatch, capsys):
    monkeypatch.setattr(step, "MODELS", {"small": partial(mlp, 16, 64, 96, 64, 16)})
    rows = step.steps(Namespace(device="cpu", rounds=1, tiny=False))
    assert [row["optimizer"] for row in rows] == list(step.OPTIMIZERS)
    assert all(float(row[name].split()[0]) > 0 for row in rows for name in ("tuned", "equal", "real groups"))
    assert "40 pairs" in capsys.readouterr().out
