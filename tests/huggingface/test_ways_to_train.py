"""Ways to use a Trainer that people have: best model, search, accumulation, steps, streams, a second train()."""

from __future__ import annotations

import pytest
import torch
from tiny import ConvNet, Digits, trainer_settings
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainingArguments

from hf_tempbalance import TempBalanceCallback, TempBalanceConfig, TempBalanceTrainer
from hf_tempbalance.runs.history import HISTORY_NAME, read_history


KINDS = pytest.mark.parametrize("kind", ["callback", "trainer"])


def make(kind: str, folder, config: TempBalanceConfig | None = None, model=None, data=None, **changes) -> Trainer:
    torch.manual_seed(3)
    arguments = TrainingArguments(**trainer_settings(folder, **changes))
    shared = {"train_dataset": data or Digits(128), "eval_dataset": Digits(32)}
    shared |= {"model_init": model} if callable(model) and not isinstance(model, torch.nn.Module) else {}
    if "model_init" not in shared:
        shared["model"] = model or ConvNet()
    if kind == "callback":
        return Trainer(args=arguments, **shared, callbacks=[TempBalanceCallback(config)])
    return TempBalanceTrainer(args=arguments, **shared, tempbalance=config or TempBalanceConfig())


def steps(folder) -> list[int]:
    return [look["step"] for look in read_history(folder / HISTORY_NAME)]


@KINDS
def test_load_best_model_at_end(tmp_path, kind):
    every = {"eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 3}
    trainer = make(kind, tmp_path, load_best_model_at_end=True, metric_for_best_model="loss", **every)
    trainer.train()
    assert trainer.state.best_model_checkpoint is not None
    assert steps(tmp_path) == [0, 4, 8, 12]
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.evaluate()
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))


@KINDS
def test_gradient_accumulation_counts_optimizer_steps(tmp_path, kind):
    config = TempBalanceConfig(update_unit="step", update_interval=2)
    make(kind, tmp_path, config, gradient_accumulation_steps=2, num_train_epochs=3).train()
    assert steps(tmp_path) == [0, 2, 4, 6]


@KINDS
def test_max_steps_ends_in_the_middle_of_an_epoch(tmp_path, kind):
    make(kind, tmp_path, max_steps=6).train()
    assert steps(tmp_path) == [0, 4, 6]  # Trainer ends the epoch that was cut short


class Stream(IterableDataset):
    """No length: an epoch ends when the stream does."""

    def __iter__(self):
        digits = Digits(96)
        return (digits[i] for i in range(96))


@KINDS
def test_a_stream_without_length_is_looked_at_by_steps_or_where_it_ends(tmp_path, kind):
    config = TempBalanceConfig(update_unit="step", update_interval=4)
    make(kind, tmp_path / "steps", config, data=Stream(), max_steps=9).train()
    assert steps(tmp_path / "steps") == [0, 4, 8]
    make(kind, tmp_path / "epochs", data=Stream(), max_steps=7).train()
    assert steps(tmp_path / "epochs")[0] == 0 and len(steps(tmp_path / "epochs")) > 1


@KINDS
def test_a_second_train_starts_anew_and_applies_multipliers_once(tmp_path, kind, optimizer_rates):
    model = ConvNet()
    trainer = make(kind, tmp_path, model=model, lr_scheduler_type="constant")
    seen = optimizer_rates(model, trainer.create_optimizer())
    for _ in range(2):
        trainer.train()
        looks = read_history(tmp_path / HISTORY_NAME)
        assert [look["step"] for look in looks] == [0, 4, 8]
        rates = {layer["name"]: 0.05 * layer["multiplier"] for layer in looks[-2]["layers"]}
        assert {name: seen[f"{name}.weight"] for name in rates} == pytest.approx(rates)


@KINDS
def test_a_hyperparameter_search_gives_each_trial_a_new_balancer_and_a_history_of_its_own(tmp_path, kind):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    models = []

    def model_init():
        models.append(ConvNet())
        return models[-1]

    trainer = make(kind, tmp_path, model=model_init, eval_strategy="epoch", save_strategy="epoch")
    best = trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 0.01, 0.1)},
        compute_objective=lambda metrics: metrics["eval_loss"],
        n_trials=3,
        direction="minimize",
        backend="optuna",
    )
    assert best.run_id in {"0", "1", "2"}
    for trial in range(3):
        assert steps(tmp_path / f"run-{trial}") == [0, 4, 8]
        assert (tmp_path / f"run-{trial}" / "checkpoint-8").is_dir()
    assert not (tmp_path / HISTORY_NAME).exists()
    callback = next(c for c in trainer.callback_handler.callbacks if isinstance(c, TempBalanceCallback))
    assert callback.balancer.model is models[-1]


@KINDS
@pytest.mark.parametrize("precision", ["bf16", "float64"])
def test_other_precisions(tmp_path, kind, precision):
    changes = {"bf16": True} if precision == "bf16" else {}
    model = ConvNet().double() if precision == "float64" else ConvNet()
    data = Digits(128, torch.float64) if precision == "float64" else None
    make(kind, tmp_path, model=model, data=data, **changes).train()
    assert steps(tmp_path) == [0, 4, 8]


@KINDS
def test_weights_in_bfloat16_are_looked_at_and_trained(tmp_path, kind):
    make(kind, tmp_path, model=ConvNet().bfloat16(), data=Digits(128, torch.bfloat16)).train()
    last = read_history(tmp_path / HISTORY_NAME)[-1]["layers"]
    assert {layer["multiplier"] for layer in last} >= {0.5, 1.5}


@KINDS
@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_a_compiled_model_has_the_names_of_the_plain_one(tmp_path, kind):
    make(kind, tmp_path, torch_compile=True, torch_compile_backend="eager").train()
    assert [layer["name"] for layer in read_history(tmp_path / HISTORY_NAME)[0]["layers"]][:2] == ["conv1", "conv2"]
