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
from transformers import Trainer, TrainerCallback, TrainingArguments


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny import Digits, mlp, trainer_settings

from hf_tempbalance import TempBalanceCallback, TempBalanceConfig, TempBalancer, TempBalanceTrainer


RANK, SIZE = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
WIDTHS = (64, 96, 128, 96, 64, 10)


class Classifier(nn.Module):
    """Linear layers and no BatchNorm, whose statistics would depend on the number of processes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp(*WIDTHS)

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = pixel_values.flatten(1).to(self.layers.fc0.weight.dtype)
        for layer in self.layers:
            logits = layer(logits).tanh()
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def report(task: str, folder: Path, **values) -> None:
    """This rank's results; floats keep all their digits in JSON."""
    (folder / f"{task}-{RANK}.json").write_text(json.dumps(values))


OVERLAPPED = TempBalanceConfig(overlap=True, overlap_steps=2)


def make_trainer(folder: Path, kind: str, *callbacks, model=None, tempbalance=None, **changes):
    settings = {"per_device_train_batch_size": 64 // SIZE, "num_train_epochs": 3, "optim_args": "momentum=0.9"}
    arguments = TrainingArguments(**trainer_settings(folder / "run", **(settings | changes)))
    data = {"train_dataset": Digits(256), "callbacks": list(callbacks)}
    if kind == "callback":
        data["callbacks"].append(TempBalanceCallback())
        return Trainer(model or Classifier(), arguments, **data)
    return TempBalanceTrainer(model or Classifier(), arguments, **data, tempbalance=tempbalance or TempBalanceConfig())


def balancer_of(trainer) -> TempBalancer:
    return next(c for c in trainer.callback_handler.callbacks if isinstance(c, TempBalanceCallback)).balancer


def train(folder: Path, kind: str) -> None:
    """A Trainer with TempBalance from start to end."""
    trainer = make_trainer(folder, kind, model=Classifier().double())
    trainer.train()
    weights = {name: value.double().sum().item() for name, value in trainer.model.state_dict().items()}
    report(kind, folder, size=SIZE, multipliers=balancer_of(trainer).lr_multipliers, weights=weights)


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


def fsdp(folder: Path, config: TempBalanceConfig | None = None) -> None:
    """FSDP2: sharded weights, in a bare loop; and the same loop in one process."""
    from torch.distributed.fsdp import fully_shard

    if SIZE > 1:
        dist.init_process_group("gloo")
    model = Classifier().double()
    if SIZE > 1:
        from torch.distributed.device_mesh import init_device_mesh

        mesh = init_device_mesh("cpu", (SIZE,))
        for layer in model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    balancer = TempBalancer(model, optimizer, config)
    rates = {}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer.register_step_pre_hook(
        lambda opt, args, kwargs: rates.update(
            {names[id(p)]: group["lr"] for group in opt.param_groups for p in group["params"]}
        )
    )
    data = Digits(256)
    looks = []
    for epoch in range(3):
        if balancer.config.overlap and epoch:
            balancer.begin_look()
            spectra = []  # nothing is known yet
        else:
            spectra = balancer.rebalance()
        looks.append({spectrum.name: spectrum.alpha for spectrum in spectra})
        for start in range(0, 256, 64):
            part = slice(start + RANK * 64 // SIZE, start + (RANK + 1) * 64 // SIZE)
            model(data.images[part], data.labels[part])["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():  # an evaluation leaves weights gathered, under other tensors
        model(data.images[:8], data.labels[:8])
    task = "fsdp" if config is None else "fsdp_overlapped"
    report(task, folder, looks=looks, rates=rates, multipliers=balancer.lr_multipliers)


def fsdp_overlapped(folder: Path) -> None:
    """The same with looks beside training, each in force two steps later."""
    fsdp(folder, OVERLAPPED)


def deepspeed(folder: Path, stage: int, *, overlap: bool) -> None:
    """DeepSpeed ZeRO through TempBalanceTrainer; the rates are read where DeepSpeed's inner optimizer steps."""
    rates: list[dict[str, float]] = []
    multipliers: list[dict[str, float]] = []

    class Rates(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            multipliers.append(balancer_of(trainer).layer_multipliers)

        def on_train_begin(self, args, state, control, optimizer, **kwargs):
            inner = optimizer
            while hasattr(inner, "optimizer"):
                inner = inner.optimizer
            inner.register_step_pre_hook(
                lambda opt, args, kwargs: rates.append({g["layer"]: g["lr"] for g in opt.param_groups if g["params"]})
            )

    settings = {
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
    }
    changes = {"deepspeed": settings, "lr_scheduler_type": "constant", "tempbalance": OVERLAPPED if overlap else None}
    trainer = make_trainer(folder, "trainer", Rates(), **changes)
    trainer.train()
    last = {}
    for step in rates:  # ZeRO steps one group at a time
        last |= step
    kind = type(trainer.optimizer).__name__
    task = f"deepspeed{stage}" + ("_overlapped" if overlap else "")
    report(task, folder, optimizer=kind, rates=last, multipliers=multipliers)


def deepspeed_plain(folder: Path) -> None:
    """Flat parameters of a plain Trainer's two groups can't be told apart."""
    settings = {"zero_optimization": {"stage": 2}, "zero_allow_untested_optimizer": True}
    settings |= {"zero_force_ds_cpu_optimizer": False, "train_micro_batch_size_per_gpu": "auto"}
    try:
        make_trainer(folder, "callback", deepspeed=settings).train()
    except ValueError as error:
        report("deepspeed_plain", folder, error=str(error))


if __name__ == "__main__":
    task, folder = sys.argv[1], Path(sys.argv[2])
    torch.manual_seed(1)
    if task in ("callback", "trainer"):
        train(folder, task)
    elif task.removesuffix("_overlapped")[:-1] == "deepspeed":
        deepspeed(folder, int(task.removesuffix("_overlapped")[-1]), overlap=task.endswith("_overlapped"))
    else:
        globals()[task](folder)
    if dist.is_initialized():
        dist.destroy_process_group()
    # At exit torch's sharding threads and DeepSpeed's shared memory abort now and then: measured in one of 24 runs of
    # plain FSDP2 on a busy machine.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
