"""WeightWatcher's sigma, num_pl_spikes, num_ERG_spikes and num_traps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hf_tempbalance.spectra.analysis import analyze_weights
from hf_tempbalance.spectra.spikes import num_erg_spikes, num_traps, tail_columns
from hf_tempbalance.spectra.weights import find_weights


def spectrum(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("values", "number"),
    [
        ((0.1, 0.2, 0.3, 3.4), 3),  # 3.4, 1.02, 0.204
        ((0.25, 0.5, 1.0, 2.25), 4),  # the product of all is the first below 1
        ((0.0, 0.0, 0.0, 4.0), 2),
        ((1.0, 1.0, 1.0), 0),
        ((0.0, 0.0), math.nan),
        ((1.0, math.inf), math.nan),
    ],
)
def test_the_largest_eigenvalues_up_to_a_product_below_1(values, number):
    assert num_erg_spikes(spectrum(*values)) == pytest.approx(number, nan_ok=True)
    assert num_erg_spikes(1e-9 * spectrum(*values)) == pytest.approx(number, nan_ok=True)


def test_a_product_that_overflows_is_summed_all_the_same():
    values = torch.cat([torch.full((3000,), 1e-300, dtype=torch.float64), torch.ones(1000, dtype=torch.float64)])
    assert values.flip(0).div(values.mean()).cumprod(0).isinf().any()
    assert num_erg_spikes(values) == 1003  # 1000 ln 4 = 1386, less 689.4 for each small one


def test_sigma_is_the_standard_error_of_the_exponent():
    weights = list(find_weights(nn.Sequential(nn.Linear(64, 80))))
    found, eigenvalues = next(analyze_weights(weights))
    columns = tail_columns(found, eigenvalues)
    assert columns["num_pl_spikes"] == 32
    assert columns["sigma"] == pytest.approx((found.alpha - 1) / math.sqrt(32))
    assert all(math.isnan(value) for value in tail_columns(found, None).values())


@pytest.mark.parametrize("shape", [(200, 200), (400, 100), (100, 400)])
def test_traps_are_single_large_entries_and_not_correlations(shape):
    weight = torch.randn(1, *shape)
    assert num_traps(weight) == 0
    correlated = weight + torch.linspace(-3, 3, shape[0]).unsqueeze(1)  # one large eigenvalue, all of it order
    assert torch.linalg.svdvals(correlated[0])[0] > 2 * torch.linalg.svdvals(weight[0])[0]
    assert num_traps(correlated) == 0
    weight[0, [3, 50, 70], [9, 20, 90]] = 100.0
    assert num_traps(weight) == 3


def test_traps_of_kernel_positions_are_added_up():
    weight = torch.randn(4, 80, 60)
    weight[1, 5, 5] = weight[3, 6, 6] = -100.0
    assert num_traps(weight) == 2


def test_shuffling_is_seeded_and_touches_nothing():
    weight = torch.distributions.StudentT(1.5).sample((1, 60, 60))
    before, state = weight.clone(), torch.get_rng_state()
    assert num_traps(weight, seed=1) == num_traps(weight, seed=1)
    assert torch.equal(weight, before) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("weight", [torch.zeros(1, 5, 5), torch.full((1, 5, 5), math.nan), torch.zeros(1, 0, 5)])
def test_what_has_no_spectrum_has_no_traps(weight):
    assert math.isnan(num_traps(weight))
