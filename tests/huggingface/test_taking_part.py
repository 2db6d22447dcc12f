"""Only a callback that takes part in a training has an effect in it; it may join late, and layers may be replaced."""

from __future__ import annotations

import logging

import pytest
import torch
from tiny import ConvNet, Digits, trainer_settings
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_tempbalance import TempBalanceCallback, TempBalanceTrainer
from hf_tempbalance.runs.history import HISTORY_NAME, read_history


class At(TrainerCallback):
    """Calls a function at the end of a step."""

    def __init__(self, step: int, function) -> None:
        self.step, self.function = step, function

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            self.function(kwargs["model"])


def make(folder, *callbacks, model=None, **changes) -> Trainer:
    arguments = TrainingArguments(**trainer_settings(folder, **changes))
    return Trainer(model or ConvNet(), arguments, train_dataset=Digits(128), callbacks=list(callbacks))


def interrupt(model) -> None:
    raise KeyboardInterrupt


def fail(model) -> None:
    raise RuntimeError("something else")


@pytest.mark.parametrize("end", [interrupt, fail])
def test_a_callback_that_is_removed_after_an_interruption_has_no_effect_any_more(tmp_path, end, optimizer_rates):
    model, callback, stop = ConvNet(), TempBalanceCallback(), At(2, end)
    trainer = make(tmp_path, callback, stop, model=model)
    seen = optimizer_rates(model, trainer.create_optimizer())
    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        trainer.train()
    assert len(set(seen.values())) > 1
    for one in (callback, stop):
        trainer.remove_callback(one)
    trainer.train()
    assert len(set(seen.values())) == 1


def test_another_callback_may_take_over_after_an_interruption(tmp_path, optimizer_rates):
    model, stop = ConvNet(), At(2, interrupt)
    trainer = make(tmp_path, TempBalanceCallback(), stop, model=model)
    seen = optimizer_rates(model, trainer.create_optimizer())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.remove_callback(stop)
    trainer.remove_callback(TempBalanceCallback)
    other = TempBalanceCallback()
    trainer.add_callback(other)
    trainer.train()
    before = {layer["name"]: layer["multiplier"] for layer in read_history(tmp_path / HISTORY_NAME)[-2]["layers"]}
    for i in (2, 3, 4, 5):
        assert seen[f"conv{i}.weight"] / seen["conv1.weight"] == pytest.approx(before[f"conv{i}"])


@pytest.mark.parametrize("step", [2, 4])
def test_a_callback_that_is_added_while_training_runs_takes_part_from_then_on(tmp_path, step, optimizer_rates):
    model, callback = ConvNet(), TempBalanceCallback()
    trainer = make(
        tmp_path, At(step, lambda model: trainer.add_callback(callback)), model=model, save_strategy="epoch"
    )
    seen = optimizer_rates(model, trainer.create_optimizer())
    trainer.train()
    assert [look["step"] for look in read_history(tmp_path / HISTORY_NAME)] == sorted({step, 4, 8})
    assert len(set(seen.values())) > 1
    assert (tmp_path / "checkpoint-8" / "trainer_state.json").is_file()


def test_a_layer_that_is_replaced_without_the_optimizer_s_knowledge_is_refused_in_one_sentence(tmp_path):
    def replace(model) -> None:
        model.conv3 = nn.Conv2d(32, 64, 3, padding=1, bias=False)

    trainer = make(tmp_path, TempBalanceCallback(), At(2, replace))
    with pytest.raises(
        ValueError, match=r"put in or replaced during training \(conv3\).*Replace layers before"
    ) as error:
        trainer.train()
    assert "\n" not in str(error.value)


def test_a_layer_that_is_replaced_together_with_its_parameters_in_the_optimizer_is_balanced(tmp_path, optimizer_rates):
    model = ConvNet()

    def replace(model) -> None:
        model.conv3 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        trainer.optimizer.optimizer.add_param_group({"params": [model.conv3.weight], "lr": 0.05})
        schedule.base_lrs.append(0.05)
        schedule.lr_lambdas.append(schedule.lr_lambdas[0])

    callback = TempBalanceCallback()
    trainer = make(tmp_path, callback, At(2, replace), model=model, num_train_epochs=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    trainer.optimizer, trainer.lr_scheduler = optimizer, schedule
    rates = {}
    optimizer.register_step_pre_hook(
        lambda opt, args, kwargs: rates.update({id(p): g["lr"] for g in opt.param_groups for p in g["params"]})
    )
    trainer.train()
    before = {layer["name"]: layer["multiplier"] for layer in read_history(tmp_path / HISTORY_NAME)[-2]["layers"]}
    assert rates[id(model.conv3.weight)] == pytest.approx(0.05 * before["conv3"])


def test_a_trainer_of_ours_balances_by_default(tmp_path):
    arguments = TrainingArguments(**trainer_settings(tmp_path))
    TempBalanceTrainer(ConvNet(), arguments, train_dataset=Digits(128)).train()
    assert (tmp_path / HISTORY_NAME).is_file()


def test_the_start_says_what_is_balanced(tmp_path, capsys):
    make(tmp_path, TempBalanceCallback()).train()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("TempBalance: ")]
    look = read_history(tmp_path / HISTORY_NAME)[0]
    mean = look["multiplier_mean"]
    assert lines == [f"TempBalance: 4 of 6 layers, 0.50 to 1.50, mean {mean:.2f}; next look after epoch 1."]


@pytest.mark.parametrize(("report_to", "is_said"), [("tensorboard", True), ("none", False)])
def test_scalars_that_can_not_reach_the_trackers_are_said_once_with_the_remedy(tmp_path, report_to, is_said, caplog):
    trainer = make(tmp_path, TempBalanceCallback(), report_to=report_to, max_steps=1)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    said = [record.message for record in caplog.records if "they don't reach" in record.message]
    assert len(said) == is_said
    assert all("don't reach tensorboard" in text and "Use TempBalanceTrainer" in text for text in said)
