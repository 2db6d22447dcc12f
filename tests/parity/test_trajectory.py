"""Whole training runs against the reference implementation: every rate of every parameter, and the loss."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
from tiny import ConvNet, Digits, trainer_settings
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_tempbalance import (
    TempBalanceCallback,
    TempBalanceConfig,
    TempBalanceTrainer,
    TempBalanceTrainingArguments,
)


GOLDEN = Path(__file__).resolve().parents[1] / "golden"
RUNS = {
    "trajectory_7": TempBalanceConfig(),
    "trajectory_8": TempBalanceConfig(min_ratio=0.6, max_ratio=1.4, mapping="sqrt"),
}
# SHA-256 of the reference's initial weights: the seed's, as long as torch draws them as it did then.
WEIGHTS = {
    "trajectory_7": "19b15df12b8105d7a0d3554a5665f3eb035b5cf1a40af3b31738004013846540",
    "trajectory_8": "926a8f4922d43957f114488e5ccda6f78bb5dfa4a4bc24d2f479a492fb455152",
}


class RatesPerEpoch(TrainerCallback):
    """Keeps the rates of each epoch's last step."""

    def __init__(self, seen: dict[str, float]) -> None:
        self.seen, self.epochs = seen, []

    def on_epoch_end(self, args, state, control, **kwargs) -> None:
        self.epochs.append(dict(self.seen))


def initial_model(name: str) -> ConvNet:
    """The network that the reference began with, in float32."""
    torch.manual_seed(int(name.removeprefix("trajectory_")))
    model = ConvNet()
    weights = model.state_dict()
    drawn = hashlib.sha256(b"".join(weights[key].numpy().tobytes() for key in sorted(weights))).hexdigest()
    if drawn != WEIGHTS[name]:
        pytest.skip(f"torch {torch.__version__} draws other weights from this seed than the reference began with")
    return model


def run_with_trainer(name: str, expected: dict, model: ConvNet, record, folder: Path) -> list[dict[str, float]]:
    arguments = trainer_settings(
        folder,
        per_device_train_batch_size=expected["batch_size"],
        num_train_epochs=expected["epochs"],
        learning_rate=expected["sgd"]["lr"],
        optim_args="momentum=0.9",
        weight_decay=expected["sgd"]["weight_decay"],
        lr_scheduler_type="cosine",
        train_sampling_strategy="sequential",
    )
    trainer = TempBalanceTrainer(
        model,
        TempBalanceTrainingArguments(**arguments, weight_decay_on_all=True, scheduler_unit="epoch"),
        train_dataset=Digits(640, torch.float64),
        tempbalance=RUNS[name],
    )
    rates = RatesPerEpoch(record(model, trainer.create_optimizer()))
    trainer.add_callback(rates)
    trainer.train()
    return rates.epochs


def run_with_callback(name: str, expected: dict, model: ConvNet, record, folder: Path) -> list[dict[str, float]]:
    sgd = expected["sgd"]
    optimizer = torch.optim.SGD(
        model.parameters(), lr=sgd["lr"], momentum=sgd["momentum"], weight_decay=sgd["weight_decay"]
    )
    steps, epochs = 640 // expected["batch_size"], expected["epochs"]
    staircase = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * (step // steps) / epochs))
    )
    arguments = trainer_settings(
        folder,
        per_device_train_batch_size=expected["batch_size"],
        num_train_epochs=epochs,
        train_sampling_strategy="sequential",
    )
    rates = RatesPerEpoch(record(model, optimizer))
    trainer = Trainer(
        model,
        TrainingArguments(**arguments),
        train_dataset=Digits(640, torch.float64),
        optimizers=(optimizer, staircase),
        callbacks=[TempBalanceCallback(RUNS[name]), rates],
    )
    trainer.train()
    assert len(trainer.optimizer.param_groups) == 1
    return rates.epochs


@pytest.mark.parametrize("name", ["trajectory_7", pytest.param("trajectory_8", marks=pytest.mark.slow)])
@pytest.mark.parametrize("run", [run_with_trainer, run_with_callback])
def test_every_rate_and_loss_is_the_reference_s(name, run, optimizer_rates, tmp_path):
    expected = json.loads((GOLDEN / f"{name}.json").read_text())
    model = initial_model(name).double()

    epochs = run(name, expected, model, optimizer_rates, tmp_path)

    assert len(epochs) == len(expected["epochs_log"]) == 6
    steps = len(model.losses) // len(epochs)
    for number, (rates, log) in enumerate(zip(epochs, expected["epochs_log"], strict=True)):
        assert rates == pytest.approx(log["lr_by_parameter"], rel=1e-5)
        losses = model.losses[number * steps : (number + 1) * steps]
        assert sum(losses) / steps == pytest.approx(log["train_loss"], abs=1e-6)
