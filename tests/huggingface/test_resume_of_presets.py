"""Every preset and control, stopped at the moment that is hardest for it and resumed, ends as if it went through."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from everywhere.models import MODELS
from tiny import trainer_settings
from transformers import Trainer, TrainingArguments

from hf_tempbalance import TempBalanceCallback, TempBalanceConfig, TempBalanceTrainer
from hf_tempbalance.presets import PRESETS
from hf_tempbalance.runs.history import HISTORY_NAME, read_history


SLOW = pytest.mark.slow
# Step after which a run of four epochs of four steps is stopped, and the settings.
LLR = {"update_interval": 4, "ramp_steps": 3, "active_share": 0.5}
STOPS = {
    "tempbalance, in an epoch": (6, "tempbalance", {}),
    "tempbalance-lm, between looks": (5, "tempbalance-lm", {"update_interval": 3}),
    "model-balancing, between looks in an epoch": (3, "model-balancing", {"update_interval": 0.5}),
    "farms, at the end of an epoch": (8, "farms", {"window_rows": 16}),
    "alphadecay, between looks": (5, "alphadecay", {"update_interval": 3}),
    "llr, in a ramp": (6, "llr", LLR),
    "llr, at a look": (4, "llr", LLR),
    "llr, after its share": (11, "llr", LLR),
    "llrd, in an epoch": (6, "llrd", {}),
    "shape-free, in an epoch": (6, "shape-free", {}),
    "shuffled": (6, "tempbalance", {"control": "shuffled"}),
    "frozen": (6, "tempbalance", {"control": "frozen"}),
    "frozen, in a ramp over several looks": (6, "tempbalance", {"control": "frozen", "ramp_steps": 7}),
    "by_type": (6, "tempbalance", {"control": "by_type"}),
}
OFTEN = [
    ("callback", "llr, in a ramp"),
    ("trainer", "llr, after its share"),
    ("callback", "model-balancing, between looks in an epoch"),
    ("trainer", "alphadecay, between looks"),
    ("callback", "frozen, in a ramp over several looks"),
]


def make(kind: str, folder: Path, config: TempBalanceConfig, save_steps: int) -> Trainer:
    torch.manual_seed(3)
    settings = {"num_train_epochs": 4, "per_device_train_batch_size": 8, "optim": "adamw_torch", "weight_decay": 0.1}
    settings |= {"learning_rate": 0.01, "save_strategy": "steps", "save_steps": save_steps}
    settings |= {"lr_scheduler_type": "cosine"}
    arguments = TrainingArguments(**trainer_settings(folder, **settings))
    rows = torch.randint(3, 99, (32, 8), generator=torch.Generator().manual_seed(1))
    data = {"train_dataset": [{"input_ids": row, "labels": row} for row in rows]}
    if kind == "callback":
        return Trainer(MODELS["Llama"](), arguments, **data, callbacks=[TempBalanceCallback(config)])
    return TempBalanceTrainer(MODELS["Llama"](), arguments, **data, tempbalance=config)


def looks_of(folder: Path) -> list[tuple]:
    """The history without the seconds, which no two runs share."""
    looks = read_history(folder / HISTORY_NAME)
    return [(look["step"], look["epoch"], look["multiplier_mean"], str(look["layers"])) for look in looks]


@pytest.mark.parametrize(
    ("kind", "stop"),
    [
        pytest.param(kind, stop, marks=() if (kind, stop) in OFTEN else SLOW)
        for kind in ("callback", "trainer")
        for stop in STOPS
    ],
)
def test_it_ends_as_the_run_that_was_never_stopped(tmp_path, kind, stop):
    step, preset, changes = STOPS[stop]
    config = TempBalanceConfig.preset(preset, **changes)
    whole = make(kind, tmp_path, config, step)
    whole.train()
    looks = looks_of(tmp_path)
    assert len(looks) > 2
    resumed = make(kind, tmp_path, config, step)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert looks_of(tmp_path) == looks
    pairs = zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    ends = [torch.optim.Optimizer.state_dict(trainer.optimizer.optimizer)["state"] for trainer in (whole, resumed)]
    for one, other in zip(ends[0].values(), ends[1].values(), strict=True):
        assert torch.equal(one["exp_avg"], other["exp_avg"]) and torch.equal(one["exp_avg_sq"], other["exp_avg_sq"])


def test_every_preset_is_stopped_somewhere():
    assert {preset for _, preset, _ in STOPS.values()} == set(PRESETS)
