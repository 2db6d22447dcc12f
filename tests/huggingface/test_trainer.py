from __future__ import annotations

import math

import pytest
import torch
from tiny import ConvNet, Digits, trainer_settings
from torch import nn
from transformers import Trainer, TrainerCallback
from transformers.trainer_pt_utils import LayerWiseDummyOptimizer

from hf_tempbalance import TempBalanceCallback, TempBalanceConfig, TempBalanceTrainer, TempBalanceTrainingArguments
from hf_tempbalance.runs.history import HISTORY_NAME, read_history


def make(tmp_path, model=None, tempbalance=TempBalanceConfig(), **changes) -> TempBalanceTrainer:  # noqa: B008
    arguments = TempBalanceTrainingArguments(**trainer_settings(tmp_path, **changes))
    return TempBalanceTrainer(model or ConvNet(), arguments, train_dataset=Digits(128), tempbalance=tempbalance)


def test_the_groups_are_layer_wise_with_the_untuned_parameters_first(tmp_path):
    model = ConvNet()
    trainer = make(tmp_path, model)
    groups = trainer.create_optimizer().param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {}
    for group in groups:
        for parameter in group["params"]:
            assert names[id(parameter)] not in found
            found[names[id(parameter)]] = group["layer"]
    assert [group["layer"] for group in groups[:3]] == [None, None, "conv2"]
    layers = {name: name.split(".")[0].replace("bn", "conv") for name in names.values()}
    assert found == {name: layer if layer[-1] in "2345" else None for name, layer in layers.items()}


def test_the_groups_show_the_multiplier_and_keep_the_schedule_s_rate(tmp_path):
    trainer = make(tmp_path, lr_scheduler_type="constant")
    trainer.train()
    groups = trainer.optimizer.param_groups
    multipliers = {group["layer"]: group["lr_multiplier"] for group in groups}
    last = {layer["name"]: layer["multiplier"] for layer in read_history(tmp_path / HISTORY_NAME)[-1]["layers"]}
    assert multipliers == {None: 1.0} | {name: last[name] for name in ("conv2", "conv3", "conv4", "conv5")}
    assert {group["lr"] for group in groups} == {0.05}


@pytest.mark.parametrize("optim", ["sgd", "adamw_torch", "adamw_torch_fused", "adafactor", "rmsprop", "adagrad"])
def test_it_trains_as_the_callback_does_bit_for_bit(tmp_path, optim):
    models = [ConvNet(), ConvNet()]
    models[1].load_state_dict(models[0].state_dict())
    make(tmp_path / "trainer", models[0], optim=optim).train()
    arguments = TempBalanceTrainingArguments(**trainer_settings(tmp_path / "callback", optim=optim))
    Trainer(models[1], arguments, train_dataset=Digits(128), callbacks=[TempBalanceCallback()]).train()
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))


def test_balancing_changes_the_training(tmp_path):
    models = [ConvNet(), ConvNet()]
    models[1].load_state_dict(models[0].state_dict())
    make(tmp_path / "balanced", models[0]).train()
    make(tmp_path / "plain", models[1], tempbalance=None).train()
    assert not torch.equal(models[0].conv2.weight, models[1].conv2.weight)


def test_without_tempbalance_it_is_a_trainer(tmp_path):
    models = [ConvNet(), ConvNet()]
    models[1].load_state_dict(models[0].state_dict())
    trainer = make(tmp_path / "ours", models[0], tempbalance=None)
    trainer.train()
    assert len(trainer.optimizer.param_groups) == 2 and not (tmp_path / "ours" / HISTORY_NAME).exists()
    arguments = TempBalanceTrainingArguments(**trainer_settings(tmp_path / "theirs"))
    Trainer(models[1], arguments, train_dataset=Digits(128)).train()
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))


def test_the_scalars_of_a_look_go_through_trainer_log_and_the_loss_is_still_logged(tmp_path):
    logged = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs, **kwargs):
            logged.append((state.global_step, set(logs)))

    trainer = make(tmp_path, logging_strategy="epoch")
    trainer.callback_handler.callbacks.insert(0, Tracker())
    trainer.train()
    assert [step for step, keys in logged if "tempbalance/alpha_mean" in keys] == [0, 4, 8]
    assert [step for step, keys in logged if "loss" in keys] == [4, 8]


@pytest.mark.parametrize("on_all", [False, True])
def test_weight_decay_on_all_decays_biases_and_norms_too(tmp_path, on_all):
    model = ConvNet()
    trainer = make(tmp_path, model, weight_decay=0.1, weight_decay_on_all=on_all)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = trainer.create_optimizer().param_groups
    decayed = {names[id(p)] for group in groups for p in group["params"] if group["weight_decay"]}
    expected = set(names.values()) if on_all else {n for n in names.values() if not n.endswith("bias")}
    assert decayed == expected


def test_scheduler_unit_epoch_is_the_paper_s_staircase(tmp_path):
    trainer = make(
        tmp_path,
        scheduler_unit="epoch",
        lr_scheduler_type="cosine",
        num_train_epochs=4,
        logging_strategy="steps",
        logging_steps=1,
    )
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    expected = [0.5 * 0.05 * (1 + math.cos(math.pi * (step // 4) / 4)) for step in range(16)]
    assert rates == pytest.approx(expected)


def test_the_staircase_follows_epochs_under_max_steps_and_gradient_accumulation(tmp_path):
    trainer = make(
        tmp_path,
        scheduler_unit="epoch",
        lr_scheduler_type="linear",
        max_steps=6,
        gradient_accumulation_steps=2,
        logging_strategy="steps",
        logging_steps=1,
    )
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates == pytest.approx([0.05 * (1 - step // 2 * 2 / 6) for step in range(6)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheduler_unit": "batch"}, "scheduler_unit='batch'"),
        ({"scheduler_unit": "epoch", "lr_scheduler_type": "reduce_lr_on_plateau"}, "depends on a metric"),
        ({"scheduler_unit": "epoch", "lr_scheduler_type": "greedy"}, "depends on a metric"),
    ],
)
def test_a_scheduler_unit_that_can_not_work_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        TempBalanceTrainingArguments(**trainer_settings(tmp_path, **changes, eval_strategy="epoch"))


def test_the_staircase_needs_a_schedule_that_is_a_function_of_the_step(tmp_path):
    trainer = make(tmp_path, tempbalance=None, scheduler_unit="epoch")
    parameter = next(trainer.model.parameters())
    layerwise = LayerWiseDummyOptimizer({parameter: torch.optim.SGD([parameter])})
    with pytest.raises(ValueError, match="does not work with LayerWiseDummyScheduler.*Use scheduler_unit='step'"):
        trainer.create_scheduler(8, layerwise)


def test_the_staircase_needs_a_data_set_with_a_length(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(Digits(64))

    arguments = TempBalanceTrainingArguments(**trainer_settings(tmp_path, scheduler_unit="epoch", max_steps=2))
    trainer = TempBalanceTrainer(ConvNet(), arguments, train_dataset=Stream(), tempbalance=None)
    with pytest.raises(ValueError, match="needs a training data set with a length"):
        trainer.train()


def test_an_optimizer_that_is_passed_in_is_balanced_in_its_own_groups(tmp_path, optimizer_rates):
    model = ConvNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = optimizer_rates(model, optimizer)
    arguments = TempBalanceTrainingArguments(**trainer_settings(tmp_path))
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    trainer = TempBalanceTrainer(
        model,
        arguments,
        train_dataset=Digits(64),
        optimizers=(optimizer, schedule),
        tempbalance=TempBalanceConfig(),
    )
    trainer.train()
    assert len(optimizer.param_groups) == 1
    assert min(seen.values()) == pytest.approx(0.05) and max(seen.values()) == pytest.approx(0.15)


def test_a_model_without_a_layer_to_tune_is_refused_before_training(tmp_path):
    model = ConvNet()
    model.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
    with pytest.raises(ValueError, match=r"conv3 \(64, 32, 3, 3\): min_eigenvalues"):
        make(tmp_path, model, TempBalanceConfig(min_eigenvalues=10_000)).train()


@pytest.mark.parametrize("name", ["lamb", "lookahead_sgd", "lion", "adamp", "sgdp", "lars"])
def test_timm_s_optimizers_are_balanced_through_optimizer_cls_and_kwargs(tmp_path, name, optimizer_rates):
    from timm.optim import create_optimizer_v2

    class Factory:
        """What Trainer calls with the model."""

        def __call__(self, model, **kwargs):
            return create_optimizer_v2(model, opt=name, lr=0.05)

    model = ConvNet()
    arguments = TempBalanceTrainingArguments(**trainer_settings(tmp_path, lr_scheduler_type="constant"))
    trainer = TempBalanceTrainer(
        model,
        arguments,
        train_dataset=Digits(128),
        optimizer_cls_and_kwargs=(Factory, {}),
        tempbalance=TempBalanceConfig(),
    )
    optimizer = trainer.create_optimizer()
    inner = optimizer.base_optimizer if hasattr(optimizer, "base_optimizer") else optimizer
    seen = optimizer_rates(model, getattr(inner, "_base_optimizer", inner))
    trainer.train()
    before = {layer["name"]: layer["multiplier"] for layer in read_history(tmp_path / HISTORY_NAME)[-2]["layers"]}
    assert seen["conv1.weight"] == pytest.approx(0.05)
    for i in (2, 3, 4, 5):
        assert seen[f"conv{i}.weight"] == pytest.approx(0.05 * before[f"conv{i}"])
