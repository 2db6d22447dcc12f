"""Controls: the same multipliers without what a method claims about them, the same in every run and after a resume."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import mlp

from hf_tempbalance import TempBalanceConfig, TempBalancer
from hf_tempbalance.balance.controls import by_type, shuffled, type_of


names = st.lists(st.text("abc.", min_size=1), min_size=2, max_size=12, unique=True)


@given(names=names)
def test_shuffled_deals_the_same_multipliers_and_none_keeps_its_own(names):
    given = {name: float(position) for position, name in enumerate(names)}
    found = shuffled(given)
    assert sorted(found.values()) == sorted(given.values()) and found.keys() == given.keys()
    assert all(found[name] != given[name] for name in names)
    assert shuffled(given) == found


def test_shuffled_leaves_a_single_unit():
    assert shuffled({"a": 0.7}) == {"a": 0.7}


def test_by_type_is_the_mean_over_layers_that_differ_in_their_number_alone():
    found = by_type({"layer.0.q": 1.0, "layer.1.q": 2.0, "layer.0.k": 5.0, "layer.1.k": 7.0})
    assert found == {"layer.0.q": 1.5, "layer.1.q": 1.5, "layer.0.k": 6.0, "layer.1.k": 6.0}
    assert type_of("h.10.attn.c_attn") == "h.*.attn.c_attn"


def training(control: str):
    torch.manual_seed(0)
    model = mlp(48, 48, 48, 48, 48, 48)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    config = TempBalanceConfig(min_eigenvalues=1, control=control)
    return model, TempBalancer(model, optimizer, config)


def test_frozen_keeps_the_multipliers_of_the_first_look_also_after_a_resume():
    model, balancer = training("frozen")
    balancer.rebalance()
    first = balancer.layer_multipliers
    with torch.no_grad():
        model.fc2.weight.copy_(torch.distributions.StudentT(2.5).sample((48, 48)))
    balancer.rebalance()
    assert balancer.layer_multipliers == first
    state = json.loads(json.dumps(balancer.state_dict()))
    other, resumed = training("frozen")
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(state)
    resumed.rebalance()
    assert resumed.layer_multipliers == first


def test_by_type_with_layers_of_one_type_is_refused_in_one_sentence():
    model = torch.nn.Sequential(*(torch.nn.Linear(48, 48) for _ in range(5)))
    with pytest.raises(ValueError, match="control='by_type' needs layers of two types or more, and all are "):
        TempBalancer(
            model, torch.optim.SGD(model.parameters(), lr=0.1), TempBalanceConfig(min_eigenvalues=1, control="by_type")
        )


def test_frozen_in_the_middle_of_a_ramp_goes_on_to_the_multipliers_of_the_first_look():
    torch.manual_seed(0)
    model = mlp(48, 48, 48, 48, 48, 48)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    config = TempBalanceConfig(min_eigenvalues=1, control="frozen", ramp_steps=4)
    balancer = TempBalancer(model, optimizer, config)
    balancer.rebalance()
    optimizer.step()
    balancer.rebalance()  # an epoch may be shorter than the ramp
    first, second = balancer.take_looks()
    assert second.multipliers == first.multipliers
