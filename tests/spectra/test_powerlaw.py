from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tempbalance.config import Fit
from hf_tempbalance.spectra import powerlaw
from hf_tempbalance.spectra.powerlaw import fit_power_law, fit_power_laws


FITS = get_args(Fit)
POWERS = [1.0, 2.0, 4.0, 8.0]
LONG_POWERS = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
SQUARES = [j * j for j in range(1, 61)]
HYPERBOLA = [60 / j for j in range(60, 0, -1)]


def fitted(values, **options):
    result = fit_power_law(torch.tensor(values, dtype=torch.float64), **options)
    return result.alpha.item(), result.D.item(), result.index.item()


@pytest.mark.parametrize(
    ("values", "fit", "alpha", "distance", "index"),
    [
        (POWERS, "median", 3.885390, 0.364665, 2),
        (POWERS, "goodness-of-fit", 1.961797, 0.236583, 0),
        (POWERS, "fix-finger", 1.961797, 0.236583, 0),
        (POWERS, "xmin-peak", 1.961797, 0.236583, 0),
        (LONG_POWERS, "median", 2.442695, 0.298787, 3),
        (LONG_POWERS, "goodness-of-fit", 1.577078, 0.217338, 0),
        (SQUARES, "median", 2.369823, 0.202577, 30),
        (SQUARES, "goodness-of-fit", 4.327368, 0.191484, 44),
        (SQUARES, "fix-finger", 4.327368, 0.191484, 44),
        (SQUARES, "xmin-peak", 6.338891, 0.196712, 49),
        (HYPERBOLA, "median", 2.095783, 0.033610, 30),
        (HYPERBOLA, "goodness-of-fit", 2.052032, 0.018656, 0),
        (HYPERBOLA, "fix-finger", 2.052032, 0.018656, 0),
        (HYPERBOLA, "xmin-peak", 2.052032, 0.018656, 0),
    ],
)
def test_known_spectra(values, fit, alpha, distance, index):
    assert fitted(values, fit=fit) == (pytest.approx(alpha, abs=1e-6), pytest.approx(distance, abs=1e-6), index)


def test_every_fit_of_the_settings_has_a_function():
    assert powerlaw.FITS.keys() == set(FITS)


def test_a_smaller_xmin_pos_puts_less_into_the_tail():
    assert fitted(SQUARES, xmin_pos=1.5) == (pytest.approx(3.477644, abs=1e-6), pytest.approx(0.192096, abs=1e-6), 40)


@given(size=st.integers(2, 3000), xmin_pos=st.floats(1.001, 50))
def test_the_median_fit_starts_at_N_over_xmin_pos(size, xmin_pos):
    spectrum = torch.arange(1, size + 1, dtype=torch.float64)
    assert fit_power_law(spectrum, xmin_pos=xmin_pos).index == int(size / xmin_pos)


# Values over many orders of magnitude that differ in their first 8 digits: of two that differ in the last bit alone,
# the difference of the logarithms is nothing but rounding, and so is the exponent. Sorted: a spectrum is ascending.
digits = st.floats(1e-6, 1e6).map(lambda value: float(f"{value:.7e}"))
spectra = st.lists(digits, min_size=4, max_size=80, unique=True).map(sorted)


@pytest.mark.parametrize("fit", FITS)
@settings(max_examples=60, deadline=None)
@given(values=spectra)
def test_the_fast_fit_is_the_plain_loop(fit, values):
    alpha, distance, index = reference.fit(np.array(values), fit)
    mine = fitted(values, fit=fit)
    # Two starts may be equally good up to rounding; the distance decides, and the exponent where the start agrees.
    assert mine[1] == pytest.approx(distance, rel=1e-6, abs=1e-9)
    if mine[2] == index:
        assert mine[0] == pytest.approx(alpha, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("law", ["gauss", "student"])
def test_a_long_spectrum_where_most_starts_are_skipped_gives_the_loop_s_result(law):
    generator = np.random.default_rng(3)
    shape = (9, 64, 64)
    weight = generator.standard_normal(shape) if law == "gauss" else generator.standard_t(2.5, shape)
    values = reference.eigenvalues(weight.transpose(1, 2, 0)[..., None])
    assert len(values) == 576
    alpha, distance, index = reference.fit(values, "goodness-of-fit")
    assert fitted(values.tolist(), fit="goodness-of-fit") == (pytest.approx(alpha), pytest.approx(distance), index)


@pytest.mark.parametrize("fit", ["median", "goodness-of-fit"])
@settings(max_examples=30, deadline=None)
@given(values=spectra, factor=st.floats(1e-3, 1e3))
def test_alpha_and_D_do_not_change_when_the_spectrum_is_multiplied(fit, values, factor):
    scaled = fitted([value * factor for value in values], fit=fit)
    assert scaled[:2] == pytest.approx(fitted(values, fit=fit)[:2], rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(exponent=st.floats(1.5, 5.0))
def test_an_exact_power_law_is_recovered(exponent):
    quantiles = (np.arange(4000) + 0.5) / 4000
    values = (1 - quantiles) ** (-1 / (exponent - 1))
    alpha, distance, _ = fitted(values.tolist(), fit="goodness-of-fit")
    assert alpha == pytest.approx(exponent, rel=0.02)
    assert distance < 0.01


@pytest.mark.parametrize("fit", FITS)
def test_spectra_in_a_batch_do_not_affect_each_other(fit):
    rows = torch.stack([torch.tensor(SQUARES), torch.tensor(HYPERBOLA), torch.full((60,), torch.nan)]).double()
    batch = fit_power_law(rows, fit=fit)
    for row in range(2):
        alone = fit_power_law(rows[row], fit=fit)
        assert batch.alpha[row] == alone.alpha and batch.D[row] == alone.D
    assert batch.alpha[2].isnan()


@pytest.mark.parametrize("fit", FITS)
def test_spectra_of_all_lengths_are_fitted_together_as_alone_in_blocks_of_any_size(fit, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    sizes = [2, 3, 60, 63, 64, 65, 100, 127, 128, 700, 1025, 1300, 64]
    rows = [torch.rand(size, generator=generator, dtype=torch.float64).pow(-1.5).sort().values for size in sizes]
    rows += [torch.zeros(70).double(), torch.full((90,), torch.nan).double(), torch.tensor(HYPERBOLA).double()]
    for block in (1 << 17, 2000, 1):
        monkeypatch.setattr(powerlaw, "BLOCK_ELEMENTS", block)
        together = fit_power_laws(rows, fit=fit)
        if block == 1 << 17:
            alone = [fit_power_law(row, fit=fit) for row in rows]
        for one, other in zip(together, alone, strict=True):
            assert all(torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)) for a, b in zip(one, other, strict=True))
    assert fit_power_laws([], fit=fit) == []


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("values", [[0.0] * 8, [float("nan")] * 8, [1.0] * 7 + [float("inf")]])
def test_a_spectrum_without_information_has_alpha_nan_and_raises_nothing(fit, values):
    assert np.isnan(fitted(values, fit=fit)[0])


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5)])
def test_no_spectra_have_no_fits(fit, shape):
    found = fit_power_law(torch.empty(shape, dtype=torch.float64), fit=fit)
    assert [field.shape for field in found] == [shape[:-1]] * 4
    assert [field.dtype for field in found] == [torch.float64] * 3 + [torch.int64]


def test_more_zeros_than_half_leave_the_median_without_an_alpha():
    assert np.isnan(fitted([0.0] * 6 + [1.0, 2.0, 3.0])[0])
    assert np.isfinite(fitted([0.0] * 3 + [1.0, 2.0, 3.0])[0])


def test_zeros_are_no_candidates_of_a_scan():
    assert fitted([0.0] * 5 + HYPERBOLA, fit="goodness-of-fit")[2] == 5


def test_a_tail_of_equal_values_has_alpha_infinite():
    assert fitted([1.0, 2.0, 3.0, 3.0])[0] == float("inf")


def test_what_fix_finger_never_evaluated_is_0_and_xmin_peak_says_nan():
    # The fullest bin is at 100, so the lower bound of the reference is log10(95) = 1.98, above the first value.
    # All candidates above have alpha infinite: there is nothing to choose from.
    values = [1e-3, 100.0, 100.0, 100.0]
    assert fitted(values, fit="fix-finger") == (0.0, 1.0, 0)
    assert np.isnan(fitted(values, fit="xmin-peak")[0])


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (torch.ones(1), {}, "at least 2 eigenvalues, not 1"),
        (torch.ones(4, dtype=torch.int64), {}, "dtype torch.int64"),
        (torch.ones(4), {"xmin_pos": 1.0}, "xmin_pos=1.0"),
    ],
)
def test_input_that_can_not_be_fitted_is_refused(values, options, message):
    with pytest.raises(ValueError, match=message):
        fit_power_law(values, **options)
