from __future__ import annotations

import warnings
from copy import deepcopy as copy_of

import pytest
import torch
from tiny import mlp
from torch import nn

from hf_tempbalance.balance.layer_groups import LayerGroups
from hf_tempbalance.balance.optimizer_check import check_optimizer
from hf_tempbalance.balance.virtual_groups import VirtualGroups


MULTIPLIERS = {None: 1.0, "a": 0.5, "b": 1.5}


def parameters() -> tuple[list[nn.Parameter], dict[int, str]]:
    """Three matrices, the second in layer a and the third in layer b, each with a gradient."""
    weights = [nn.Parameter(torch.randn(4, 4)) for _ in range(3)]
    for weight in weights:
        weight.grad = torch.randn(4, 4)
    return weights, {id(weights[1]): "a", id(weights[2]): "b"}


def attach(optimizer, owner) -> VirtualGroups:
    return VirtualGroups(optimizer, lambda p: owner.get(id(p)), lambda layer: {"lr": MULTIPLIERS[layer]})


OPTIMIZERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.1),
    "adamw_fused": lambda groups: torch.optim.AdamW(groups, lr=0.1, fused=True),
    "adamw_foreach": lambda groups: torch.optim.AdamW(groups, lr=0.1, foreach=True),
    "adagrad": lambda groups: torch.optim.Adagrad(groups, lr=0.1),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=0.1, centered=True),
    "adafactor": lambda groups: torch.optim.Adafactor(groups, lr=0.1),
}
if hasattr(torch.optim, "Muon"):  # torch 2.9
    OPTIMIZERS["muon"] = lambda groups: torch.optim.Muon(groups, lr=0.1)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_virtual_groups_step_as_real_groups_with_those_rates_bit_for_bit(make):
    weights, owner = parameters()
    twins = [nn.Parameter(weight.detach().clone()) for weight in weights]
    optimizer = make(weights)
    attach(optimizer, owner)
    real = make(
        [{"params": [twin], "lr": 0.1 * MULTIPLIERS[owner.get(id(w))]} for w, twin in zip(weights, twins, strict=True)]
    )
    plain = [weight.detach().clone() for weight in weights]
    for _ in range(5):
        for weight, twin in zip(weights, twins, strict=True):
            weight.grad = torch.randn(4, 4)
            twin.grad = weight.grad.clone()
        optimizer.step()
        real.step()
    for weight, twin, start in zip(weights, twins, plain, strict=True):
        assert torch.equal(weight, twin)
        assert not torch.equal(weight, start)


def test_outside_of_step_the_groups_are_the_plain_optimizer_s():
    weights, owner = parameters()
    optimizer = torch.optim.SGD(weights, lr=0.1)
    group, groups = optimizer.param_groups[0], optimizer.param_groups
    attach(optimizer, owner)
    optimizer.step()
    assert optimizer.param_groups is groups and groups == [group]
    assert group["lr"] == 0.1 and len(group["params"]) == 3


def test_inside_step_each_parameter_is_in_one_group_with_its_rate():
    weights, owner = parameters()
    optimizer = torch.optim.SGD(weights, lr=0.1)
    attach(optimizer, owner)
    seen = []
    optimizer.register_step_pre_hook(
        lambda opt, args, kwargs: seen.extend((id(p), g["lr"]) for g in opt.param_groups for p in g["params"])
    )
    optimizer.step()
    assert sorted(seen) == sorted((id(w), 0.1 * MULTIPLIERS[owner.get(id(w))]) for w in weights)


def test_an_exception_inside_step_leaves_nothing_behind():
    weights, owner = parameters()
    optimizer = torch.optim.SGD(weights, lr=0.1)
    attach(optimizer, owner)

    def out_of_memory(opt, args, kwargs):
        raise torch.OutOfMemoryError("simulated")

    handle = optimizer.register_step_pre_hook(out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        optimizer.step()
    assert [(group["lr"], len(group["params"])) for group in optimizer.param_groups] == [(0.1, 3)]
    handle.remove()
    before = weights[1].detach().clone()
    optimizer.step()
    assert torch.allclose(weights[1], before - 0.05 * weights[1].grad)


class CountsInGroup(torch.optim.SGD):
    """As some optimizers do: a step count, and a rate of its own, kept in the group."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["count"] = group.get("count", 0) + 1
            group["lr"] = group["lr"] / 2
            group["total"] += 1
        return super().step(closure)


def test_what_the_optimizer_writes_into_its_groups_survives_once():
    weights, owner = parameters()
    optimizer = CountsInGroup(weights, lr=0.1)
    optimizer.param_groups[0]["total"] = torch.zeros(())
    attach(optimizer, owner)
    optimizer.step()
    optimizer.step()
    group = optimizer.param_groups[0]
    assert group["count"] == 2
    assert group["total"] == 2
    assert group["lr"] == pytest.approx(0.025)


def test_a_rate_that_is_a_tensor_stays_one():
    weights, owner = parameters()
    optimizer = torch.optim.Adam(weights, lr=torch.tensor(0.1), foreach=False)
    attach(optimizer, owner)
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == torch.tensor(0.1)


@pytest.mark.parametrize("scheduler_first", [True, False])
def test_a_schedule_made_before_or_after_works_and_warns_of_nothing(scheduler_first):
    weights, owner = parameters()
    optimizer = torch.optim.SGD(weights, lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if scheduler_first:
            scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
            attach(optimizer, owner)
        else:
            attach(optimizer, owner)
            scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        for _ in range(3):
            optimizer.step()
            scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 8)


def test_detach_takes_it_off():
    weights, owner = parameters()
    optimizer = torch.optim.SGD(weights, lr=0.1)
    virtual = attach(optimizer, owner)
    virtual.detach()
    virtual.detach()
    assert "step" not in vars(optimizer)
    before = weights[1].detach().clone()
    optimizer.step()
    assert torch.allclose(weights[1], before - 0.1 * weights[1].grad)


def test_detach_under_somebody_else_s_wrapper_applies_no_multiplier():
    weights, owner = parameters()
    optimizer = torch.optim.SGD(weights, lr=0.1)
    virtual = attach(optimizer, owner)
    wrapped = optimizer.step
    optimizer.step = lambda: wrapped()
    virtual.detach()
    before = weights[1].detach().clone()
    optimizer.step()
    assert torch.allclose(weights[1], before - 0.1 * weights[1].grad)


def test_a_second_balancer_on_one_optimizer_is_refused():
    weights, owner = parameters()
    optimizer = torch.optim.SGD(weights, lr=0.1)
    attach(optimizer, owner)
    with pytest.raises(RuntimeError, match="balanced already"):
        attach(optimizer, owner)


class IgnoresItsGroups(torch.optim.SGD):
    """Steps all parameters with the rate it was made with."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter -= self.defaults["lr"] * parameter.grad


class Lomo(torch.optim.SGD):
    """Named as the optimizer that updates inside backward."""


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (lambda p: torch.optim.LBFGS(p), "LBFGS .* computes one step for all parameters"),
        (lambda p: IgnoresItsGroups(p, lr=0.1), "moved a parameter whose group has the rate 0"),
        (lambda p: Lomo(p, lr=0.1), "Lomo .* updates inside backward"),
        (lambda p: torch.optim.SGD(p[:1], lr=0.1), "holds 1 of the 3 parameters"),
        (lambda p: torch.optim.SGD([{"params": p, "train_mode": True}], lr=0.1), "schedule-free"),
        (lambda p: torch.optim.SGD([{"params": p, "lr": None}]), "computes its own learning rate"),
    ],
)
def test_an_optimizer_that_can_not_be_split_is_refused_in_one_sentence(optimizer, message):
    weights, _ = parameters()
    made = optimizer(weights)
    with pytest.raises(ValueError, match=message) as error:
        check_optimizer(made, weights)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_ordinary_optimizers_pass_and_are_not_touched_by_the_trial(make):
    weights, _ = parameters()
    optimizer = make(weights)
    before = [weight.detach().clone() for weight in weights]
    kept = copy_of(optimizer.state_dict())
    state = torch.get_rng_state()
    check_optimizer(optimizer, weights)
    assert torch.equal(torch.get_rng_state(), state)
    assert str(optimizer.state_dict()) == str(kept)
    assert all(torch.equal(weight, start) for weight, start in zip(weights, before, strict=True))


def layered(model: nn.Sequential) -> tuple[torch.optim.Optimizer, LayerGroups]:
    """AdamW with Trainer's two groups, split by layer; fc1 and fc2 are layers, fc0 and fc3 are untuned."""
    optimizer = two_groups(model)
    owner = {id(p): name for name in ("fc1", "fc2") for p in getattr(model, name).parameters()}
    return optimizer, LayerGroups(optimizer, lambda p: owner.get(id(p)))


def two_groups(model: nn.Sequential) -> torch.optim.AdamW:
    decayed = [p for p in model.parameters() if p.dim() == 2]
    rest = [p for p in model.parameters() if p.dim() == 1]
    return torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=0.1)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2) -> None:
    generator = torch.Generator().manual_seed(5)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 6, generator=generator)).square().mean().backward()
        optimizer.step()


def test_layer_groups_hold_every_parameter_once_with_its_decay_and_the_untuned_come_first():
    model = mlp(6, 6, 6, 6, 6)
    names = {id(p): name for name, p in model.named_parameters()}
    optimizer, _ = layered(model)
    groups = [(g["layer"], g["weight_decay"], [names[id(p)] for p in g["params"]]) for g in optimizer.param_groups]
    assert groups == [
        (None, 0.1, ["fc0.weight", "fc3.weight"]),
        (None, 0.0, ["fc0.bias", "fc3.bias"]),
        ("fc1", 0.1, ["fc1.weight"]),
        ("fc1", 0.0, ["fc1.bias"]),
        ("fc2", 0.1, ["fc2.weight"]),
        ("fc2", 0.0, ["fc2.bias"]),
    ]


def test_the_state_dict_of_layer_groups_is_the_plain_optimizer_s():
    model, twin = mlp(6, 6, 6, 6, 6), mlp(6, 6, 6, 6, 6)
    twin.load_state_dict(model.state_dict())
    optimizer, plain = layered(model)[0], two_groups(twin)
    train(model, optimizer)
    train(twin, plain)
    mine, expected = optimizer.state_dict(), plain.state_dict()
    assert mine["param_groups"] == expected["param_groups"]
    assert mine["state"].keys() == expected["state"].keys()
    for index, state in expected["state"].items():
        assert all(torch.equal(state[key], mine["state"][index][key]) for key in state)


@pytest.mark.parametrize("direction", ["plain to layered", "layered to plain", "layered to layered"])
def test_after_a_load_both_go_on_in_lock_step(direction):
    model = mlp(6, 6, 6, 6, 6)
    source, target = direction.split(" to ")
    optimizer = layered(model)[0] if source == "layered" else two_groups(model)
    train(model, optimizer)
    copy = mlp(6, 6, 6, 6, 6)
    copy.load_state_dict(model.state_dict())
    loaded = layered(copy)[0] if target == "layered" else two_groups(copy)
    loaded.load_state_dict(copy_of(optimizer.state_dict()))  # torch shares the tensors
    train(model, optimizer, 3)
    train(copy, loaded, 3)
    for one, other in zip(model.parameters(), copy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_state_of_another_model_is_refused():
    optimizer, _ = layered(mlp(6, 6, 6, 6, 6))
    other = two_groups(mlp(6, 6, 6))
    with pytest.raises(ValueError, match=r"groups of \[2, 2\] parameters, this model's optimizer has \[4, 4\]"):
        optimizer.load_state_dict(other.state_dict())


def test_a_schedule_s_state_is_exchanged_with_a_plain_one():
    model = mlp(6, 6, 6, 6, 6)
    optimizer, groups = layered(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    groups.adapt_scheduler(schedule)
    plain = two_groups(model)
    plain_schedule = torch.optim.lr_scheduler.LambdaLR(plain, lambda step: 1 / (step + 1))
    for _ in range(3):
        optimizer.step()
        schedule.step()
    assert len(schedule.state_dict()["base_lrs"]) == 2
    plain_schedule.load_state_dict(schedule.state_dict())
    schedule.load_state_dict(plain_schedule.state_dict())
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(0.1 / 5)] * 6
