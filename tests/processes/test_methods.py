"""Presets with DDP, FSDP2 and DeepSpeed: one set of multipliers on all ranks, and it reaches the inner optimizer."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from forked import run_ranks

from hf_tempbalance import TempBalancer


WORKER = Path(__file__).with_name("methods_worker.py")
WAYS = ["ddp", "fsdp", "zero1", "zero2", "zero3"]
METHODS = ["model-balancing", "alphadecay", "llr", "farms"]
pytestmark = [pytest.mark.slow, pytest.mark.extras]


@pytest.fixture(scope="module")
def worker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("methods_worker", WORKER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=WAYS)
def ranks(request, tmp_path_factory) -> list[dict[str, Any]]:
    """What each of two ranks saw with every preset."""
    if request.param.startswith("zero"):
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    folder = tmp_path_factory.mktemp(request.param)
    for rank in run_ranks(folder, 2, WORKER, request.param, str(folder)):
        assert rank.code == 0, rank.err[-4000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("method", METHODS)
def test_every_rank_has_the_same_multipliers_to_the_bit_and_they_are_those_of_one_process(ranks, method, worker):
    one, other = (rank[method] for rank in ranks)
    assert one["looks"] == other["looks"]
    for key in ("layers", "lr", "weight_decay"):
        assert [step[key] for step in one["steps"]] == [step[key] for step in other["steps"]]
    model = worker.llama()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    balancer = TempBalancer(model, optimizer, worker.preset(method))
    balancer.rebalance()
    (look,) = balancer.take_looks()
    assert one["looks"][0] == pytest.approx(look.multipliers, rel=1e-5)
    assert one["looks"][0] != one["looks"][-1]


@pytest.mark.parametrize("method", METHODS)
def test_the_inner_optimizer_steps_with_schedule_times_multiplier(ranks, method):
    for rank in ranks:
        steps = rank[method]["steps"]
        assert len(steps) > 3
        for step in steps:
            of_layer = {None: 1.0} | step["layers"]
            target = "weight_decay" if method == "alphadecay" else "lr"
            values = {"lr": set(), "weight_decay": set()}
            for name, lr, decay in step["seen"]:
                # A parameter's name, or with ZeRO that of the layer whose group it is.
                if name in step["lr"]:
                    factors = {"lr": step["lr"][name], "weight_decay": step["weight_decay"][name]}
                else:
                    factors = {"lr": 1.0, "weight_decay": 1.0} | {target: of_layer[name]}
                assert lr == pytest.approx(step["schedule"] * factors["lr"], rel=1e-12)
                assert decay in (0.0, pytest.approx(0.1 * factors["weight_decay"], rel=1e-12))
                values["lr"].add(lr)
                values["weight_decay"].add(decay)
            assert len(values[target]) > 2 and len(values["weight_decay"] - {0.0}) >= 1


def test_a_ramp_goes_up_by_the_same_part_at_every_step(ranks):
    found = ranks[0]["llr"]
    goal = found["looks"][0]["model.embed_tokens"]
    assert goal == 3.0
    steps = [step["layers"]["model.embed_tokens"] for step in found["steps"]]
    assert steps[:4] == pytest.approx([1 + 2 / 3, 1 + 4 / 3, 3, 3])
    assert [step["layers"]["lm_head"] for step in found["steps"]] == steps
