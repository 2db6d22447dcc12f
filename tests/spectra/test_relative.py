"""The exponent of a random matrix, and an exponent relative to it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from hf_tempbalance import TempBalanceConfig, analyze
from hf_tempbalance.spectra.relative import marchenko_pastur_alpha


@pytest.mark.parametrize(
    ("aspect", "alpha"), [(1, 2.122), (3 / 4, 2.351), (1 / 2, 2.706), (1 / 3, 3.118), (1 / 4, 3.455), (1 / 8, 4.470)]
)
def test_known_exponents_of_the_median_fit(aspect, alpha):
    assert marchenko_pastur_alpha(aspect) == pytest.approx(alpha, abs=5e-4)


@pytest.mark.parametrize("quantile", [0.1, 0.5, 2 / 3, 0.9])
@pytest.mark.parametrize("aspect", [1.0, 0.3, 0.01])
def test_it_is_the_mean_logarithm_of_the_density_above_the_quantile(aspect, quantile):
    """In x instead of the angle, by brute force."""
    low, high = (1 - aspect**0.5) ** 2, (1 + aspect**0.5) ** 2
    edges = np.linspace(0, 1, 1_000_001) ** 2 * (high - low) + low  # denser where a square matrix's density diverges
    x, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    mass = np.sqrt((high - x) * (x - low)) / x * width
    mass /= mass.sum()
    start = np.searchsorted(mass.cumsum(), quantile)
    expected = 1 + mass[start:].sum() / (mass[start:] * np.log(x[start:] / x[start])).sum()
    assert marchenko_pastur_alpha(aspect, quantile) == pytest.approx(expected, rel=1e-4)


def gaussian(*shape: int) -> nn.Module:
    layer = nn.Linear(shape[1], shape[0]) if len(shape) == 2 else nn.Conv2d(shape[1], shape[0], shape[2:])
    nn.init.normal_(layer.weight, std=0.02)
    return nn.Sequential(layer)


@pytest.mark.parametrize(
    ("shape", "tolerance"),
    [
        *(((512, 512 * wider // 2), 0.025) for wider in (2, 3, 4, 6, 8, 12, 16)),
        ((1024, 1024), 0.012),
        ((2048, 1024), 0.012),
        ((256, 128, 3, 3), 0.014),
        ((128, 128, 3, 3), 0.014),
    ],
)
def test_an_untrained_gaussian_weight_of_any_shape_has_1(shape, tolerance):
    assert analyze(gaussian(*shape))[0].alpha_relative == pytest.approx(1, abs=tolerance)


@pytest.mark.parametrize("xmin_pos", [1.5, 4.0])
def test_wherever_the_tail_starts(xmin_pos):
    assert analyze(gaussian(512, 1024), TempBalanceConfig(xmin_pos=xmin_pos))[0].alpha_relative == pytest.approx(
        1, abs=0.03
    )


@pytest.mark.parametrize("aspect", [0.5, 1.0])
def test_of_windows_it_is_relative_to_the_window_s_aspect_ratio(aspect):
    config = TempBalanceConfig(window_rows=100, window_aspect=aspect)
    for shape in [(512, 512), (2048, 512), (256, 64, 3, 3)]:
        assert analyze(gaussian(*shape), config)[0].alpha_relative == pytest.approx(1, abs=0.06), shape


@pytest.mark.parametrize("fit", ["goodness-of-fit", "fix-finger", "xmin-peak"])
def test_a_fit_that_chooses_the_start_is_compared_at_the_share_that_it_chose(fit):
    spectrum = analyze(gaussian(512, 1024), TempBalanceConfig(fit=fit))[0]
    assert 0.8 < spectrum.alpha_relative < 1.25


def test_heavy_tails_are_below_1_and_no_exponent_has_none():
    model = gaussian(256, 256)
    with torch.no_grad():
        model[0].weight.copy_(torch.distributions.StudentT(2.0).sample((256, 256)))
    assert analyze(model)[0].alpha_relative < 0.95
    nn.init.zeros_(model[0].weight)
    assert math.isnan(analyze(model)[0].alpha_relative)


def test_it_stands_beside_alpha_in_the_record():
    names = list(analyze(gaussian(64, 64))[0].to_dict())
    assert names[names.index("alpha") + 1] == "alpha_relative"
