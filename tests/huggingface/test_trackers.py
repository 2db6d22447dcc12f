"""What reaches the trackers: TensorBoard's and Trackio's own files, written by a real run and read back."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import ConvNet, Digits, mlp
from transformers import Trainer, TrainingArguments
from transformers.integrations import TensorBoardCallback

from hf_tempbalance import (
    LayerSpectrum,
    TempBalanceCallback,
    TempBalanceConfig,
    TempBalanceTrainer,
    TempBalanceTrainingArguments,
    analyze,
)
from hf_tempbalance.huggingface.scalars import labels_of, per_layer
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
            assert scalars[f"tb_{field}/{layer}"] == pytest.approx(expected, rel=1e-6)
    assert scalars["loss"].keys() == {4, 8}


def test_the_console_has_a_line_an_epoch_and_log_history_has_all(tmp_path, capsys):
    args = arguments(TempBalanceTrainingArguments, tmp_path, report_to=["tensorboard"], disable_tqdm=True)
    trainer = TempBalanceTrainer(ConvNet(), args, train_dataset=Digits(128), tempbalance=CONFIG)
    trainer.train()
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()] == ["TempBalance:", "epoch", "1/2", "2/2", "8"]
    kept = [entry for entry in trainer.state.log_history if "tb_alpha/conv3" in entry]
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
    assert [tag for tag in tensorboard(tmp_path) if tag.startswith(("tempbalance/", "tb_"))] == []
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
        key = f"train/tb_{field}/conv4"
        assert [log[key] for log in logs if key in log] == pytest.approx(expected)


def test_all_layers_are_logged_on_request(tmp_path):
    model = mlp(*[8] * 31)
    config = TempBalanceConfig(min_eigenvalues=1, exclude_first=False, exclude_last=False)
    spectra = analyze(model, config)
    multipliers = {spectrum.name: 1.25 for spectrum in spectra}
    every = per_layer(spectra, multipliers, "all")
    assert len(every) == 60 and every["tb_alpha/fc07"] == spectra[7].alpha
    few = per_layer(spectra, multipliers, "parts")
    assert few["tb_alpha/fc00-fc01"] == pytest.approx((spectra[0].alpha + spectra[1].alpha) / 2)
    assert len(few) == 30 and few["tb_multiplier/fc28-fc29"] == 1.25
    with pytest.raises(ValueError, match="log_layers='some' is not allowed: it must be one of 'parts', 'all'"):
        TempBalanceTrainingArguments(str(tmp_path), log_layers="some")


def found(*names: str, kind: str = "linear", excluded: tuple[str, ...] = ()) -> list[LayerSpectrum]:
    """Layers of these names, as a look finds them."""
    numbers = ("alpha", "alpha_hat", "xmin", "D", "spectral_norm", "norm", "stable_rank", "entropy")
    values = dict.fromkeys(numbers, 3.0) | {"shape": (8, 8), "num_eigenvalues": 8}
    return [
        LayerSpectrum(name=name, kind=kind, excluded_by="last" if name in excluded else None, **values)
        for name in names
    ]


def vit(blocks: int, stem: str = "vit.layers") -> list[str]:
    inside = [*(f"attention.{part}_proj" for part in "qkvo"), "mlp.fc1", "mlp.fc2"]
    return [f"{stem}.{block}.{name}" for block in range(blocks) for name in inside]


def test_a_transformer_has_a_part_for_each_block_and_one_for_each_role():
    layers = found(*vit(12), "classifier", excluded=("classifier",))
    labels = labels_of(layers, "parts")
    roles = ["attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down"]
    assert list(labels) == [f"L{block:02}" for block in range(12)] + roles
    assert labels["L03"] == [layer.name for layer in layers if ".3." in layer.name]
    assert labels["mlp.up"] == [f"vit.layers.{block}.mlp.fc1" for block in range(12)]
    multipliers = {name: 1 + block / 10 for block in range(12) for name in labels[f"L{block:02}"]}
    numbers = per_layer(layers, multipliers, "parts")
    assert numbers["tb_multiplier/L03"] == pytest.approx(1.3) and numbers["tb_multiplier/attn.k"] == pytest.approx(
        1.55
    )
    assert len(numbers) == 2 * 18 and numbers["tb_alpha/L11"] == 3


def test_many_blocks_are_joined_and_layers_outside_of_them_have_parts_of_their_own():
    layers = found("embed_tokens", *vit(32, "model.layers"), "pooler.dense")
    labels = list(labels_of(layers, "parts"))
    assert labels[:2] == ["L00-L01", "L02-L03"] and labels[16:18] == ["embed_tokens", "pooler.dense"]
    assert len(labels) == 16 + 2 + 6


def test_each_layer_s_key_is_short_and_sorts_by_depth():
    labels = labels_of(found(*vit(12)), "all")
    assert list(labels)[:2] == ["L00.attn.q", "L00.attn.k"] and labels["L11.mlp.down"] == ["vit.layers.11.mlp.fc2"]
    assert max(map(len, labels)) <= len("L00.mlp.down") and sorted(labels)[-1] == "L11.mlp.up"
    assert list(labels_of(found("f.conv_2", "f.conv_10"), "all")) == ["f.conv_02", "f.conv_10"]


@pytest.mark.parametrize("which", ["parts", "all"])
@pytest.mark.parametrize(
    "names",
    [
        ["a b", "a_b", "a:b"],  # all of them "a_b" in TensorBoard
        [f"{'x' * 200}{number}{'y' * 200}" for number in range(3)],
        [*vit(2), "attn.q", "L0", "L0.attn.q", "L0_attn.q"],  # named like the labels of others
        ["conv_1", "conv_01"],
        ["encoder.layers.0.attn.q", "decoder.layers.0.attn.q", "decoder.layers.0.cross_attn.q"],
    ],
)
def test_two_layers_never_share_a_key(names, which):
    labels = labels_of(found(*names), which)
    if which == "all":
        assert list(labels.values()) == [[name] for name in names]
    assert {name for layers in labels.values() for name in layers} == set(names)
    written = {re.sub(r"[^-/\w.]", "_", label) for label in labels}  # as TensorBoard does
    assert len(written) == len(labels) and max(map(len, written)) <= 64


def test_without_attention_the_parts_are_the_stages_in_order():
    resnet = [f"layer{i}.{j}.conv{k}" for i in range(1, 5) for j in range(2) for k in (1, 2)]
    labels = labels_of(found("conv1", *resnet, kind="conv2d"), "parts")
    assert list(labels) == ["conv1", "L1", "L2", "L3", "L4"] and labels["L2"] == resnet[4:8]
    assert labels_of([], "parts") == {} and list(labels_of(found("a", "b"), "parts")) == ["a", "b"]
