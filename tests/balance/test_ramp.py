"""Multipliers that change over some steps, and looks that end after a share of training."""

from __future__ import annotations

import json

import pytest
import torch
from tiny import ConvNet, Digits, mlp, trainer_settings
from transformers import Trainer, TrainingArguments

from hf_tempbalance import TempBalanceCallback, TempBalanceConfig, TempBalancer
from hf_tempbalance.runs.history import HISTORY_NAME, read_history


CONFIG = TempBalanceConfig(min_eigenvalues=1, ramp_steps=4, update_unit="step", update_interval=6)
INPUTS = torch.randn(16, 32, generator=torch.Generator().manual_seed(1))


def training():
    torch.manual_seed(0)
    model = mlp(32, 40, 44, 48, 40, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    rates = []
    optimizer.register_step_pre_hook(
        lambda opt, args, kwargs: rates.append(
            {id(p): g["lr"] / 0.5 for g in opt.param_groups for p in g["params"]}[id(model.fc2.weight)]
        )
    )

    def step() -> None:
        optimizer.zero_grad()
        model(INPUTS).square().mean().backward()
        optimizer.step()

    return model, TempBalancer(model, optimizer, CONFIG), step, rates


def test_the_kth_step_after_a_look_has_gone_k_parts_of_the_way():
    _, balancer, step, rates = training()
    balancer.rebalance()
    (first,) = balancer.take_looks()
    assert set(balancer.layer_multipliers.values()) == {1.0} and balancer.goal_multipliers == first.multipliers
    assert balancer.multiplier_mean == first.multiplier_mean
    for _ in range(6):
        step()
    goal = first.multipliers["fc2"]
    assert rates == pytest.approx([1 + (goal - 1) * k / 4 for k in (1, 2, 3, 4, 4, 4)])
    balancer.rebalance()
    (second,) = balancer.take_looks()
    step()
    assert rates[-1] == pytest.approx(goal + (second.multipliers["fc2"] - goal) / 4)


@pytest.mark.parametrize("after", [0, 2, 4, 5])
def test_a_run_that_is_resumed_in_the_middle_of_a_ramp_is_the_same(after):
    model, balancer, step, rates = training()
    balancer.rebalance()
    for _ in range(after):
        step()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = json.loads(json.dumps(balancer.state_dict(), allow_nan=False))
    other, resumed, other_step, other_rates = training()
    other.load_state_dict(weights)
    resumed.load_state_dict(state)
    for _ in range(6):
        step()
        other_step()
    assert other_rates == rates[after:]


def make(folder, **changes) -> Trainer:
    settings = {"num_train_epochs": 4, "save_strategy": "steps", "save_steps": 3}
    arguments = TrainingArguments(**trainer_settings(folder, **settings))
    config = TempBalanceConfig(**changes)
    torch.manual_seed(3)
    return Trainer(ConvNet(), arguments, train_dataset=Digits(128), callbacks=[TempBalanceCallback(config)])


def steps(folder) -> list[int]:
    return [look["step"] for look in read_history(folder / HISTORY_NAME)]


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, [0]), (0.25, [0, 2, 4]), (0.5, [0, 2, 4, 6, 8]), (1.0, [0, 2, 4, 6, 8, 10, 12, 14, 16])],
)
def test_after_the_active_share_no_look_is_made(tmp_path, share, expected):
    make(tmp_path, update_unit="step", update_interval=2, active_share=share).train()
    assert steps(tmp_path) == expected


def test_a_run_that_is_resumed_after_the_active_share_makes_no_look(tmp_path):
    settings = {"update_unit": "step", "update_interval": 2, "active_share": 0.25}
    whole = make(tmp_path / "whole", **settings)
    whole.train()
    resumed = make(tmp_path / "whole", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-9"))
    assert steps(tmp_path / "whole") == [0, 2, 4]
    pairs = zip(whole.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("interval", "expected"), [(0.5, [0, 2, 4, 6, 8]), (0.25, list(range(9))), (0.1, list(range(9)))]
)
def test_an_interval_may_be_a_fraction_of_an_epoch(tmp_path, interval, expected):
    arguments = TrainingArguments(**trainer_settings(tmp_path, num_train_epochs=2))
    callback = TempBalanceCallback(TempBalanceConfig(update_interval=interval))
    Trainer(ConvNet(), arguments, train_dataset=Digits(128), callbacks=[callback]).train()
    assert steps(tmp_path) == expected


def test_a_ramp_that_is_longer_than_the_interval_is_refused():
    with pytest.raises(ValueError, match="ramp_steps=5 is larger than update_interval=4"):
        TempBalanceConfig(update_unit="step", update_interval=4, ramp_steps=5)
