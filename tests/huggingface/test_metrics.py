"""What an evaluation returns, and what is made of it, is what plain training would have."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny import ConvNet, Digits, trainer_settings
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from hf_tempbalance import TempBalanceCallback, TempBalanceTrainer


def accuracy(prediction) -> dict[str, float]:
    return {"accuracy": float(np.mean(prediction.predictions.argmax(1) == prediction.label_ids))}


def make(folder, kind: str, *callbacks, model_init=None, **changes) -> Trainer:
    settings = {"eval_strategy": "epoch", "logging_strategy": "steps", "logging_steps": 3, "num_train_epochs": 1}
    arguments = TrainingArguments(**trainer_settings(folder, **(settings | changes)))
    data = {"train_dataset": Digits(128), "eval_dataset": Digits(32), "compute_metrics": accuracy}
    model = {"model_init": model_init} if model_init else {"model": ConvNet()}
    if kind == "trainer":
        return TempBalanceTrainer(**model, args=arguments, **data, callbacks=list(callbacks))
    ours = [TempBalanceCallback()] if kind == "callback" else []
    return Trainer(**model, args=arguments, **data, callbacks=[*ours, *callbacks])


class Seen(TrainerCallback):
    """The keys of the metrics that callbacks such as early stopping and the notebook's table are given."""

    def __init__(self) -> None:
        self.keys: set[str] = set()

    def on_evaluate(self, args, state, control, metrics, **kwargs) -> None:
        self.keys |= set(metrics)


@pytest.mark.parametrize("kind", ["callback", "trainer"])
def test_metrics_have_the_keys_of_plain_training(tmp_path, kind):
    found = {}
    for name in ("plain", kind):
        seen = Seen()
        trainer = make(tmp_path / name, name, seen)
        train_metrics = trainer.train().metrics
        trainer.save_metrics("all", trainer.evaluate())
        saved = json.loads((tmp_path / name / "all_results.json").read_text())
        found[name] = set(train_metrics), set(trainer.evaluate()), seen.keys, set(saved)
    assert found[kind] == found["plain"]


def test_hyperparameter_search_optimises_the_metric_alone(tmp_path):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trainer = make(tmp_path, "callback", model_init=lambda trial: ConvNet(), max_steps=2)
    best = trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_categorical("learning_rate", [0.05])},
        n_trials=1,
        direction="maximize",
        backend="optuna",
    )
    assert 0 <= best.objective <= 1  # the sum of the metrics, and accuracy is the only one


def test_early_stopping_watches_the_metric_it_names(tmp_path):
    changes = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy", "save_strategy": "epoch"}
    trainer = make(tmp_path, "callback", EarlyStoppingCallback(1), **changes, num_train_epochs=2)
    trainer.train()
    assert trainer.state.best_metric in [entry.get("eval_accuracy") for entry in trainer.state.log_history]


def test_the_scalars_join_the_log_of_a_training_loss(tmp_path):
    printed = []

    class Console(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            printed.append(set(logs))

    make(tmp_path, "callback", Console()).train()
    with_scalars = [keys for keys in printed if any(key.startswith("tempbalance/") for key in keys)]
    assert with_scalars and all("loss" in keys for keys in with_scalars)


def test_every_log_of_a_look_has_the_mean_multiplier(tmp_path):
    trainer = make(tmp_path, "callback")
    trainer.train()
    looks = [entry for entry in trainer.state.log_history if "tempbalance/seconds" in entry]
    assert looks and all(0.5 <= entry["tempbalance/multiplier_mean"] <= 1.5 for entry in looks)


def test_the_mean_multiplier_is_weighted_by_the_number_of_parameters(tmp_path):
    trainer = make(tmp_path, "callback")
    trainer.train()
    callback = next(c for c in trainer.callback_handler.callbacks if isinstance(c, TempBalanceCallback))
    multipliers, sizes = callback.balancer.lr_multipliers, {n: p.numel() for n, p in trainer.model.named_parameters()}
    tuned = [
        f"{kind}{i}.{part}"
        for i in (2, 3, 4, 5)
        for kind, part in (("conv", "weight"), ("bn", "weight"), ("bn", "bias"))
    ]
    mean = sum(multipliers[name] * sizes[name] for name in tuned) / sum(sizes[name] for name in tuned)
    assert callback.balancer.multiplier_mean == pytest.approx(mean)
