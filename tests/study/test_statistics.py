from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hf_tempbalance.study.statistics import interval, paired_difference


VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=12).filter(lambda values: len(set(values)) > 1)


@given(VALUES)
def test_the_interval_is_that_of_student_s_test(values):
    found = interval(values)
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6, abs=1e-9)
    assert found.n == len(values)


@given(VALUES, st.floats(-50, 50))
def test_the_same_shift_of_every_seed_is_the_difference_with_no_width(values, shift):
    baseline = dict(enumerate(values))
    found = paired_difference({seed: value + shift for seed, value in baseline.items()}, baseline)
    assert found.mean == pytest.approx(shift, abs=1e-9) and found.half_width == pytest.approx(0, abs=1e-9)


def test_the_difference_is_over_the_seeds_that_both_have():
    found = paired_difference({1: 2.0, 2: 3.0, 9: 100.0}, {2: 1.0, 1: 1.0, 7: -100.0})
    assert (found.n, found.mean) == (2, 1.5)


def test_a_published_example():
    # The paired differences of Student's own table of sleep (Biometrika, 1908): mean 1.58, t = 4.06.
    found = interval([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4])
    assert (found.mean, round(found.low, 2), round(found.high, 2)) == (pytest.approx(1.58), 0.7, 2.46)
    assert found.sign == "larger"


@pytest.mark.parametrize(
    ("values", "sign"),
    [
        ([1.0, 1.1, 0.9], "larger"),
        ([-1.0, -1.1, -0.9], "smaller"),
        ([1.0, -0.5, 0.7], "not shown"),
        ([5.0], "not shown"),
        ([], "not shown"),
        ([1.0, -1.0], "not shown"),
    ],
)
def test_a_sign_stands_only_where_the_interval_excludes_0(values, sign):
    assert interval(values).sign == sign


def test_one_value_has_a_mean_and_nothing_else():
    found = interval([3.0])
    assert found.mean == 3.0 and math.isnan(found.sd) and math.isnan(found.low)
