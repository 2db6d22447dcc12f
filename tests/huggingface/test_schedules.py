"""Every schedule of transformers with both ways in: effective rate = schedule x multiplier, at every step."""

from __future__ import annotations

import pytest
from tiny import ConvNet, Digits, trainer_settings
from transformers import SchedulerType, Trainer, TrainerCallback, TrainingArguments

from hf_tempbalance import TempBalanceCallback, TempBalanceConfig, TempBalanceTrainer


EXTRA = {
    "cosine_with_min_lr": {"min_lr": 0.001},
    "cosine_warmup_with_min_lr": {"min_lr": 0.001},
    "warmup_stable_decay": {"num_decay_steps": 2},
}


class Rates(TrainerCallback):
    """At every step: what the optimizer used, and what the schedule's groups and the multipliers say it should."""

    def __init__(self, seen, trainer) -> None:
        self.seen, self.trainer, self.schedule, self.steps = seen, trainer, [], 0

    def on_pre_optimizer_step(self, args, state, control, optimizer, **kwargs):
        self.schedule.append(optimizer.param_groups[0]["lr"])

    def on_optimizer_step(self, args, state, control, **kwargs):
        callbacks = self.trainer.callback_handler.callbacks
        balancer = next(c for c in callbacks if isinstance(c, TempBalanceCallback)).balancer
        expected = {name: self.schedule[-1] * m for name, m in balancer.lr_multipliers.items()}
        assert self.seen == pytest.approx(expected, rel=1e-12, abs=1e-300)
        self.steps += 1


def run(kind, schedule, folder, model, record=None):
    arguments = TrainingArguments(
        **trainer_settings(
            folder,
            lr_scheduler_type=schedule,
            lr_scheduler_kwargs=EXTRA.get(str(schedule), {}),
            warmup_steps=2,
            logging_strategy="steps",
            logging_steps=1,
            eval_strategy="steps",
            eval_steps=1,
        )
    )
    data = {"train_dataset": Digits(128), "eval_dataset": Digits(32)}
    if kind == "callback":
        trainer = Trainer(model, arguments, **data, callbacks=[TempBalanceCallback()])
    else:
        trainer = TempBalanceTrainer(
            model, arguments, **data, tempbalance=TempBalanceConfig() if kind == "trainer" else None
        )
    if record is None:
        trainer.train()
        return [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    rates = Rates(record(model, trainer.create_optimizer()), trainer)
    trainer.add_callback(rates)
    trainer.train()
    assert rates.steps == 8
    return [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]


@pytest.mark.parametrize("kind", ["callback", "trainer"])
@pytest.mark.parametrize("schedule", [kind.value for kind in SchedulerType])
def test_the_effective_rate_is_schedule_times_multiplier(schedule, kind, tmp_path, optimizer_rates):
    logged = run(kind, schedule, tmp_path / "balanced", ConvNet(), optimizer_rates)
    assert len(logged) == 8
    if schedule not in ("reduce_lr_on_plateau", "greedy"):  # these follow the loss, which balancing changes
        assert logged == run("plain", schedule, tmp_path / "plain", ConvNet())
