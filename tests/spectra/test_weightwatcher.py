"""The columns that WeightWatcher has too are its numbers, where both have the same eigenvalues."""

from __future__ import annotations

import math

import numpy as np
import pytest
import timm
import torch
from transformers import BertConfig, BertForSequenceClassification

import hf_tempbalance.tasks.backbones  # noqa: F401  registers the *_cifar networks
from hf_tempbalance import TempBalanceConfig, analyze
from hf_tempbalance.spectra.analysis import analyze_weights
from hf_tempbalance.spectra.spikes import num_traps, tail_columns
from hf_tempbalance.spectra.weights import find_weights


# WeightWatcher and what it imports warn of their own syntax and of pandas.
pytestmark = [pytest.mark.slow, pytest.mark.extras, pytest.mark.filterwarnings("ignore")]


def resnet() -> torch.nn.Module:
    return timm.create_model("resnet18_cifar", num_classes=100, width_factor=0.25)


def bert() -> torch.nn.Module:
    size = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 192}
    return BertForSequenceClassification(BertConfig(vocab_size=99, **size))


@pytest.mark.parametrize("make", [resnet, bert])
def test_every_layer_has_weightwatcher_s_alpha_and_distance(make):
    weightwatcher = pytest.importorskip("weightwatcher", reason="WeightWatcher is not installed")
    torch.manual_seed(0)
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():  # heavy tails, as training makes them
            if parameter.dim() >= 2:
                parameter.copy_(torch.distributions.StudentT(3.0).sample(parameter.shape) * 0.05)
    table = weightwatcher.WeightWatcher(model=model).analyze(min_evals=10)
    # WeightWatcher fits the eigenvalues above 1e-5, and spectra with fewer values than this in another way.
    from weightwatcher.WW_powerlaw import SMALL_N_CUTOFF

    config = TempBalanceConfig(fit="goodness-of-fit", filter_zeros=True, zero_threshold=1e-5, embeddings="tune")
    ours = {spectrum.name: spectrum for spectrum in analyze(model, config)}
    compared = 0
    for row in table.to_dict("records"):
        spectrum = ours.get(row["longname"])
        if spectrum is None or row["status"] != "success" or not math.isfinite(spectrum.alpha):
            continue
        if row["num_evals"] < SMALL_N_CUTOFF:
            continue
        assert spectrum.alpha == pytest.approx(row["alpha"], rel=1e-3), row["longname"]
        assert spectrum.D == pytest.approx(row["D"], rel=1e-3, abs=1e-4)
        assert spectrum.spectral_norm == pytest.approx(row["spectral_norm"], rel=1e-3)
        assert spectrum.num_eigenvalues == row["num_evals"]
        compared += 1
    assert compared >= 12


def test_every_layer_has_weightwatcher_s_sigma_spikes_and_traps():
    weightwatcher = pytest.importorskip("weightwatcher", reason="WeightWatcher is not installed")
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        *(torch.nn.Linear(*shape) for shape in [(100, 100), (150, 110), (120, 240), (256, 128)])
    )
    with torch.no_grad():
        for traps, layer in enumerate(model):
            layer.weight.normal_(std=0.05)
            layer.weight.view(-1)[[5, 900, 9000][:traps]] = 3.0
    np.random.seed(0)  # its shuffling; two of ours in one row would be one spike
    table = weightwatcher.WeightWatcher(model=model).analyze(min_evals=10, detX=True, randomize=True, mp_fit=True)
    rows = {row["longname"]: row for row in table.to_dict("records")}
    config = TempBalanceConfig(fit="goodness-of-fit")
    weights = list(find_weights(model))
    for traps, (weight, (spectrum, eigenvalues)) in enumerate(
        zip(weights, analyze_weights(weights, config), strict=True)
    ):
        row, ours = rows[spectrum.name], tail_columns(spectrum, eigenvalues)
        assert ours["num_pl_spikes"] == row["num_pl_spikes"]
        assert ours["sigma"] == pytest.approx(row["sigma"], rel=1e-3)
        assert ours["num_ERG_spikes"] == row["num_ERG_spikes"]
        assert num_traps(weight.stack()) == row["num_traps"] == traps
