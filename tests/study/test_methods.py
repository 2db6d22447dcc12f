"""configs/studies/methods.yaml: every method trains, with optimizer, arguments and schedule of the paper's code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from hf_tempbalance.config import TempBalanceConfig
from hf_tempbalance.huggingface.parser import ConfigArgumentParser
from hf_tempbalance.huggingface.training_args import TempBalanceTrainingArguments
from hf_tempbalance.optim.named import optimizer_class
from hf_tempbalance.tasks.image_classification import RECIPE, RunArguments, check, make_trainer


METHODS = yaml.safe_load(
    (Path(__file__).resolve().parents[2] / "configs" / "studies" / "methods.yaml").read_text(encoding="utf-8")
)
# class, and what the groups must hold
EXPECTED = {
    "sgd": ("SGD", {"momentum": 0.9, "nesterov": False, "dampening": 0}),
    "tempbalance": ("SGD", {"momentum": 0.9}),
    "snr": ("SGDSNR", {"momentum": 0.9, "spectral_norm_regularization": 0.01}),
    "tempbalance_snr": ("SGDSNR", {"momentum": 0.9, "spectral_norm_regularization": 0.01}),
    "sgdr": ("SGD", {"momentum": 0.9}),
    "lars": ("Lars", {"momentum": 0.0, "trust_coeff": 0.001, "eps": 1e-5, "always_adapt": True}),
    "lamb": ("Lamb", {"betas": [0.9, 0.999], "eps": 1e-6, "bias_correction": False, "max_grad_norm": 1.0}),
    "lookahead": ("LookaheadSGD", {"momentum": 0.9, "lookahead_alpha": 0.8, "lookahead_k": 10}),
    "sgdp": ("SGDP", {"momentum": 0.9, "delta": 0.1, "wd_ratio": 0.1, "eps": 1e-8, "nesterov": False}),
    "tempbalance_sgdp": ("SGDP", {"momentum": 0.9, "delta": 0.1}),
    "adamp": ("AdamP", {"betas": [0.9, 0.999], "delta": 0.1, "wd_ratio": 0.1}),
    "adam": ("Adam", {"betas": [0.9, 0.999], "eps": 1e-8, "decoupled_weight_decay": False}),
}


def make(folder: Path, method: str, **changes):
    options = {
        "architecture": "resnet18_cifar",
        "width_factor": 0.0625,
        "max_train_samples": 64,
        "max_test_samples": 10,
        "per_device_train_batch_size": 32,
        "num_train_epochs": 4,
        "learning_rate": 0.01,
        "output_dir": str(folder),
        "eval_strategy": "no",
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    parser = ConfigArgumentParser((RunArguments, TempBalanceConfig, TempBalanceTrainingArguments))
    parser.set_defaults(**RECIPE)
    run, tempbalance, args = parser.parse_options(options | METHODS[method] | changes)
    check(run)
    return make_trainer(run, tempbalance, args)


def test_every_method_is_here():
    assert set(EXPECTED) == set(METHODS)


@pytest.mark.filterwarnings("ignore:This overload of add_ is deprecated:UserWarning")  # timm's SGDP
@pytest.mark.parametrize("method", EXPECTED)
def test_it_trains_with_the_optimizer_and_its_arguments(tmp_path, method, capsys):
    trainer = make(tmp_path, method, min_eigenvalues=1)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train()
    assert all(not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())
    inner = trainer.optimizer.optimizer
    name, expected = EXPECTED[method]
    assert type(inner).__name__ == name
    for group in filter(lambda group: group["params"], inner.param_groups):  # one for what is not decayed is empty
        held = {key: list(group[key]) if isinstance(group[key], tuple) else group[key] for key in expected}
        assert held == expected and group["weight_decay"] == 5e-4
    is_balanced = len({group.get("layer") for group in inner.param_groups}) > 2
    assert is_balanced == method.startswith("tempbalance") == bool(list(tmp_path.glob("tempbalance_history.jsonl")))


def test_warm_restarts_start_again_in_the_middle(tmp_path, capsys):
    trainer = make(tmp_path, "sgdr", logging_strategy="epoch")
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates == pytest.approx([0.01, 0.005, 0.01, 0.005])  # T_0 = 2 of 4 epochs: cosine at 0 and at half


def test_an_optimizer_that_does_not_exist_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="optimizer='sgd_snrr' does not exist. Did you mean 'sgd_snr'?"):
        optimizer_class("sgd_snrr")
