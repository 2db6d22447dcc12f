"""Every optimizer with every schedule, target and both ways in: eight steps of a real Trainer each."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from transformers import SchedulerType, Trainer, TrainerCallback, TrainingArguments

from hf_tempbalance import TempBalanceCallback, TempBalanceConfig, TempBalancer, TempBalanceTrainer
from hf_tempbalance.balance.method import TARGETS
from hf_tempbalance.config import Target

from .outcome import missing, outcome


SCHEDULES = [schedule.value for schedule in SchedulerType]
WAYS = ("callback", "trainer")
DECAY_TARGETS: tuple[Target, ...] = ("weight_decay", "both")
SCHEDULE_ARGUMENTS = {
    "cosine_with_min_lr": {"min_lr": 0.001},
    "cosine_warmup_with_min_lr": {"min_lr": 0.001},
    "warmup_stable_decay": {"num_decay_steps": 2},
}


@dataclass
class Setup:
    """An optimizer as a user of Trainer asks for it."""

    optim: str = ""  # a name of transformers, or
    factory: Callable[[nn.Module], tuple[Any, dict[str, Any]]] | None = None  # model -> (class or factory, arguments)
    options: dict[str, Any] = field(default_factory=dict)  # of TrainingArguments
    package: str = ""  # that has to be installed


def timm_optimizer(name: str, **options: Any) -> Setup:
    def make(model: nn.Module) -> tuple[Any, dict[str, Any]]:
        import timm.optim

        return timm.optim.get_optimizer_class(name, bind_defaults=False), {"lr": 0.01, **options}

    return Setup(factory=make)


def lookahead(model: nn.Module) -> tuple[Any, dict[str, Any]]:
    """Wraps another optimizer, so Trainer gets what it calls a factory."""
    from timm.optim import Lookahead

    inner = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}
    return (lambda: lambda model: Lookahead(torch.optim.SGD(model.parameters(), **inner), k=2)), {}


def muon(model: nn.Module) -> tuple[Any, dict[str, Any]]:
    """torch's Muon takes matrices alone, so the biases are frozen."""
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.dim() == 2)
    return (lambda: lambda model: torch.optim.Muon([p for p in model.parameters() if p.requires_grad], lr=0.01)), {}


def stable_adamw(model: nn.Module) -> tuple[Any, dict[str, Any]]:
    """What Trainer makes of optim="stable_adamw", with the one setting that lets it run without a GPU."""
    from optimi import StableAdamW

    return StableAdamW, {"lr": 0.01, "triton": torch.cuda.is_available()}


def lbfgs(model: nn.Module) -> tuple[Any, dict[str, Any]]:
    return (lambda: lambda model: torch.optim.LBFGS(model.parameters(), lr=0.01)), {}


class SignSGD(torch.optim.Optimizer):
    """Has no weight decay and does not look at the one that Trainer writes into every group."""

    def __init__(self, params: Iterable[Any], lr: float = 0.01) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter -= group["lr"] * parameter.grad.sign()


def sign_sgd(model: nn.Module) -> tuple[Any, dict[str, Any]]:
    return SignSGD, {"lr": 0.01}


LINEAR_TARGETS = {"optim_target_modules": ["fc1", "fc2", "fc3"]}
OPTIMIZERS = {
    "adamw_torch": Setup("adamw_torch"),
    "adamw_torch_fused": Setup("adamw_torch_fused"),
    "sgd": Setup("sgd", options={"optim_args": "momentum=0.9"}),
    "adafactor": Setup("adafactor"),
    "rmsprop": Setup("rmsprop"),
    "adagrad": Setup("adagrad"),
    "stable_adamw": Setup(factory=stable_adamw, package="optimi"),
    "grokadamw": Setup("grokadamw", package="grokadamw"),
    "torch Muon": Setup(factory=muon),
    "timm LAMB": timm_optimizer("lamb"),
    "timm LARS": timm_optimizer("lars", momentum=0.9),
    "timm SGDP": timm_optimizer("sgdp", momentum=0.9),
    "timm AdamP": timm_optimizer("adamp"),
    "timm Lion": timm_optimizer("lion"),
    "timm Muon": timm_optimizer("muon"),
    "timm Lookahead(SGD)": Setup(factory=lookahead),
    "schedule_free_adamw": Setup("schedule_free_adamw", package="schedulefree"),
    "schedule_free_sgd": Setup("schedule_free_sgd", package="schedulefree"),
    "schedule_free_radam": Setup("schedule_free_radam", package="schedulefree"),
    "adamw_bnb_8bit": Setup("adamw_bnb_8bit", package="bitsandbytes"),
    "lion_8bit": Setup("lion_8bit", package="bitsandbytes"),
    "ademamix_8bit": Setup("ademamix_8bit", package="bitsandbytes"),
    "rmsprop_bnb_8bit": Setup("rmsprop_bnb_8bit", package="bitsandbytes"),
    "adamw_torch_8bit": Setup("adamw_torch_8bit", package="torchao"),
    "galore_adamw": Setup("galore_adamw", options=LINEAR_TARGETS, package="galore_torch"),
    "galore_adamw_layerwise": Setup("galore_adamw_layerwise", options=LINEAR_TARGETS, package="galore_torch"),
    "apollo_adamw": Setup("apollo_adamw", options=LINEAR_TARGETS, package="apollo_torch"),
    "apollo_adamw_layerwise": Setup("apollo_adamw_layerwise", options=LINEAR_TARGETS, package="apollo_torch"),
    "lomo": Setup("lomo", package="lomo_optim"),
    "adalomo": Setup("adalomo", package="lomo_optim"),
    "torch LBFGS": Setup(factory=lbfgs),
}
# With a target that has the weight decay in it also one that has none.
DECAYED = OPTIMIZERS | {"signSGD of one's own": Setup(factory=sign_sgd)}


class Network(nn.Module):
    """Five linear layers of width 64 on 64 numbers; three are tuned."""

    def __init__(self) -> None:
        super().__init__()
        for i in range(5):
            self.add_module(f"fc{i}", nn.Linear(64, 10 if i == 4 else 64))

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        x = pixel_values
        for layer in self.children():
            x = layer(x).tanh()
        return {"loss": nn.functional.cross_entropy(x, labels), "logits": x}


@cache
def data(count: int) -> list[dict[str, torch.Tensor]]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.data[:count] / 16 - 0.5).float()
    return [{"pixel_values": x, "labels": y} for x, y in zip(images, torch.from_numpy(digits.target), strict=False)]


class Rates(TrainerCallback):
    """Holds, at every step, the optimizer's view against schedule and multiplier of every parameter.

    Args:
        keys: of a parameter group, those that are looked at.
    """

    def __init__(self, model: nn.Module, keys: tuple[str, ...] = ("lr",)) -> None:
        self.names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.keys = keys
        self.seen: dict[str, dict[str, float]] = {}  # key -> parameter -> value
        self.schedule: list[float] = []  # of the first group, at each step
        self.steps = 0
        self.balancer: Callable[[], TempBalancer] | None = None

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        inner_step = optimizer.step

        def step(*args: Any, **kwargs: Any) -> Any:
            self.seen = self._values(optimizer)
            return inner_step(*args, **kwargs)

        optimizer.step = step

    def _values(self, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, float]]:
        return {
            key: {self.names[id(p)]: float(group[key]) for group in optimizer.param_groups for p in group["params"]}
            for key in self.keys
        }

    def on_pre_optimizer_step(self, args, state, control, optimizer, **kwargs) -> None:
        self.tolerance = 1e-6 if isinstance(optimizer.param_groups[0]["lr"], torch.Tensor) else 1e-12  # float32 there
        self.before = self._values(optimizer)
        self.schedule.append(float(optimizer.param_groups[0]["lr"]))

    def on_optimizer_step(self, args, state, control, **kwargs) -> None:
        self.steps += 1
        if self.balancer is None:
            return
        balancer = self.balancer()
        multipliers = {"lr": balancer.lr_multipliers, "weight_decay": balancer.weight_decay_multipliers}
        for key, before in self.before.items():
            for name, value in before.items():
                expected = value * multipliers[key][name]
                found = self.seen[key][name]
                if abs(found - expected) > self.tolerance * abs(expected):
                    raise AssertionError(f"step {self.steps}: {name} was stepped with {key}={found}, not {expected}")


class DecaySchedule(TrainerCallback):
    """A user's own schedule of weight decay, written into the groups as a learning-rate schedule is."""

    def on_train_begin(self, args, state, control, optimizer, **kwargs) -> None:
        self.base = [group.get("weight_decay") for group in optimizer.param_groups]

    def on_step_begin(self, args, state, control, optimizer, **kwargs) -> None:
        for group, base in zip(optimizer.param_groups, self.base, strict=True):
            if base is not None:
                group["weight_decay"] = base * (1 - state.global_step / 16)


def train(setup: Setup, schedule: str, way: str, target: Target = "lr") -> tuple[Rates, list[dict[str, Any]]]:
    """Eight steps of a real Trainer; what was seen, and the settings in the optimizer's groups at the end.

    With a target other than "lr" the weight decay has a schedule of its own.
    """
    torch.manual_seed(0)
    has_decay = target != "lr"
    model = Network()
    options = {"optimizer_cls_and_kwargs": setup.factory(model)} if setup.factory else {}
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            **({"optim": setup.optim} if setup.optim else {}),
            **setup.options,
            use_cpu=True,
            num_train_epochs=2,
            per_device_train_batch_size=32,
            learning_rate=0.01,
            weight_decay=0.1 if has_decay else 0.0,
            warmup_steps=2,
            lr_scheduler_type=schedule,
            lr_scheduler_kwargs=SCHEDULE_ARGUMENTS.get(schedule, {}),
            eval_strategy="steps",
            eval_steps=1,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        config = TempBalanceConfig(target=target)
        callbacks = [TempBalanceCallback(config)] if way == "callback" else []
        callbacks += [DecaySchedule()] if has_decay else []
        make = partial(TempBalanceTrainer, tempbalance=config) if way == "trainer" else Trainer
        shared = {"train_dataset": data(128), "eval_dataset": data(16)}
        trainer = make(model, arguments, callbacks=callbacks, **shared, **options)
        rates = Rates(model, ("lr", "weight_decay") if has_decay and way in WAYS else ("lr",))
        rates.watch(trainer.create_optimizer())
        if way in WAYS:
            handlers = trainer.callback_handler.callbacks
            callback = next(handler for handler in handlers if isinstance(handler, TempBalanceCallback))
            rates.balancer = lambda: callback.balancer
        trainer.add_callback(rates)
        trainer.train()
        groups = [{key: value for key, value in g.items() if key != "params"} for g in trainer.optimizer.param_groups]
    return rates, groups


@cache
def plain(name: str, schedule: str, target: Target = "lr") -> tuple[list[float], list[dict[str, Any]]]:
    rates, groups = train(DECAYED[name], schedule, "plain", target)
    return rates.schedule, groups


def check_training(name: str, schedule: str, way: str, target: Target = "lr") -> None:
    """Raises where a value is not schedule x multiplier, or where a schedule or what the optimizer wrote is lost."""
    rates, groups = train(DECAYED[name], schedule, way, target)
    expected, plain_groups = plain(name, schedule, target)
    assert rates.steps == 8, f"{rates.steps} of 8 steps"
    for key in TARGETS[target](1.0):
        values = rates.seen[key].values()
        assert len({round(value, 12) for value in values}) > 2 or not any(values), f"one {key} for all"
    follows_loss = schedule in ("reduce_lr_on_plateau", "greedy")  # which balancing changes
    if not follows_loss and rates.schedule != expected:
        raise AssertionError(f"the schedule gave {rates.schedule} instead of {expected}")
    own = {"layer", "lr_multiplier"}
    depends_on_rate = {"lr", "lr_max", "weight_sum", "scheduled_lr"}  # the last three: of schedule-free averages
    for group in groups:
        if not any(set(group) - own == set(other) for other in plain_groups):
            raise AssertionError(f"groups have {sorted(set(group) - own)} instead of {sorted(plain_groups[0])}")
        written = {k: v for k, v in group.items() if isinstance(v, (int, float)) and k not in depends_on_rate | own}
        if not any(written.items() <= other.items() for other in plain_groups):
            raise AssertionError(f"what the optimizer wrote into its groups is lost: {written}")


def check_optimizers(schedules: list[str] = SCHEDULES) -> dict[str, dict[str, str]]:
    """Optimizer with each way in -> schedule -> outcome."""
    results: dict[str, dict[str, str]] = {}
    for name, setup in OPTIMIZERS.items():
        for way in WAYS:
            row = results.setdefault(f"{name}, {way}", {})
            for schedule in schedules:
                row[schedule] = missing(setup.package) or outcome(
                    partial(check_training, name, schedule, way), partial(plain, name, schedule)
                )
    return results


def check_decay(schedule: str = "cosine") -> dict[str, dict[str, str]]:
    """Optimizer with each way in -> target that has the weight decay in it -> outcome."""
    results: dict[str, dict[str, str]] = {}
    for name, setup in DECAYED.items():
        for way in WAYS:
            row = results.setdefault(f"{name}, {way}", {})
            for target in DECAY_TARGETS:
                row[target] = missing(setup.package) or outcome(
                    partial(check_training, name, schedule, way, target), partial(plain, name, schedule, target)
                )
    return results
