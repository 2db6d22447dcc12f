"""One kind of interval for studies and for compare-runs: Student's, and none where it would say too much."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hf_tempbalance.runs.intervals import interval, paired_difference


VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=12).filter(lambda values: len(set(values)) > 1)


@given(VALUES)
def test_the_interval_is_that_of_student_s_test(values):
    found = interval(values)
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6, abs=1e-9)
    assert found.n == len(values)


@given(VALUES, st.floats(-50, 50))
def test_a_shift_that_every_seed_has_shows_nothing(values, shift):
    found = paired_difference([value + shift - value for value in values])
    assert found.mean == pytest.approx(shift, abs=1e-9)
    assert math.isnan(found.half_width) or found.half_width == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("gains", [[0.01, 0.01, 0.01], [0.0, 0.0], [0.1 + 0.2, 0.3]])
def test_differences_without_spread_have_no_interval(gains):
    found = paired_difference(gains)
    assert math.isnan(found.low) and found.verdict == "not shown" and found.mean == pytest.approx(gains[0])


def test_the_mean_of_values_without_spread_is_known():
    assert (interval([0.0, 0.0]).low, interval([0.0, 0.0]).high) == (0.0, 0.0)


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_a_value_that_is_no_number_leaves_no_interval(odd):
    found = paired_difference([1.0, odd])
    assert found.verdict == "not shown" and math.isnan(found.low) and not math.isfinite(found.mean)
    assert math.isnan(interval([math.inf, -math.inf]).mean)


def test_a_published_example():
    # The paired differences of Student's own table of sleep (Biometrika, 1908): mean 1.58, t = 4.06.
    found = interval([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4])
    assert (found.mean, round(found.low, 2), round(found.high, 2)) == (pytest.approx(1.58), 0.7, 2.46)
    assert found.verdict == "above"


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([1.0, 1.1, 0.9], "above"),
        ([-1.0, -1.1, -0.9], "below"),
        ([1.0, -0.5, 0.7], "not shown"),
        ([5.0], "not shown"),
        ([], "not shown"),
        ([1.0, -1.0], "not shown"),
    ],
)
def test_a_verdict_stands_only_where_the_interval_excludes_0(values, verdict):
    assert interval(values).verdict == verdict


def test_one_value_has_a_mean_and_nothing_else():
    found = interval([3.0])
    assert found.mean == 3.0 and math.isnan(found.sd) and math.isnan(found.low)
