"""Whatever a damaged ``trainer_state.json`` has in our entry: it is read, or refused by a ValueError that names it."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest
import torch
from tiny import ConvNet
from transformers import TrainerState

from hf_tempbalance import TempBalanceCallback, TempBalanceConfig, TempBalancer
from hf_tempbalance.huggingface.callback_state import read_state


CONFIG = TempBalanceConfig(overlap=True, update_unit="step", update_interval=10)
WRONG = [None, -1, 10**400, 1e308 * 10, float("nan"), "text", "", [], [1, "a"], {}, {"a": None}, True, 0.5, [[[]]]]


def balancer_of(model) -> TempBalancer:
    return TempBalancer(model, torch.optim.SGD(model.parameters(), lr=0.1), CONFIG)


@pytest.fixture(scope="module")
def entry() -> dict[str, Any]:
    """What the callback keeps in the middle of an overlapped look."""
    torch.manual_seed(0)
    callback = TempBalanceCallback(CONFIG)
    callback.balancer = balancer_of(ConvNet())
    callback.balancer.rebalance()
    callback.balancer.begin_look(step=10, epoch=2.5)
    callback.balancer.wait()
    callback.last_look_step = 0
    return json.loads(json.dumps(callback.state(), allow_nan=False))


def read(entry: Any) -> Any:
    state = TrainerState(global_step=12, stateful_callbacks={"TempBalanceCallback": entry})
    return read_state(state, "TempBalanceCallback", balancer_of(ConvNet()), CONFIG)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Paths to every value in a JSON value."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


def changed(entry: Any, path: tuple, value: Any) -> Any:
    if not path:
        return value
    entry = copy.deepcopy(entry)
    holder = entry
    for key in path[:-1]:
        holder = holder[key]
    if value is ...:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return entry


def test_the_undamaged_state_is_read(entry):
    kept = read(entry)
    assert (kept.last_look_step, kept.is_known, kept.has_other_settings) == (0, True, False)


def test_no_other_exception_than_a_value_error_leaves_the_loader(entry):
    draw = random.Random(0)
    everywhere = places(entry)
    refused = 0
    for _ in range(400):
        path = draw.choice(everywhere)
        value = draw.choice([*WRONG, *([...] if path else [])])
        try:
            read(changed(entry, path, value))
        except ValueError as error:
            refused += 1
            assert "trainer_state.json" in str(error) and "TempBalanceCallback" in str(error), (path, value)
            assert len(str(error)) < 2000
    assert refused > 100


FIELDS = [
    ("attributes", "last_look_step"),
    ("attributes", "balancer_state", "version"),
    ("attributes", "balancer_state", "multipliers"),
    ("attributes", "balancer_state", "multipliers", "conv3"),
    ("attributes", "balancer_state", "pending", "steps_left"),
    ("attributes", "balancer_state", "pending", "epoch"),
    ("attributes", "balancer_state", "pending", "waited"),
    ("attributes", "balancer_state", "pending", "multipliers", "conv4"),
    ("attributes", "balancer_state", "pending", "spectra", 1, "alpha"),
    ("attributes", "balancer_state", "pending", "spectra", 1, "shape"),
]


GOOD = [("alpha", -7), ("shape", [1])]  # an exponent may be negative, and a shape is a list


@pytest.mark.parametrize(
    ("path", "value"),
    [(path, value) for path in FIELDS for value in ("text", [1], -7) if (path[-1], value) not in GOOD],
)
def test_a_field_that_is_text_or_a_list_or_negative_is_named(entry, path, value):
    with pytest.raises(ValueError, match=rf"{path[-1]} (is|has)"):
        read(changed(entry, path, value))
