"""Looks beside training: on a copy, in force after a configured number of steps, and exact when resumed."""

from __future__ import annotations

import json
import threading

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from tiny import mlp
from torch import nn

from hf_tempbalance import TempBalanceConfig, TempBalancer, analyze
from hf_tempbalance.balance import spectrum_job as look
from hf_tempbalance.spectra import analysis


STEPS = 3
CONFIG = TempBalanceConfig(min_eigenvalues=1, overlap=True, overlap_steps=STEPS, update_unit="step", update_interval=5)
INPUTS = torch.randn(16, 32, generator=torch.Generator().manual_seed(1))


def network() -> nn.Module:
    torch.manual_seed(0)
    return mlp(32, 40, 44, 48, 40, 10)


def training(model: nn.Module, config: TempBalanceConfig = CONFIG):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    balancer = TempBalancer(model, optimizer, config)

    def step() -> None:
        optimizer.zero_grad()
        model(INPUTS).square().mean().backward()
        optimizer.step()

    return optimizer, balancer, step


def test_rebalance_waits():
    model = network()
    _, balancer, _ = training(model)
    assert balancer.rebalance() == analyze(model, CONFIG)
    assert balancer.pending_step is None and set(balancer.layer_multipliers.values()) != {1.0}


def test_multipliers_come_into_force_the_configured_number_of_steps_later_and_are_those_of_the_copied_weights():
    model = network()
    _, balancer, step = training(model)
    balancer.rebalance()
    for _ in range(5):
        step()
    before, expected = balancer.layer_multipliers, analyze(model, CONFIG)
    balancer.take_looks()
    balancer.begin_look()
    for _ in range(STEPS):
        step()
        assert balancer.layer_multipliers == before and balancer.take_looks() == []
    step()
    (look,) = balancer.take_looks()
    assert look.spectra == expected != analyze(model, CONFIG)
    assert balancer.layer_multipliers == look.multipliers != before
    assert (look.step, look.in_force) == (5, 5 + STEPS) and look.seconds > 0
    assert balancer.pending_step is None and balancer.take_looks() == []


def test_a_step_is_made_with_the_multipliers_in_force():
    """The same weights as a loop that sets the synchronous look's multipliers after the same number of steps."""
    model, other = network(), network()
    _, balancer, step = training(model)
    _, reference, other_step = training(other, TempBalanceConfig(min_eigenvalues=1))
    balancer.rebalance()
    reference.rebalance()
    due: dict[str, float] = {}
    for n in range(1, 21):
        step()
        if n % 5 == 0:
            balancer.begin_look()
        if n % 5 == STEPS + 1 and n > 5:
            reference.load_state_dict({"version": 1, "multipliers": due})
        other_step()
        if n % 5 == 0:
            kept = reference.state_dict()
            reference.rebalance()
            due = reference.layer_multipliers
            reference.load_state_dict(kept)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True)), n


def test_a_look_that_is_not_finished_is_waited_for_and_the_wait_is_known(monkeypatch):
    model = network()
    _, balancer, step = training(model)
    balancer.rebalance()
    begun, allowed = threading.Event(), threading.Event()
    original = analysis.squared_singular_values

    def slow(*arguments):
        begun.set()
        assert allowed.wait(20)
        return original(*arguments)

    monkeypatch.setattr(analysis, "squared_singular_values", slow)
    balancer.begin_look()
    for _ in range(STEPS):
        step()
    assert begun.wait(20) and balancer.is_looking
    assert "pending" not in balancer.state_dict()  # which waits for nothing
    threading.Timer(1, allowed.set).start()
    step()
    assert balancer.take_looks()[-1].waited > 0.1


def test_the_copy_keeps_precision_and_only_what_is_analysed(monkeypatch):
    model = nn.Sequential(nn.Embedding(50, 64), *mlp(64, 64, 64, 64, 64).bfloat16().children())
    copied = []
    original = look.as_stack

    def spy(tensor, kind):
        copied.append(tensor.dtype)
        return original(tensor, kind)

    monkeypatch.setattr(look, "as_stack", spy)
    balancer = TempBalancer(model, torch.optim.SGD(model.parameters(), lr=0.1), CONFIG)
    balancer.rebalance()
    balancer.begin_look()
    assert copied == [torch.bfloat16] * 4
    balancer.detach()


@pytest.mark.parametrize("after", range(STEPS + 2))
def test_a_run_that_is_resumed_in_the_middle_of_a_look_is_the_same(after):
    model = network()
    optimizer, balancer, step = training(model)
    balancer.rebalance()
    for _ in range(5):
        step()
    balancer.begin_look()
    for _ in range(after):
        step()
    balancer.wait()
    saved = {
        "model": {key: value.clone() for key, value in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "balancer": json.loads(json.dumps(balancer.state_dict(), allow_nan=False)),
    }
    saved["optimizer"] = json.loads(json.dumps(saved["optimizer"], default=lambda t: t.tolist()))
    other = network()
    other.load_state_dict(saved["model"])
    other_optimizer, resumed, other_step = training(other)
    state = saved["optimizer"]
    state["state"] = {
        int(key): {"momentum_buffer": torch.tensor(value["momentum_buffer"])} for key, value in state["state"].items()
    }
    other_optimizer.load_state_dict(state)
    resumed.load_state_dict(saved["balancer"])
    for _ in range(8):
        step()
        other_step()
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
        assert resumed.layer_multipliers == balancer.layer_multipliers
    if after <= STEPS:
        (resumed_look,) = resumed.take_looks()
        assert resumed_look == balancer.take_looks()[-1]


def test_steps_that_only_accumulate_gradients_are_not_counted():
    # All of a process's Accelerators and Trainers share the state of their data: this test has none of its own.
    plugin = GradientAccumulationPlugin(num_steps=2, sync_with_dataloader=False)
    accelerator = Accelerator(cpu=True, gradient_accumulation_plugin=plugin)
    model = network()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    balancer = TempBalancer(model, optimizer, CONFIG)
    balancer.rebalance()
    balancer.begin_look()
    balancer.wait()
    left = []
    for _ in range(2 * STEPS + 1):
        with accelerator.accumulate(model):
            accelerator.backward(model(INPUTS).square().mean())
            optimizer.step()
            optimizer.zero_grad()
        left.append(balancer.state_dict()["pending"]["steps_left"])
    assert left == [3, 2, 2, 1, 1, 0, 0]
    balancer.detach()


def test_a_new_look_brings_the_one_before_into_force():
    model = network()
    _, balancer, step = training(model, TempBalanceConfig(min_eigenvalues=1, overlap=True, overlap_steps=50))
    balancer.rebalance()
    step()
    expected = analyze(model, CONFIG)
    balancer.begin_look()
    step()
    balancer.begin_look()
    assert balancer.take_looks()[-1].spectra == expected and balancer.pending_step == 2
    balancer.detach()
    assert balancer.pending_step is None


def test_what_goes_wrong_beside_training_is_raised_when_the_result_is_due(monkeypatch):
    model = network()
    _, balancer, step = training(model)
    balancer.rebalance()

    def fail(*arguments):
        raise RuntimeError("no memory left")

    monkeypatch.setattr(analysis, "squared_singular_values", fail)
    balancer.begin_look()
    with pytest.raises(RuntimeError, match="no memory left"):
        for _ in range(STEPS + 1):
            step()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overlap_steps": 0}, "overlap_steps=0 is not allowed: it must be 1 or larger"),
        (
            {"overlap": True, "update_unit": "step", "update_interval": 5},
            "overlap_steps=10 is larger than update_interval=5",
        ),
    ],
)
def test_settings_that_can_not_work_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TempBalanceConfig(**options)
