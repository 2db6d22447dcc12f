from __future__ import annotations

import json
import math

import pytest
import torch
from tiny import ConvNet, Digits, trainer_settings
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_tempbalance import TempBalanceCallback, TempBalanceConfig, TempBalanceTrainer
from hf_tempbalance.runs.history import HISTORY_NAME, read_history


class Remember(TrainerCallback):
    """Calls a function after every optimizer step."""

    def __init__(self, function) -> None:
        self.function = function

    def on_optimizer_step(self, args, state, control, **kwargs) -> None:
        self.function()


def make(tmp_path, *callbacks, model=None, **changes) -> Trainer:
    arguments = TrainingArguments(**trainer_settings(tmp_path, **changes))
    return Trainer(model or ConvNet(), arguments, train_dataset=Digits(128), callbacks=list(callbacks))


def test_one_line_in_a_plain_trainer_gives_each_layer_its_rate_at_every_step(tmp_path, optimizer_rates):
    callback = TempBalanceCallback()
    model = ConvNet()
    steps = []
    trainer = make(tmp_path, callback, Remember(lambda: steps.append(check())), model=model)
    seen = optimizer_rates(model, trainer.create_optimizer())

    def check() -> int:
        schedule = trainer.lr_scheduler.get_last_lr()[0]
        expected = {name: schedule * m for name, m in callback.balancer.lr_multipliers.items()}
        assert seen == pytest.approx(expected, rel=1e-12)
        return len(set(seen.values()))

    trainer.train()
    assert len(steps) == 8 and min(steps) > 2
    assert len(trainer.optimizer.param_groups) == 2


def test_a_look_before_training_and_after_every_epoch(tmp_path):
    make(tmp_path, TempBalanceCallback(), num_train_epochs=3).train()
    looks = read_history(tmp_path / HISTORY_NAME)
    assert [(look["step"], look["epoch"]) for look in looks] == [(0, 0), (4, 1), (8, 2), (12, 3)]


@pytest.mark.parametrize(
    ("unit", "interval", "steps"),
    [("epoch", 2, [0, 8]), ("step", 1, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]), ("step", 5, [0, 5, 10])],
)
def test_the_interval_is_counted_in_epochs_or_optimizer_steps(tmp_path, unit, interval, steps):
    config = TempBalanceConfig(update_unit=unit, update_interval=interval)
    make(tmp_path, TempBalanceCallback(config), num_train_epochs=3).train()
    assert [look["step"] for look in read_history(tmp_path / HISTORY_NAME)] == steps


def test_gradient_accumulation_counts_optimizer_steps(tmp_path):
    config = TempBalanceConfig(update_unit="step", update_interval=2)
    make(tmp_path, TempBalanceCallback(config), gradient_accumulation_steps=2).train()
    assert [look["step"] for look in read_history(tmp_path / HISTORY_NAME)] == [0, 2, 4]


def test_a_line_of_the_history_has_every_layer_with_its_multiplier(tmp_path):
    callback = TempBalanceCallback()
    make(tmp_path, callback).train()
    line = (tmp_path / HISTORY_NAME).read_text().splitlines()[-1]
    look = json.loads(line, parse_constant=pytest.fail)
    assert set(look) == {"step", "epoch", "seconds", "multiplier_mean", "layers"}
    multipliers = {layer["name"]: layer["multiplier"] for layer in look["layers"]}
    tuned = callback.balancer.layer_multipliers
    assert multipliers == {"conv1": 1.0, **tuned, "linear": 1.0}
    assert look["layers"][1]["shape"] == [32, 16, 3, 3] and look["layers"][0]["excluded_by"] == "first"


def test_the_scalars_of_a_look_are_in_the_log_history_and_on_the_console(tmp_path):
    printed = []

    class Console(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            printed.append(dict(logs))

    trainer = make(tmp_path, TempBalanceCallback(), Console(), logging_strategy="epoch")
    trainer.train()
    looks = [entry for entry in trainer.state.log_history if "tempbalance/alpha_mean" in entry]
    assert [entry["step"] for entry in looks] == [0, 4, 8]
    layers = [layer for layer in read_history(tmp_path / HISTORY_NAME)[-1]["layers"] if not layer["excluded_by"]]
    alphas = [layer["alpha"] for layer in layers]
    mean = sum(alphas) / len(alphas)
    assert looks[-1]["tempbalance/alpha_mean"] == pytest.approx(mean)
    assert looks[-1]["tempbalance/alpha_min"] == min(alphas)
    assert looks[-1]["tempbalance/alpha_max"] == max(alphas)
    deviation = math.sqrt(sum((alpha - mean) ** 2 for alpha in alphas) / len(alphas))
    assert looks[-1]["tempbalance/alpha_std"] == pytest.approx(deviation)
    assert looks[-1]["tempbalance/multiplier_min"] == 0.5 and looks[-1]["tempbalance/multiplier_max"] == 1.5
    assert looks[-1]["tempbalance/seconds"] > 0
    assert any("tempbalance/alpha_mean" in logs and "loss" in logs for logs in printed)


def test_the_logged_learning_rate_is_the_schedule_s(tmp_path):
    kinds = [TempBalanceCallback()], []
    logged = []
    for number, callbacks in enumerate(kinds):
        trainer = make(tmp_path / str(number), *callbacks, logging_strategy="steps", logging_steps=1)
        trainer.train()
        logged.append([entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry])
    assert len(logged[0]) == 8
    assert logged[0] == logged[1]


@pytest.mark.parametrize("optim", ["sgd", "adamw_torch", "adamw_torch_fused", "adafactor"])
def test_with_multipliers_of_1_training_is_the_plain_trainer_s_bit_for_bit(tmp_path, optim):
    plain, balanced = ConvNet(), ConvNet()
    balanced.load_state_dict(plain.state_dict())
    make(tmp_path / "plain", model=plain, optim=optim).train()
    config = TempBalanceConfig(min_ratio=1.0, max_ratio=1.0)
    callback = TempBalanceCallback(config)
    make(tmp_path / "balanced", callback, model=balanced, optim=optim).train()
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), balanced.parameters(), strict=True))


def test_the_class_itself_can_be_passed(tmp_path):
    trainer = make(tmp_path, TempBalanceCallback)
    trainer.train()
    assert (tmp_path / HISTORY_NAME).exists()


def test_two_of_them_are_refused(tmp_path):
    with pytest.raises(RuntimeError, match="balanced already"):
        make(tmp_path, TempBalanceCallback(), TempBalanceCallback()).train()


def test_beside_a_balanced_trainer_it_is_refused(tmp_path):
    with pytest.raises(ValueError, match="pass tempbalance=None"):
        TempBalanceTrainer(
            ConvNet(),
            TrainingArguments(**trainer_settings(tmp_path)),
            train_dataset=Digits(64),
            callbacks=[TempBalanceCallback()],
            tempbalance=TempBalanceConfig(),
        )


def test_after_training_the_optimizer_is_plain_and_a_second_train_starts_anew(tmp_path, optimizer_rates):
    model, callback = ConvNet(), TempBalanceCallback()
    trainer = make(tmp_path, callback, model=model)
    seen = optimizer_rates(model, trainer.create_optimizer())
    trainer.train()
    trainer.optimizer.step()
    assert len(set(seen.values())) == 1
    trainer.train()
    multipliers = callback.balancer.lr_multipliers
    rates = {seen[name] / multiplier for name, multiplier in multipliers.items()}
    looks = read_history(tmp_path / HISTORY_NAME)
    assert [look["step"] for look in looks] == [0, 4, 8]
    # The last step ran with the multipliers of the look before the last.
    before = {layer["name"]: layer["multiplier"] for layer in looks[-2]["layers"]}
    assert len(rates) > 1
    assert seen["conv2.weight"] / before["conv2"] == pytest.approx(seen["conv1.weight"])


def test_a_retry_after_an_error_inside_a_step_applies_multipliers_once(tmp_path, optimizer_rates):
    starts = []

    class RunOutOnce(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            starts.append(args.per_device_train_batch_size)

    model = ConvNet()
    trainer = make(tmp_path, TempBalanceCallback(), RunOutOnce(), model=model, auto_find_batch_size=True)
    trainer.optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    failures = [torch.OutOfMemoryError("CUDA out of memory. (simulated)")]

    def run_out(*ignored):
        if failures:
            raise failures.pop()

    trainer.optimizer.register_step_pre_hook(run_out)
    seen = optimizer_rates(model, trainer.optimizer)
    trainer.train()
    assert len(starts) == 2 and not failures
    before = {layer["name"]: layer["multiplier"] for layer in read_history(tmp_path / HISTORY_NAME)[-2]["layers"]}
    for i in (2, 3, 4, 5):
        assert seen[f"conv{i}.weight"] / seen["conv1.weight"] == pytest.approx(before[f"conv{i}"])


def test_an_optimizer_that_can_not_be_split_is_refused_when_training_starts(tmp_path):
    model = ConvNet()
    trainer = make(tmp_path, TempBalanceCallback(), model=model)
    trainer.optimizer = torch.optim.LBFGS(model.parameters())
    with pytest.raises(ValueError, match="LBFGS can't be given one learning rate per layer"):
        trainer.train()


def test_layers_that_turn_nan_during_training_do_not_stop_it(tmp_path):
    model = ConvNet()

    class Break(TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs):
            model.conv3.weight.data[0, 0, 0, 0] = float("nan")

    trainer = make(tmp_path, Break(), TempBalanceCallback(), model=model)
    with pytest.warns(UserWarning, match="alpha is nan") as warned:
        trainer.train()
    assert str(warned[0].message).startswith("conv3: alpha is nan")
    last = {layer["name"]: layer["multiplier"] for layer in read_history(tmp_path / HISTORY_NAME)[-1]["layers"]}
    assert last["conv3"] == 1.0 and all(math.isfinite(value) for value in last.values())
