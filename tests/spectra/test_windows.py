"""Windows of one aspect ratio: which matrices they are, what is pooled and what is averaged."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from tiny import ConvNet, mlp
from torch import nn

from hf_tempbalance import TempBalanceConfig, TempBalancer, analyze
from hf_tempbalance.spectra.windows import Windowing


def windows_of(weight: np.ndarray, rows: int, aspect: float, samples: int) -> list[np.ndarray]:
    """Those of a linear weight that is no smaller than a window, in plain loops."""
    columns, found = int(rows * aspect), []
    for i in range(samples):
        for j in range(samples):
            step = [
                max(1, (side - size) // (samples - 1))
                for side, size in zip(weight.shape, (rows, columns), strict=True)
            ]
            if i * step[0] <= weight.shape[0] - rows and j * step[1] <= weight.shape[1] - columns:
                found.append(weight[i * step[0] :, j * step[1] :][:rows, :columns])
    return found


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(st.integers(20, 60), st.integers(20, 60)),
    aspect=st.sampled_from([0.5, 0.75, 1.0, 1.25, 2.0]),
    samples=st.integers(2, 9),
)
def test_all_windows_of_a_linear_weight_are_one_spectrum_and_one_fit(shape, aspect, samples):
    model = nn.Sequential(nn.Linear(*shape)).double()
    config = TempBalanceConfig(window_rows=10, window_aspect=aspect, window_samples=samples)
    spectrum = analyze(model, config)[0]
    windows = windows_of(model[0].weight.detach().numpy(), 10, aspect, samples)
    values = np.sort(np.concatenate([reference.eigenvalues(window) for window in windows]))
    alpha, distance, index = reference.fit(values, "median")
    assert spectrum.num_eigenvalues == len(values)
    found = (spectrum.alpha, spectrum.D, spectrum.xmin, spectrum.norm, spectrum.spectral_norm)
    assert found == pytest.approx((alpha, distance, values[index], values.sum(), values[-1]))


@pytest.mark.parametrize("aspect", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("shape", [(70, 20), (20, 70)])
def test_a_convolution_has_the_mean_over_bands_of_its_longer_side(shape, aspect):
    model = nn.Sequential(nn.Conv2d(shape[1], shape[0], 3)).double()
    spectrum = analyze(model, TempBalanceConfig(window_rows=1000, window_aspect=aspect))[0]
    weight = model[0].weight.detach().numpy()
    weight = weight if shape[0] > shape[1] else weight.swapaxes(0, 1)
    rows, columns = (20, int(20 * aspect)) if aspect <= 1 else (int(20 / aspect), 20)
    bands = [weight[band * rows : (band + 1) * rows, :columns] for band in range(3)]
    spectra = [0.5 * reference.eigenvalues(band) for band in bands]
    assert spectrum.num_eigenvalues == sum(map(len, spectra))
    for name, expected in {
        "alpha": [reference.fit(values, "median")[0] for values in spectra],
        "D": [reference.fit(values, "median")[1] for values in spectra],
        "norm": [values.sum() for values in spectra],
        "spectral_norm": [values[-1] for values in spectra],
        "stable_rank": [values.sum() / values[-1] for values in spectra],
    }.items():
        assert getattr(spectrum, name) == pytest.approx(np.mean(expected)), name


def test_a_convolution_with_equal_channels_is_the_same_with_square_windows_as_without():
    model = nn.Sequential(nn.Conv2d(24, 24, 3)).double()
    plain, windowed = analyze(model)[0], analyze(model, TempBalanceConfig(window_rows=100))[0]
    for name in ("num_eigenvalues", "alpha", "alpha_relative", "D", "xmin", "norm", "spectral_norm", "entropy"):
        assert getattr(windowed, name) == pytest.approx(getattr(plain, name)), name


@pytest.mark.parametrize(
    ("shape", "rows", "aspect", "window"),
    [
        ((200, 150), 100, 1.0, (100, 100)),
        ((215, 60), 100, 0.5, (100, 50)),  # inside, though longer than the smaller side
        ((40, 500), 100, 1.0, (40, 40)),
        ((120, 300), 100, 2.0, (100, 200)),
        ((300, 120), 100, 2.0, (60, 120)),
        ((64, 64), 100, 2.0, (32, 64)),
        ((8, 5), 2, 0.25, (2, 1)),
    ],
)
def test_a_window_that_exceeds_the_matrix_is_clipped_and_keeps_its_aspect_ratio(shape, rows, aspect, window):
    assert Windowing(rows, aspect).shape("linear", (1, *shape))[2:] == window


def test_one_sample_is_one_window():
    assert Windowing(10, samples=1).shape("linear", (1, 40, 40)) == (1, 1, 10, 10)


def test_weights_that_are_no_linear_layer_have_windows_too():
    attention = nn.MultiheadAttention(32, 4)
    model = nn.Sequential(nn.Conv1d(8, 24, 3), attention, nn.Conv2d(30, 30, 3, groups=30), nn.Linear(32, 32))
    config = TempBalanceConfig(window_rows=16, window_samples=2, min_eigenvalues=0)
    spectra = {spectrum.name: spectrum for spectrum in analyze(model, config)}
    assert spectra["0"].num_eigenvalues == 3 * 3 * 8  # bands, kernel positions
    assert spectra["1.in_proj_weight"].num_eigenvalues == 3 * 4 * 16  # query, key and value together
    assert spectra["2"].num_eigenvalues == 30 * 9 and math.isfinite(spectra["3"].alpha)


def test_the_windows_of_an_adapter_s_weight_are_those_of_the_merged_one():
    adapted = get_peft_model(mlp(40, 60, 50), LoraConfig(target_modules=["fc0", "fc1"], init_lora_weights=False))
    config = TempBalanceConfig(window_rows=20, min_eigenvalues=0)
    found = {spectrum.name: spectrum.alpha for spectrum in analyze(adapted, config)}
    merged = analyze(adapted.merge_and_unload(), config)
    assert found == pytest.approx({f"base_model.model.{s.name}": s.alpha for s in merged}, rel=1e-4)


@pytest.mark.parametrize("limit", [1, 1 << 30])
def test_the_size_of_a_batch_changes_no_window(limit):
    model = nn.Sequential(nn.Conv2d(16, 40, 3), nn.Linear(90, 130))
    options = {"window_rows": 30, "min_eigenvalues": 0}
    assert analyze(model, TempBalanceConfig(**options, max_batch_bytes=limit)) == analyze(
        model, TempBalanceConfig(**options)
    )


def test_one_band_without_a_spectrum_leaves_the_layer_without_an_exponent():
    model = nn.Sequential(nn.Conv2d(8, 32, 3))
    with torch.no_grad():
        model[0].weight[8:16] = 0
    spectrum = analyze(model, TempBalanceConfig(window_rows=10))[0]
    assert math.isnan(spectrum.alpha) and math.isfinite(spectrum.norm)


def test_layers_with_too_few_eigenvalues_are_neither_first_nor_last_as_in_farms():
    model = mlp(4, 60, 60, 60, 60, 3)
    config = TempBalanceConfig(window_rows=20, window_samples=1, min_eigenvalues=10)
    assert [spectrum.excluded_by for spectrum in analyze(model, config)] == [
        "min_eigenvalues",
        "first",
        None,
        "last",
        "min_eigenvalues",
    ]
    config = TempBalanceConfig(window_rows=100, window_samples=1, min_eigenvalues=500)
    rules = [spectrum.excluded_by for spectrum in analyze(ConvNet(), config)]  # a convolution always counts
    assert rules == ["first", "min_eigenvalues", None, None, "last", "min_eigenvalues"]


def test_windows_larger_than_every_tuned_layer_are_refused_by_name():
    model = mlp(200, 64, 70, 96, 200)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"window_rows=100 .* windows of 100 x 100, .*; fc2 has 96 x 70\."):
        TempBalancer(model, optimizer, TempBalanceConfig(window_rows=100))
    TempBalancer(model, optimizer, TempBalanceConfig(window_rows=70))
