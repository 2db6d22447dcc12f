"""What the tests of several processes run in each: ``worker.py TASK FOLDER``; writes ``FOLDER/TASK-RANK.json``."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from transformers import TrainerCallback


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from everywhere.rank import RANK, SIZE, TASKS, WIDTHS, make_trainer, report, run
from tiny import mlp

from hf_tempbalance import TempBalanceConfig, TempBalancer


def looks_differ(folder: Path) -> None:
    """Ranks hold different weights on purpose; every rank must still hold the same multipliers."""
    dist.init_process_group("gloo")
    torch.manual_seed(100 + RANK)
    model = mlp(*WIDTHS)
    balancer = TempBalancer(model, torch.optim.SGD(model.parameters(), lr=0.1))
    balancer.rebalance()
    report("looks_differ", folder, multipliers=balancer.layer_multipliers, weight=model.fc1.weight.sum().item())


def overlapped(folder: Path) -> None:
    """A look every 5 steps, in force 3 steps later, in a loop that saves and resumes in the middle of one."""
    dist.init_process_group("gloo")
    config = TempBalanceConfig(overlap=True, overlap_steps=3, update_unit="step", update_interval=5)

    def make():
        torch.manual_seed(0)
        model = nn.parallel.DistributedDataParallel(mlp(*WIDTHS))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        return model, optimizer, TempBalancer(model, optimizer, config)

    def go_on(model, optimizer, balancer, steps: range) -> list[dict[str, float]]:
        """The multipliers in force at each step."""
        found = []
        for step in steps:
            torch.manual_seed(100 * step + RANK)
            model(torch.randn(4, WIDTHS[0])).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            found.append(balancer.layer_multipliers)
            if step % 5 == 0:
                balancer.begin_look()
        return found

    model, optimizer, balancer = make()
    balancer.rebalance()
    multipliers = go_on(model, optimizer, balancer, range(1, 13))
    balancer.wait()
    saved = json.dumps(balancer.state_dict()), {k: v.clone() for k, v in model.state_dict().items()}
    multipliers += go_on(model, optimizer, balancer, range(13, 21))
    resumed, optimizer, other = make()
    resumed.load_state_dict(saved[1])
    other.load_state_dict(json.loads(saved[0]))
    again = go_on(resumed, optimizer, other, range(13, 21))
    for one in (balancer, other):
        one.wait()  # what both ranks have begun, both end
        one.detach()
    report("overlapped", folder, multipliers=multipliers, resumed=again)


def nan_on_one_rank(folder: Path) -> None:
    """NaN appears in one layer of the last rank only, in the middle of training."""
    dist.init_process_group("gloo")
    model = mlp(*WIDTHS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    balancer = TempBalancer(model, optimizer)
    messages = []
    for step in range(1, 511):
        if step == 500 and RANK == SIZE - 1:
            for layer in model:
                layer.weight.data[0, 0] = math.nan
        if step % 10 == 0:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                balancer.rebalance()
            messages += [(step, str(warning.message)) for warning in caught]
        model(torch.ones(2, WIDTHS[0])).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    report("nan_on_one_rank", folder, multipliers=balancer.layer_multipliers, messages=messages)


def failure_on_one_rank(folder: Path) -> None:
    """One rank runs out of memory in a look; all have to hear of it."""
    import hf_tempbalance.spectra.analysis as analysis

    dist.init_process_group("gloo")
    model = mlp(*WIDTHS)
    balancer = TempBalancer(model, torch.optim.SGD(model.parameters(), lr=0.1))
    if RANK == 1:

        def out_of_memory(*ignored):
            raise torch.OutOfMemoryError("CUDA out of memory. (simulated)")

        analysis.squared_singular_values = out_of_memory
    try:
        balancer.rebalance()
    except RuntimeError as error:
        report("failure_on_one_rank", folder, error=str(error))


def other_model_on_one_rank(folder: Path) -> None:
    dist.init_process_group("gloo")
    model = mlp(64, 64, 64 + 32 * RANK, 64, 10)
    balancer = TempBalancer(model, torch.optim.SGD(model.parameters(), lr=0.1))
    try:
        balancer.rebalance()
    except RuntimeError as error:
        report("other_model_on_one_rank", folder, error=str(error))


def killed(folder: Path) -> None:
    """Rank 1 is killed inside its second look; the others are waiting for its share."""

    class Kill(TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs):
            if RANK == 1:
                os.kill(os.getpid(), signal.SIGKILL)

    make_trainer(folder, "callback", Kill()).train()
    report("killed", folder)


def deepspeed_plain(folder: Path) -> None:
    """Flat parameters of a plain Trainer's two groups can't be told apart."""
    settings = {"zero_optimization": {"stage": 2}, "zero_allow_untested_optimizer": True}
    settings |= {"zero_force_ds_cpu_optimizer": False, "train_micro_batch_size_per_gpu": "auto"}
    try:
        make_trainer(folder, "callback", deepspeed=settings).train()
    except ValueError as error:
        report("deepspeed_plain", folder, error=str(error))


OWN = (
    looks_differ,
    overlapped,
    nan_on_one_rank,
    failure_on_one_rank,
    other_model_on_one_rank,
    killed,
    deepspeed_plain,
)


if __name__ == "__main__":
    run(TASKS | {task.__name__: task for task in OWN})
