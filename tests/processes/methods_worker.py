"""Presets in several processes: ``methods_worker.py WAY FOLDER``; every rank writes ``FOLDER/RANK.json``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny import trainer_settings

from hf_tempbalance import TempBalanceCallback, TempBalanceConfig, TempBalancer, TempBalanceTrainer
from hf_tempbalance.runs.history import HISTORY_NAME, read_history


RANK, SIZE = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))

METHODS = {
    "model-balancing": {"update_interval": 0.5},
    "alphadecay": {"update_interval": 3},
    "llr": {"update_interval": 4, "ramp_steps": 3, "active_share": 0.75},
    "farms": {"window_rows": 16},
}


def preset(name: str) -> TempBalanceConfig:
    return TempBalanceConfig.preset(name, **METHODS[name])


def llama() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"vocab_size": 99, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=96))


def sentences() -> list[dict[str, torch.Tensor]]:
    rows = torch.randint(3, 99, (32, 8), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": row, "labels": row} for row in rows]


def train(folder: Path, config: TempBalanceConfig, kind: str, **changes) -> dict[str, list]:
    """Two epochs of four steps."""
    steps: list[dict] = []
    seen: list[list] = []

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, model, optimizer, **kwargs):
            inner = optimizer
            while hasattr(inner, "optimizer"):
                inner = inner.optimizer
            names = {id(p): name.removeprefix("module.") for name, p in model.named_parameters()}

            def watch(opt, args, kwargs) -> None:
                for group in opt.param_groups:
                    # ZeRO steps flat parts of parameters, one group at a time.
                    of = [group["layer"]] if "deepspeed" in changes else [names[id(p)] for p in group["params"]]
                    seen.extend([name, group["lr"], group["weight_decay"]] for name in of if group["params"])

            inner.register_step_pre_hook(watch)

        def on_step_begin(self, args, state, control, optimizer, **kwargs):
            self.lr = optimizer.param_groups[0]["lr"]

        def on_optimizer_step(self, args, state, control, **kwargs):  # before the look that may follow
            callbacks = trainer.callback_handler.callbacks
            balancer = next(c for c in callbacks if isinstance(c, TempBalanceCallback)).balancer
            factors = {"lr": balancer.lr_multipliers, "weight_decay": balancer.weight_decay_multipliers}
            steps.append({"layers": balancer.layer_multipliers, "schedule": self.lr, "seen": list(seen), **factors})
            seen.clear()

    settings = {"per_device_train_batch_size": 8 // SIZE, "num_train_epochs": 2, "optim": "adamw_torch"}
    settings |= {"learning_rate": 0.01, "weight_decay": 0.1, "lr_scheduler_type": "linear"}
    arguments = TrainingArguments(**trainer_settings(folder, **(settings | changes)))
    data = {"train_dataset": sentences()}
    if kind == "callback":
        trainer = Trainer(llama(), arguments, **data, callbacks=[TempBalanceCallback(config), Watch()])
    else:
        trainer = TempBalanceTrainer(llama(), arguments, **data, callbacks=[Watch()], tempbalance=config)
    trainer.train()
    return {"steps": steps, "looks": histories(folder)}


def histories(folder: Path) -> list[dict[str, float]]:
    dist.barrier()
    looks = read_history(folder / HISTORY_NAME)
    return [
        {layer["name"]: layer["multiplier"] for layer in look["layers"] if not layer["excluded_by"]} for look in looks
    ]


def fsdp(folder: Path, config: TempBalanceConfig) -> dict[str, list]:
    """The same in a loop with FSDP2, which looks at the start and after every fourth step."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if not dist.is_initialized():
        dist.init_process_group("gloo")
    model, mesh = llama(), init_device_mesh("cpu", (SIZE,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    groups = [{"params": [p for p in model.parameters() if p.dim() > 1]}]
    groups += [{"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1)
    balancer = TempBalancer(model, optimizer, config)
    names = {id(p): name for name, p in model.named_parameters()}
    steps, looks, seen = [], [], []
    optimizer.register_step_pre_hook(
        lambda opt, args, kwargs: seen.extend(
            [names[id(p)], g["lr"], g["weight_decay"]] for g in opt.param_groups for p in g["params"]
        )
    )
    rows = torch.stack([row["input_ids"] for row in sentences()])
    for step in range(8):
        if step % 4 == 0:
            balancer.rebalance()
            looks += [look.multipliers for look in balancer.take_looks()]
        ids = rows[8 * (step % 4) :][RANK * 8 // SIZE : (RANK + 1) * 8 // SIZE]
        model(input_ids=ids, labels=ids)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        factors = {"lr": balancer.lr_multipliers, "weight_decay": balancer.weight_decay_multipliers}
        steps.append({"layers": balancer.layer_multipliers, "schedule": 0.01, "seen": list(seen), **factors})
        seen.clear()
    return {"steps": steps, "looks": looks}


def zero(stage: int):
    settings = {"zero_optimization": {"stage": stage}, "zero_allow_untested_optimizer": True}
    settings |= {"zero_force_ds_cpu_optimizer": False, "train_micro_batch_size_per_gpu": "auto"}
    return lambda folder, config: train(folder, config, "trainer", deepspeed=settings)


WAYS = {
    "ddp": lambda folder, config: train(folder, config, "callback"),
    "fsdp": fsdp,
    **{f"zero{stage}": zero(stage) for stage in (1, 2, 3)},
}


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    # One after the other, since it is the start of the processes that takes long.
    found = {name: WAYS[sys.argv[1]](folder / name, preset(name)) for name in METHODS}
    (folder / f"{RANK}.json").write_text(json.dumps(found))  # floats keep all their digits
    dist.destroy_process_group()
    # As in worker.py: at exit torch's sharding threads and DeepSpeed's shared memory abort now and then.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
