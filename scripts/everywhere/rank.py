"""One of several processes that train together: ``python -m everywhere.rank TASK FOLDER``.

Tasks: callback, trainer, fsdp, fsdp_overlapped, fsdp_trainer, deepspeed1 to deepspeed3 and each with _overlapped,
adamw_8bit, compiled. What the process found is written to ``FOLDER/TASK-RANK.json``. With EVERYWHERE_DEVICE=cuda
all of it is on GPUs, without it on the CPU.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_tempbalance import TempBalanceCallback, TempBalanceConfig, TempBalancer, TempBalanceTrainer


RANK, SIZE = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
DEVICE = os.environ.get("EVERYWHERE_DEVICE", "cpu")
WIDTHS = (64, 96, 128, 96, 64, 10)


class Classifier(nn.Module):
    """Linear layers and no BatchNorm, whose statistics would depend on the number of processes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({f"fc{i}": nn.Linear(a, b) for i, (a, b) in enumerate(itertools.pairwise(WIDTHS))})

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = pixel_values.flatten(1).to(self.layers["fc0"].weight.dtype)
        for layer in self.layers.values():
            logits = layer(logits).tanh()
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def digits(count: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    """The first of scikit-learn's digits in file order: images (count, 1, 8, 8) in -0.5 ... 0.5, and classes."""
    found = load_digits()
    images = torch.from_numpy(found.images[:count] / 16 - 0.5).float().unsqueeze(1)
    return images, torch.from_numpy(found.target[:count])


def report(task: str, folder: Path, **values) -> None:
    """This rank's results; floats keep all their digits in JSON."""
    (folder / f"{task}-{RANK}.json").write_text(json.dumps(values))


OVERLAPPED = TempBalanceConfig(overlap=True, overlap_steps=2)


def make_trainer(folder: Path, kind: str, *callbacks, model=None, tempbalance=None, **changes):
    """A Trainer for three epochs, with the callback or, for any other kind, a TempBalanceTrainer."""
    settings = {
        "output_dir": str(folder / "run"),
        "per_device_train_batch_size": 64 // SIZE,
        "num_train_epochs": 3,
        "learning_rate": 0.05,
        "optim": "sgd",
        "optim_args": "momentum=0.9",
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": DEVICE == "cpu",
        "seed": 7,
    }
    arguments = TrainingArguments(**(settings | changes))
    items = [{"pixel_values": image, "labels": label} for image, label in zip(*digits(), strict=True)]
    data = {"train_dataset": items, "callbacks": list(callbacks)}
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


def join() -> None:
    """Take part in the process group, with a GPU of one's own."""
    if DEVICE == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("gloo" if DEVICE == "cpu" else "nccl")


def trained(folder: Path, task: str, **changes) -> None:
    """TempBalanceTrainer with other arguments; whether the weights were sharded is told."""
    from torch.distributed.tensor import DTensor

    class Sharded(TrainerCallback):
        found = False

        def on_step_end(self, args, state, control, model, **kwargs):
            self.found = any(isinstance(parameter, DTensor) for parameter in model.parameters())

    trainer = make_trainer(folder, "trainer", Sharded(), **changes)
    trainer.train()
    sharded = next(c.found for c in trainer.callback_handler.callbacks if isinstance(c, Sharded))
    report(task, folder, multipliers=balancer_of(trainer).lr_multipliers, sharded=sharded)


def fsdp_trainer(folder: Path) -> None:
    """FSDP2 by Trainer, which shards on accelerators alone."""
    wrapping = {"version": 2, "auto_wrap_policy": "SIZE_BASED_WRAP", "min_num_params": 5000}
    trained(folder, "fsdp_trainer", fsdp="full_shard", fsdp_config=wrapping)


def adamw_8bit(folder: Path) -> None:
    """AdamW whose state has 8 bits, of bitsandbytes."""
    trained(folder, "adamw_8bit", optim="adamw_8bit", optim_args=None, learning_rate=0.002)


def compiled(folder: Path) -> None:
    """torch.compile; on a CPU its compiler would take most of the time."""
    backend = "eager" if DEVICE == "cpu" else "inductor"
    trained(folder, "compiled", torch_compile=True, torch_compile_backend=backend)


def fsdp(folder: Path, config: TempBalanceConfig | None = None) -> None:
    """FSDP2: sharded weights, in a bare loop; and the same loop in one process."""
    from torch.distributed.fsdp import fully_shard

    is_sharded = SIZE > 1 or DEVICE != "cpu"  # one GPU alone takes the same path
    if is_sharded:
        join()
    model = Classifier().double().to(DEVICE)
    if is_sharded:
        from torch.distributed.device_mesh import init_device_mesh

        mesh = init_device_mesh(DEVICE, (SIZE,))
        for layer in model.layers.values():
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
    images, labels = (part.to(DEVICE) for part in digits())
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
            model(images[part], labels[part])["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():  # an evaluation leaves weights gathered, under other tensors
        model(images[:8], labels[:8])
    task = "fsdp" if config is None else "fsdp_overlapped"
    report(task, folder, looks=looks, rates=rates, multipliers=balancer.lr_multipliers)


def fsdp_overlapped(folder: Path) -> None:
    """FSDP2 with looks beside training, each in force two steps later."""
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


def run(tasks: dict[str, Callable[[Path], None]]) -> None:
    """Do the task of the command line and end the process."""
    task, folder = sys.argv[1], Path(sys.argv[2])
    torch.manual_seed(1)
    tasks[task](folder)
    if dist.is_initialized():
        dist.destroy_process_group()
    # At exit torch's sharding threads and DeepSpeed's shared memory abort now and then: measured in one of 24 runs of
    # plain FSDP2 on a busy machine.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


TASKS: dict[str, Callable[[Path], None]] = {
    "callback": partial(train, kind="callback"),
    "trainer": partial(train, kind="trainer"),
    "fsdp": fsdp,
    "fsdp_overlapped": fsdp_overlapped,
    "fsdp_trainer": fsdp_trainer,
    "adamw_8bit": adamw_8bit,
    "compiled": compiled,
}
for stage in (1, 2, 3):
    TASKS[f"deepspeed{stage}"] = partial(deepspeed, stage=stage, overlap=False)
    TASKS[f"deepspeed{stage}_overlapped"] = partial(deepspeed, stage=stage, overlap=True)


if __name__ == "__main__":
    run(TASKS)
