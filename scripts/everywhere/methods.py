"""Every preset through a callback, a trainer and a loop: is each rate and each weight decay schedule x multiplier?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from hf_tempbalance import TempBalanceCallback, TempBalanceConfig, TempBalancer, TempBalanceTrainer
from hf_tempbalance.balance.method import TARGETS
from hf_tempbalance.presets import PRESETS

from .models import TOKENS, transformer
from .optimizers import DecaySchedule, Rates
from .outcome import missing, outcome


WAYS = ("callback", "trainer", "loop")
STEPS = 8
# What of a preset is about hundreds of steps, for eight of them.
SHORT: dict[str, dict[str, Any]] = {
    "tempbalance-lm": {"update_interval": 3},
    "alphadecay": {"update_interval": 3},
    "llr": {"update_interval": 2, "ramp_steps": 2, "active_share": 0.5},
}
# Wide enough for a window of FARMS, which has 100 rows.
TEXT = {"vocab_size": 99, "hidden_size": 112, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT |= {"intermediate_size": 128, "max_position_embeddings": 16}


class Convolutions(nn.Module):
    """Four convolutions, each with its BatchNorm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        widths = [1, 104, 112, 120, 128]
        for i in range(4):
            self.add_module(f"conv{i}", nn.Conv2d(widths[i], widths[i + 1], 3, stride=2, padding=1, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(widths[i + 1]))
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        x = pixel_values
        for i in range(4):
            x = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x)).relu()
        logits = self.head(x.mean((2, 3)))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def with_lora() -> nn.Module:
    from peft import LoraConfig, get_peft_model

    settings = {"target_modules": ["query", "value", "dense"], "modules_to_save": ["classifier"]}
    return get_peft_model(MODELS["BERT"](), LoraConfig(r=4, **settings))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "BERT": transformer("BertForSequenceClassification", **TEXT),
    "BERT with LoRA": with_lora,
    "Llama": transformer("LlamaForCausalLM", **TEXT, **TOKENS),
    "convolutions": Convolutions,
}
PACKAGES = {"BERT with LoRA": "peft"}


def config_of(preset: str, **changes: Any) -> TempBalanceConfig:
    """The preset with its times cut to eight steps."""
    return TempBalanceConfig.preset(preset, **(SHORT.get(preset, {}) | changes))


@cache
def data(model: str) -> list[dict[str, torch.Tensor]]:
    """16 random examples of what the model takes."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(16) % 2
    if model == "convolutions":
        images = torch.randn(16, 1, 16, 16, generator=draw)
        return [{"pixel_values": image, "labels": label} for image, label in zip(images, labels, strict=True)]
    ids = torch.randint(3, 99, (16, 8), generator=draw)
    return [{"input_ids": row, "labels": row if model == "Llama" else y} for row, y in zip(ids, labels, strict=True)]


def optimizer_for(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices alone."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [{"params": [p for p in trained if p.dim() > 1]}]
    groups += [{"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.1)


def check_preset(preset: str, model: str, way: str, **changes: Any) -> Rates:
    """Raises where a rate or a weight decay is not that of its schedule x the multiplier of its parameter, or where
    the preset's multipliers have no effect on what it is about."""
    torch.manual_seed(0)
    network = MODELS[model]()
    config = config_of(preset, **changes)
    rates = Rates(network, ("lr", "weight_decay"))
    (run_loop if way == "loop" else partial(run_trainer, way))(network, data(model), config, rates)
    if rates.steps != STEPS:
        raise AssertionError(f"{rates.steps} of {STEPS} steps")
    for key in rates.keys:
        values = {round(value, 15) for value in rates.seen[key].values() if value}
        if (len(values) > 1) != (key in TARGETS[config.target](1.0)):
            raise AssertionError(f"{len(values)} values of {key} with target={config.target!r}")
    return rates


def run_trainer(way: str, model: nn.Module, examples: list, config: TempBalanceConfig, rates: Rates) -> None:
    """Two epochs of four steps of a real Trainer, with a schedule of the rate and one of the weight decay."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            use_cpu=True,
            num_train_epochs=2,
            per_device_train_batch_size=4,
            learning_rate=1e-3,
            weight_decay=0.1,
            warmup_steps=2,
            lr_scheduler_type="cosine",
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        callbacks = [TempBalanceCallback(config)] if way == "callback" else []
        make = partial(TempBalanceTrainer, tempbalance=config) if way == "trainer" else Trainer
        trainer = make(model, arguments, train_dataset=examples, callbacks=[*callbacks, DecaySchedule()])
        rates.watch(trainer.create_optimizer())
        handlers = trainer.callback_handler.callbacks
        callback = next(handler for handler in handlers if isinstance(handler, TempBalanceCallback))
        rates.balancer = lambda: callback.balancer
        trainer.add_callback(rates)
        trainer.train()


def run_loop(model: nn.Module, examples: list, config: TempBalanceConfig, rates: Rates) -> None:
    """The same in a loop of one's own, which looks at the start and after every second step."""
    optimizer = optimizer_for(model)
    rates.watch(optimizer)
    balancer = TempBalancer(model, optimizer, config)
    rates.balancer = lambda: balancer
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 16)
    for step in range(STEPS):
        if step % 2 == 0:
            balancer.rebalance()
        batch = [examples[(4 * step + i) % 16] for i in range(4)]
        loss = model(**{key: torch.stack([example[key] for example in batch]) for key in batch[0]})["loss"]
        loss.backward()
        optimizer.param_groups[0]["weight_decay"] = 0.1 * (1 - step / 16)
        rates.on_pre_optimizer_step(None, None, None, optimizer=optimizer)
        optimizer.step()
        rates.on_optimizer_step(None, None, None)
        optimizer.zero_grad()
        schedule.step()
    if optimizer.param_groups[0]["weight_decay"] != 0.1 * (1 - 7 / 16):
        raise AssertionError(f"the loop's weight decay is {optimizer.param_groups[0]['weight_decay']}")


def check_methods() -> dict[str, tuple[str, ...]]:
    """Preset and model -> outcome with each way in."""
    return {
        f"{preset}, {model}": tuple(
            missing(PACKAGES.get(model, "")) or outcome(partial(check_preset, preset, model, way)) for way in WAYS
        )
        for preset in PRESETS
        for model in MODELS
    }
