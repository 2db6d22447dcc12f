from __future__ import annotations

import json
import math
import weakref
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import ConvNet, mlp
from torch import nn

from hf_tempbalance import LayerSpectrum, TempBalanceConfig, TempBalancer, analyze
from hf_tempbalance.config import Fit, Metric
from hf_tempbalance.spectra import analysis
from hf_tempbalance.spectra.analysis import analyze_weights
from hf_tempbalance.spectra.weights import Weight


@pytest.mark.parametrize("fit", get_args(Fit))
def test_every_number_is_the_plain_loop_s(fit):
    model = ConvNet().double()
    spectra = analyze(model, TempBalanceConfig(fit=fit))
    assert [s.name for s in spectra] == ["conv1", "conv2", "conv3", "conv4", "conv5", "linear"]
    for spectrum in spectra:
        weight = model.get_submodule(spectrum.name).weight.detach().numpy()
        values = reference.eigenvalues(weight) * (0.5 if spectrum.kind == "conv2d" else 1.0)
        alpha, distance, index = reference.fit(values, fit)
        share = values / values.sum()
        assert spectrum.shape == weight.shape
        assert spectrum.num_eigenvalues == len(values)
        assert spectrum.alpha == pytest.approx(alpha)
        assert spectrum.D == pytest.approx(distance)
        assert spectrum.xmin == pytest.approx(values[index])
        assert spectrum.spectral_norm == pytest.approx(values[-1])
        assert spectrum.norm == pytest.approx((weight**2).sum() * (0.5 if spectrum.kind == "conv2d" else 1.0))
        assert spectrum.alpha_hat == pytest.approx(alpha * math.log10(values[-1]))
        assert spectrum.stable_rank == pytest.approx(values.sum() / values[-1])
        assert spectrum.entropy == pytest.approx(-(share * np.log(share)).sum() / math.log(len(values)))


def test_excluded_layers_are_analysed_and_marked():
    spectra = analyze(mlp(64, 64, 64, 20, 64))
    assert [s.excluded_by for s in spectra] == ["first", None, "min_eigenvalues", "last"]
    assert all(math.isfinite(s.alpha) for s in spectra)


def test_conv_norm_changes_norms_and_neither_alpha_nor_D():
    model = ConvNet()
    one, half = (analyze(model, TempBalanceConfig(conv_norm=factor))[2] for factor in (1.0, 0.5))
    assert half.norm == pytest.approx(one.norm / 2) and half.spectral_norm == pytest.approx(one.spectral_norm / 2)
    assert (half.alpha, half.D) == pytest.approx((one.alpha, one.D))


def test_filter_zeros_acts_on_the_fit_alone_and_not_where_nothing_would_be_left():
    model = mlp(64, 64, 64)
    with torch.no_grad():
        model.fc0.weight[:30] = 0
        model.fc1.weight.mul_(1e-6)
    plain, tiny = analyze(model)
    filtered, tiny_filtered = analyze(model, TempBalanceConfig(filter_zeros=True))
    assert filtered.alpha != plain.alpha
    assert (filtered.norm, filtered.num_eigenvalues) == (plain.norm, 64)
    assert tiny_filtered == tiny


def test_half_precision_weights_are_analysed():
    model = mlp(64, 64, 64)
    full = [s.alpha for s in analyze(model)]
    assert [s.alpha for s in analyze(model.bfloat16())] == pytest.approx(full, rel=0.01)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), condition=st.floats(1, 7), fit=st.sampled_from(get_args(Fit)))
def test_alpha_is_that_of_float64_however_far_the_largest_eigenvalue_is_from_the_tail(seed, condition, fit):
    """An outlier 10^condition above the bulk: float32's rounding error grows with it."""
    torch.manual_seed(seed)
    model = mlp(64, 96, 64)
    with torch.no_grad():
        for layer in model.children():
            layer.weight.copy_(torch.randn(layer.weight.shape))
            layer.weight += 10 ** (condition / 2) * torch.randn(len(layer.weight), 1) / 64**0.5
    config = TempBalanceConfig(fit=fit)
    found, exact = analyze(model, config), analyze(model.double(), config)
    for mine, true in zip(found, exact, strict=True):
        assert mine.D == pytest.approx(true.D, rel=1e-4)
        if mine.xmin == pytest.approx(true.xmin, rel=1e-3):  # else two starts are equally good up to rounding
            assert mine.alpha == pytest.approx(true.alpha, rel=1e-4)
        else:
            assert fit == "goodness-of-fit"


def test_only_the_layers_that_float32_can_not_resolve_are_decomposed_twice(monkeypatch):
    model = mlp(64, 64, 64, 64, 1)  # the last one has a single eigenvalue, and no tail to resolve
    with torch.no_grad():
        model.fc1.weight += 1000
    original, asked = analysis.squared_singular_values, []

    def spy(stacks, *arguments):
        asked.append([stack.dtype for stack in stacks])
        return original(stacks, *arguments)

    monkeypatch.setattr(analysis, "squared_singular_values", spy)
    analyze(model)
    assert asked == [[torch.float32] * 4, [torch.float64]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_give_nan_and_change_no_other_layer(bad):
    model = mlp(64, 64, 64, 64)
    before = analyze(model)
    model.fc1.weight.data[0, 0] = bad
    after = analyze(model)
    assert after[0] == before[0] and after[2] == before[2]
    assert math.isnan(after[1].alpha) and math.isnan(after[1].norm) and math.isnan(after[1].entropy)


@pytest.mark.parametrize("fit", get_args(Fit))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_equal_eigenvalues_have_no_exponent_whatever_rounding_did_to_them(fit, dtype):
    weights = [torch.eye(64)]
    for shape in [(2, 2), (50, 50), (64, 700), (300, 64), (256, 256)]:
        weights.append(
            nn.init.orthogonal_(torch.empty(shape, dtype=torch.promote_types(dtype, torch.float32)), gain=3)
        )
    model = nn.Sequential(*(nn.Linear(*weight.T.shape, dtype=dtype) for weight in weights))
    for layer, weight in zip(model, weights, strict=True):
        layer.weight.data.copy_(weight)
    for spectrum in analyze(model, TempBalanceConfig(fit=fit)):
        numbers = (spectrum.alpha, spectrum.alpha_hat, spectrum.xmin, spectrum.D)
        assert all(map(math.isnan, numbers)), spectrum
        assert spectrum.stable_rank == pytest.approx(min(spectrum.shape), rel=0.05)  # what is known is reported


def test_a_tail_that_is_narrow_and_no_rounding_has_an_exponent():
    weight = torch.diag(torch.linspace(1, 1.002, 64))
    model = nn.Sequential(nn.Linear(64, 64))
    model[0].weight.data.copy_(weight)
    assert 500 < analyze(model)[0].alpha < 5000


def test_a_nearly_orthogonal_layer_does_not_pin_the_others():
    model = mlp(64, 64, 64, 64, 64, 64)
    nn.init.orthogonal_(model.fc2.weight)
    balancer = TempBalancer(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.warns(UserWarning, match="fc2: alpha is nan"):
        balancer.rebalance()
    assert balancer.layer_multipliers["fc2"] == 1.0
    assert {balancer.layer_multipliers["fc1"], balancer.layer_multipliers["fc3"]} == {0.5, 1.5}


@pytest.mark.parametrize("fit", ["median", "fix-finger"])
def test_weights_of_a_few_bytes_are_held_a_batch_at_a_time(fit, monkeypatch):
    monkeypatch.setattr(analysis, "BATCH_BYTES", 100_000)
    alive: set[int] = set()
    most = 0

    @dataclass(frozen=True, eq=False)
    class Loaded(Weight):
        def whole(self) -> torch.Tensor:
            nonlocal most
            weight = torch.randn(8, 8)
            alive.add(id(weight))
            weakref.finalize(weight, alive.discard, id(weight))
            most = max(most, len(alive))
            return weight

    shape = nn.Parameter(torch.empty(8, 8, device="cpu"))
    weights = [Loaded(f"layer{i}", "linear", shape, (shape,)) for i in range(300)]
    assert sum(1 for _ in analyze_weights(weights, TempBalanceConfig(fit=fit))) == 300
    assert 2 <= most < 50


def test_zero_and_rank_deficient_weights_raise_nothing():
    model = mlp(64, 64, 64, 64)
    with torch.no_grad():
        model.fc0.weight.zero_()
        model.fc1.weight.copy_(torch.outer(torch.randn(64), torch.randn(64)))
    for fit in get_args(Fit):
        zero, rank_one, _ = analyze(model, TempBalanceConfig(fit=fit))
        assert math.isnan(zero.alpha) and zero.norm == 0 and math.isnan(zero.stable_rank)
        assert not rank_one.alpha > 1e6
        assert rank_one.stable_rank == pytest.approx(1, rel=1e-4)


def test_layers_that_can_not_be_read_are_listed_with_nan():
    model = mlp(64, 64, 64)
    model.fc0.to("meta")
    spectra = analyze(model)
    assert spectra[0].excluded_by == "meta" and math.isnan(spectra[0].alpha)
    assert math.isfinite(spectra[1].alpha)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.ReLU(), nn.ReLU(), nn.BatchNorm1d(4)), "2 ReLU, 1 BatchNorm1d"),
        (nn.Linear(64, 64, device="meta"), r"\(the model itself\) \(64, 64\): meta"),
        (nn.Sequential(), "this model has 1 Sequential"),
    ],
)
def test_a_model_with_nothing_to_analyse_is_refused_with_what_was_looked_at(model, message):
    with pytest.raises(ValueError, match=message):
        analyze(model)


def test_nothing_changes_neither_weights_nor_gradients_nor_random_numbers():
    model = ConvNet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    analyze(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_compiled_and_parallel_models_have_clean_names():
    model = ConvNet()
    assert analyze(torch.compile(nn.DataParallel(model))) == analyze(model)


def test_to_dict_is_json_and_has_every_metric():
    spectrum = analyze(ConvNet())[1]
    fields = json.loads(json.dumps(spectrum.to_dict()))
    assert fields["shape"] == [32, 16, 3, 3]
    assert set(get_args(Metric)) - {"depth"} <= fields.keys()  # depth is of the name, not of the spectrum
    assert LayerSpectrum(**fields | {"shape": tuple(fields["shape"])}) == spectrum
