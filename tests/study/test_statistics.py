"""What several paired comparisons support, and how many seeds a difference needs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hf_tempbalance.runs.intervals import interval, paired_difference
from hf_tempbalance.study.statistics import detectable, holm, p_value, seeds_needed


P_VALUES = st.lists(st.floats(0.0, 1.0), max_size=12)


def test_the_p_value_is_that_of_students_paired_test():
    gains = [1.0, 2.5, -0.3, 0.9]
    assert p_value(paired_difference(gains)) == pytest.approx(stats.ttest_1samp(gains, 0.0).pvalue, rel=1e-12)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=8))
def test_the_interval_excludes_0_where_the_p_value_is_below_5_percent_and_nowhere_else(gains):
    difference = paired_difference(gains)
    p = p_value(difference)
    if math.isnan(p):
        assert difference.verdict == "not shown"
    elif abs(p - 0.05) > 1e-9:
        assert (difference.verdict != "not shown") == (p < 0.05)


@pytest.mark.parametrize("gains", [[], [1.0], [2.0, 2.0, 2.0]])
def test_without_an_interval_there_is_no_p_value(gains):
    assert math.isnan(p_value(paired_difference(gains)))


@given(P_VALUES, st.floats(0.001, 0.5))
def test_holm_rejects_what_its_definition_rejects(values, level):
    """From the smallest on, each is compared with level / (those that are left); at the first that fails all stop."""
    rejected = set()
    for k, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        if values[place] * (len(values) - k) > level:
            break
        rejected.add(place)
    assert {place for place, p in enumerate(holm(values)) if p <= level} == rejected


def test_holm_by_hand_and_in_the_order_given():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_what_was_not_tested_is_not_counted_by_holm():
    corrected = holm([math.nan, 0.01, math.nan, 0.02])
    assert corrected[1] == pytest.approx(0.02) and corrected[3] == pytest.approx(0.02)
    assert math.isnan(corrected[0]) and math.isnan(corrected[2])


def test_the_detectable_difference_is_shown_by_80_percent_of_studies():
    """Cohen's d = 0.5 takes 34 pairs for a power of 0.8, as tables of the paired t test have it."""
    assert detectable(1.0, 33) > 0.5 > detectable(1.0, 34)
    rng = np.random.default_rng(0)
    for n in (3, 5):
        draws = rng.normal(detectable(2.0, n), 2.0, size=(20_000, n))
        means, half = draws.mean(1), stats.t.ppf(0.975, n - 1) * draws.std(1, ddof=1) / math.sqrt(n)
        assert np.mean(means - half > 0) == pytest.approx(0.8, abs=0.012)  # 4 standard errors


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_seeds_show_nothing(n):
    assert math.isnan(detectable(1.0, n))


def test_the_spread_of_one_pair_is_unknown_and_so_is_what_it_would_show():
    assert math.isnan(detectable(interval([1.0]).sd, 5)) and seeds_needed(1.0, math.nan) is None


@pytest.mark.parametrize("difference", [0.1, -0.3, 1.0, 3.0, 20.0])
def test_the_seeds_that_are_needed_are_the_fewest_that_show_the_difference(difference):
    n = seeds_needed(difference, 1.0)
    assert detectable(1.0, n) <= abs(difference)
    assert n == 2 or detectable(1.0, n - 1) > abs(difference)


def test_no_number_of_seeds_shows_a_difference_of_0():
    assert seeds_needed(0.0, 1.0) is None and seeds_needed(0.001, 1.0) is None
