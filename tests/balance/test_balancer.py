from __future__ import annotations

import json
import warnings

import pytest
import torch
from tiny import ConvNet, mlp
from torch import nn

from hf_tempbalance import NoEffectWarning, TempBalanceConfig, TempBalancer
from hf_tempbalance.balance.assignment import assign_parameters
from hf_tempbalance.balance.layer_groups import LayerGroups


def loss(model: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return model(torch.randn(16, 1, 8, 8, generator=generator))["logits"].square().mean()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def test_every_parameter_is_stepped_with_its_own_layer_s_rate_and_none_is_missed(optimizer_rates):
    model = ConvNet()
    optimizer = sgd(model)
    seen = optimizer_rates(model, optimizer)
    balancer = TempBalancer(model, optimizer)
    balancer.rebalance()

    loss(model).backward()
    optimizer.step()

    assert set(seen) == {name for name, _ in model.named_parameters()}
    assert seen == {name: 0.1 * multiplier for name, multiplier in balancer.lr_multipliers.items()}
    assert len(set(seen.values())) > 1
    assert [group["lr"] for group in optimizer.param_groups] == [0.1]


def test_norms_follow_their_layer_and_excluded_layers_keep_1():
    model = ConvNet()
    balancer = TempBalancer(model, sgd(model))
    balancer.rebalance()
    multipliers = balancer.lr_multipliers
    for i in (2, 3, 4, 5):
        assert multipliers[f"bn{i}.weight"] == multipliers[f"bn{i}.bias"] == multipliers[f"conv{i}.weight"]
    assert {multipliers[name] for name in ("conv1.weight", "bn1.weight", "linear.weight", "linear.bias")} == {1.0}
    assert {min(multipliers.values()), max(multipliers.values())} == {0.5, 1.5}


def test_multipliers_are_1_before_the_first_look_and_then_training_is_plain_bit_for_bit():
    model, twin = ConvNet(), ConvNet()
    twin.load_state_dict(model.state_dict())
    optimizer, plain = sgd(model), sgd(twin)
    balancer = TempBalancer(model, optimizer)
    assert set(balancer.lr_multipliers.values()) == {1.0}
    for network, stepper in ((model, optimizer), (twin, plain)):
        for _ in range(3):
            stepper.zero_grad()
            loss(network).backward()
            stepper.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_a_layer_with_more_heavy_tails_gets_the_smaller_rate():
    model = mlp(100, 100, 100, 100, 100)
    with torch.no_grad():
        model.fc1.weight.copy_(torch.distributions.StudentT(2.5).sample((100, 100)))
        model.fc2.weight.copy_(torch.randn(100, 100))
    balancer = TempBalancer(model, sgd(model))
    alphas = {s.name: s.alpha for s in balancer.rebalance()}
    assert alphas["fc1"] < alphas["fc2"]
    assert balancer.layer_multipliers == {"fc1": 0.5, "fc2": 1.5}


def test_state_goes_through_json_and_is_in_force_after_loading():
    model = ConvNet()
    first = TempBalancer(model, sgd(model))
    first.rebalance()
    state = json.loads(json.dumps(first.state_dict()))
    second = TempBalancer(model, sgd(model))
    second.load_state_dict(state)
    assert second.lr_multipliers == first.lr_multipliers != dict.fromkeys(first.lr_multipliers, 1.0)


def test_a_state_of_other_layers_or_of_a_newer_version_is_refused():
    model = ConvNet()
    balancer = TempBalancer(model, sgd(model))
    with pytest.raises(ValueError, match=r"conv3"):
        balancer.load_state_dict({"version": 1, "multipliers": {"conv2": 1.0, "conv4": 1.0, "conv5": 1.0}})
    with pytest.raises(ValueError, match="version 3"):
        balancer.load_state_dict({"version": 3})


def test_a_layer_with_nan_keeps_1_with_a_warning_that_names_it_and_the_others_are_balanced():
    model = mlp(64, 64, 64, 64, 64, 64)
    balancer = TempBalancer(model, sgd(model))
    model.fc2.weight.data[0, 0] = float("nan")
    with pytest.warns(UserWarning, match="fc2: alpha is nan"):
        balancer.rebalance()
    assert balancer.layer_multipliers["fc2"] == 1.0
    assert sorted(balancer.layer_multipliers[name] for name in ("fc1", "fc3")) == [0.5, 1.5]


@pytest.mark.parametrize("fill", [0.0, float("nan"), float("inf")])
def test_weights_that_are_all_bad_give_1_everywhere_and_no_exception(fill):
    model = mlp(64, 64, 64, 64, 64)
    balancer = TempBalancer(model, sgd(model))
    for parameter in model.parameters():
        parameter.data.fill_(fill)
    with pytest.warns(UserWarning, match="fc[12]: alpha is nan"):
        balancer.rebalance()
    assert set(balancer.lr_multipliers.values()) == {1.0}


def test_one_tuned_layer_gets_1_and_says_that_nothing_changes():
    model = mlp(64, 64, 64, 64)
    balancer = TempBalancer(model, sgd(model))
    with pytest.warns(NoEffectWarning, match="every multiplier is 1"):
        balancer.rebalance()
    assert set(balancer.lr_multipliers.values()) == {1.0}


def test_equal_scores_give_1():
    model = mlp(64, 64, 64, 64, 64)
    model.fc2.weight.data.copy_(model.fc1.weight.data)
    balancer = TempBalancer(model, sgd(model))
    with pytest.warns(NoEffectWarning):
        balancer.rebalance()
    assert set(balancer.lr_multipliers.values()) == {1.0}


def test_a_frozen_layer_is_reported_and_not_in_the_score_range():
    model = mlp(64, 64, 64, 64, 64, 64)
    model.fc2.weight.requires_grad_(False)
    balancer = TempBalancer(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1))
    spectra = balancer.rebalance()
    assert [s.name for s in spectra if s.excluded_by == "frozen"] == ["fc2"]
    assert set(balancer.layer_multipliers) == {"fc1", "fc3"}
    assert sorted(balancer.layer_multipliers.values()) == [0.5, 1.5]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.LSTM(4, 4)), r"nothing to balance: each layer .*\s+0.weight_ih_l0 \(16, 4\): not_a_layer"),
        (mlp(64, 64, 64), r"(?s)fc0 \(64, 64\): first.*fc1 \(64, 64\): last"),
        (mlp(64, 20, 20, 64), r"fc1 \(20, 20\): min_eigenvalues"),
    ],
)
def test_a_model_without_a_layer_to_tune_is_refused_with_every_layer_and_its_rule(model, message):
    with pytest.raises(ValueError, match=message):
        TempBalancer(model, sgd(model))


def test_an_optimizer_of_another_model_is_refused():
    with pytest.raises(ValueError, match="holds 0 of the"):
        TempBalancer(ConvNet(), sgd(ConvNet()))


def test_detach_leaves_the_plain_optimizer():
    model = ConvNet()
    optimizer = sgd(model)
    TempBalancer(model, optimizer).detach()
    balancer = TempBalancer(model, optimizer)
    balancer.rebalance()
    balancer.detach()
    before = model.conv2.weight.detach().clone()
    loss(model).backward()
    optimizer.step()
    assert torch.allclose(model.conv2.weight, before - 0.1 * model.conv2.weight.grad)


def test_a_healthy_look_warns_of_nothing():
    model = ConvNet()
    balancer = TempBalancer(model, sgd(model), TempBalanceConfig(fit="goodness-of-fit"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        balancer.rebalance()


def test_a_step_that_gradient_scaling_skips_moves_nothing_and_the_next_has_the_layer_s_rates(optimizer_rates):
    model = ConvNet()
    optimizer = sgd(model)
    seen = optimizer_rates(model, optimizer)
    balancer = TempBalancer(model, optimizer)
    balancer.rebalance()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    before = [parameter.detach().clone() for parameter in model.parameters()]

    scaler.scale(loss(model)).backward()
    model.conv3.weight.grad[0] = torch.inf
    scaler.step(optimizer)
    scaler.update()
    assert seen == {} and scaler.get_scale() == 2.0**9
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))

    optimizer.zero_grad()
    scaler.scale(loss(model)).backward()
    scaler.step(optimizer)
    assert seen == {name: 0.1 * multiplier for name, multiplier in balancer.lr_multipliers.items()}


def chained(optimizer):
    lr = torch.optim.lr_scheduler
    return lr.ChainedScheduler([lr.ExponentialLR(optimizer, 0.9), lr.StepLR(optimizer, 2)], optimizer)


def sequential(optimizer):
    lr = torch.optim.lr_scheduler
    return lr.SequentialLR(optimizer, [lr.LinearLR(optimizer, 0.1), lr.CosineAnnealingLR(optimizer, 4)], [2])


def one_cycle(optimizer):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)


def timm_cosine(optimizer):
    return pytest.importorskip("timm.scheduler").CosineLRScheduler(optimizer, t_initial=6, warmup_t=2)


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")  # SequentialLR's own call
@pytest.mark.parametrize("schedule", [chained, sequential, one_cycle, timm_cosine], ids=lambda make: make.__name__)
@pytest.mark.parametrize("has_layer_groups", [False, True], ids=["virtual groups", "layer groups"])
def test_schedules_of_torch_and_timm_meet_the_multiplier_once(schedule, has_layer_groups, optimizer_rates):
    model, plain = mlp(64, 64, 64, 64, 10), mlp(64, 64, 64, 64, 10)
    optimizer, other = (torch.optim.SGD(network.parameters(), lr=0.1) for network in (model, plain))
    if has_layer_groups:
        _, layer_of = assign_parameters(model, TempBalanceConfig())
        LayerGroups(optimizer, lambda parameter: layer_of.get(id(parameter)))
    seen = optimizer_rates(model, optimizer)
    balancer = TempBalancer(model, optimizer)
    ours, theirs = schedule(optimizer), schedule(other)
    rates = set()
    for step in range(1, 9):
        balancer.rebalance()
        for network, its_optimizer in ((model, optimizer), (plain, other)):
            its_optimizer.zero_grad()
            network(torch.ones(2, 64)).square().mean().backward()
            its_optimizer.step()
        rate = other.param_groups[0]["lr"]
        assert {group["lr"] for group in optimizer.param_groups} == {rate}
        assert seen == {name: rate * multiplier for name, multiplier in balancer.lr_multipliers.items()}
        rates.add(rate)
        for one in (ours, theirs):
            one.step(*([step] if schedule is timm_cosine else []))
    assert len(rates) > 3
