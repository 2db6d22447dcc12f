"""What reaches the trackers: TensorBoard's and Trackio's own files, written by a real run and read back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import ConvNet, Digits, mlp
from transformers import Trainer, TrainingArguments
from transformers.integrations import TensorBoardCallback

from hf_tempbalance import (
    TempBalanceCallback,
    TempBalanceConfig,
    TempBalanceTrainer,
    TempBalanceTrainingArguments,
    analyze,
)
from hf_tempbalance.huggingface.scalars import parts, per_layer
from hf_tempbalance.runs.history import HISTORY_NAME, read_history


CONFIG = TempBalanceConfig(min_eigenvalues=1)
SUMMARY = {f"alpha_{name}" for name in ("mean", "min", "max", "std")} | {"multiplier_min", "multiplier_max", "seconds"}


def arguments(kind: type, folder: Path, **options):
    shared = {"num_train_epochs": 2, "per_device_train_batch_size": 32, "logging_strategy": "epoch", "use_cpu": True}
    return kind(str(folder), **(shared | options))


def tensorboard(folder: Path) -> dict[str, dict[int, float]]:
    """Tag without "train/" -> step -> value."""
    (run,) = (folder / "runs").iterdir()
    events = EventAccumulator(str(run))
    events.Reload()
    tags = events.Tags()["scalars"]
    return {tag.removeprefix("train/"): {event.step: event.value for event in events.Scalars(tag)} for tag in tags}


def test_tensorboard_gets_the_looks_of_a_tempbalance_trainer_at_their_steps(tmp_path):
    args = arguments(TempBalanceTrainingArguments, tmp_path, report_to=["tensorboard"])
    TempBalanceTrainer(ConvNet(), args, train_dataset=Digits(128), tempbalance=CONFIG).train()
    scalars = tensorboard(tmp_path)
    assert {f"tempbalance/{name}" for name in SUMMARY} <= scalars.keys()
    looks = read_history(tmp_path / HISTORY_NAME)
    for layer in ("conv2", "conv3", "conv4", "conv5"):
        for field in ("alpha", "multiplier"):
            expected = {
                look["step"]: next(entry[field] for entry in look["layers"] if entry["name"] == layer)
                for look in looks
            }
            assert scalars[f"tempbalance/{field}/{layer}"] == pytest.approx(expected, rel=1e-6)
    assert scalars["loss"].keys() == {4, 8}


def test_the_console_has_a_line_an_epoch_and_log_history_has_all(tmp_path, capsys):
    args = arguments(TempBalanceTrainingArguments, tmp_path, report_to=["tensorboard"], disable_tqdm=True)
    trainer = TempBalanceTrainer(ConvNet(), args, train_dataset=Digits(128), tempbalance=CONFIG)
    trainer.train()
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()] == ["TempBalance:", "epoch", "1/2", "2/2", "8"]
    kept = [entry for entry in trainer.state.log_history if "tempbalance/alpha/conv3" in entry]
    assert len(kept) == 3  # one a look


def test_a_callback_alone_reaches_the_trackers_that_come_behind_it(tmp_path):
    callbacks = [TempBalanceCallback(CONFIG), TensorBoardCallback()]
    args = arguments(TrainingArguments, tmp_path / "behind", report_to="none")
    Trainer(ConvNet(), args, train_dataset=Digits(128), callbacks=callbacks).train()
    scalars = tensorboard(tmp_path / "behind")
    assert {f"tempbalance/{name}" for name in SUMMARY} <= scalars.keys()
    looks = read_history(tmp_path / "behind" / HISTORY_NAME)
    lowest = {look["step"]: min(s["alpha"] for s in look["layers"] if not s["excluded_by"]) for look in looks[1:]}
    assert scalars["tempbalance/alpha_min"] == pytest.approx(lowest, rel=1e-6)


def test_a_callback_alone_does_not_reach_those_of_report_to(tmp_path):
    args = arguments(TrainingArguments, tmp_path, report_to=["tensorboard"])
    trainer = Trainer(ConvNet(), args, train_dataset=Digits(128), callbacks=[TempBalanceCallback(CONFIG)])
    trainer.train()
    assert [tag for tag in tensorboard(tmp_path) if "tempbalance" in tag] == []
    assert [entry for entry in trainer.state.log_history if "tempbalance/alpha_min" in entry]


TRACKIO = """
import sys
from tiny import ConvNet, Digits
from hf_tempbalance import TempBalanceConfig, TempBalanceTrainer, TempBalanceTrainingArguments
args = TempBalanceTrainingArguments(sys.argv[1], num_train_epochs=2, per_device_train_batch_size=32, use_cpu=True,
    logging_strategy="epoch", report_to=["trackio"], project="balanced", run_name="first")
config = TempBalanceConfig(min_eigenvalues=1)
TempBalanceTrainer(ConvNet(), args, train_dataset=Digits(128), tempbalance=config).train()
"""
READ = """
import json
from trackio.sqlite_storage import SQLiteStorage
print(json.dumps(SQLiteStorage.get_logs("balanced", "first")))
"""


@pytest.mark.slow
def test_trackio_gets_the_looks(tmp_path):

    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": str(Path(__file__).parents[1])}
    for code in (TRACKIO, READ):
        command = [sys.executable, "-c", code, str(tmp_path / "run")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    logs = json.loads(done.stdout.splitlines()[-1])
    looks = read_history(tmp_path / "run" / HISTORY_NAME)
    for field in ("alpha", "multiplier"):
        expected = [next(entry[field] for entry in look["layers"] if entry["name"] == "conv4") for look in looks]
        key = f"train/tempbalance/{field}/conv4"
        assert [log[key] for log in logs if key in log] == pytest.approx(expected)


def test_all_layers_are_logged_on_request(tmp_path):
    model = mlp(*[8] * 31)
    config = TempBalanceConfig(min_eigenvalues=1, exclude_first=False, exclude_last=False)
    spectra = analyze(model, config)
    multipliers = {spectrum.name: 1.25 for spectrum in spectra}
    every = per_layer(spectra, multipliers, "all")
    assert len(every) == 60 and every["tempbalance/alpha/fc7"] == spectra[7].alpha
    few = per_layer(spectra, multipliers, "parts")
    assert few["tempbalance/alpha/fc0-fc1"] == pytest.approx((spectra[0].alpha + spectra[1].alpha) / 2)
    assert len(few) == 30 and few["tempbalance/multiplier/fc28-fc29"] == 1.25
    with pytest.raises(ValueError, match="log_layers='some' is not allowed: it must be one of 'parts', 'all'"):
        TempBalanceTrainingArguments(str(tmp_path), log_layers="some")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([f"layer{i}.{j}.conv{k}" for i in range(1, 5) for j in range(2) for k in (1, 2)], ["layer1", "layer2"]),
        ([f"bert.encoder.layer.{i}.output.dense" for i in range(12)], [f"bert.encoder.layer.{i}" for i in range(2)]),
        (
            [f"model.layers.{i}.mlp.{p}" for i in range(32) for p in "abc"],
            ["model.layers.0-model.layers.1", "model.layers.2-model.layers.3"],
        ),
        (["a", "b"], ["a", "b"]),
        ([], []),
    ],
)
def test_parts_are_stages_and_blocks_in_order(names, expected):
    found = parts(names)
    labels = list(dict.fromkeys(found.values()))
    assert list(found) == names and labels[:2] == expected and len(labels) <= 16
