from __future__ import annotations

from typing import get_args

import pytest
import reference
from hypothesis import example, given
from hypothesis import strategies as st

from hf_tempbalance.balance.mapping import MAPPINGS, is_usable, map_scores
from hf_tempbalance.config import Mapping


NAMES = get_args(Mapping)
scores = st.lists(st.floats(1.01, 100.0), min_size=2, max_size=30, unique=True)


def test_there_is_a_function_for_every_name_and_no_other():
    assert set(MAPPINGS) == set(NAMES)


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ("linear", [0.5, 0.8333, 1.5]),
        ("sqrt", [0.788, 0.965, 1.246]),
        ("log2", [0.611, 0.969, 1.420]),
        ("step", [0.5, 0.8333, 1.1667]),
        ("sigmoid", [0.5, 0.5245, 1.5]),
        ("geometric", [0.5, 0.7211, 1.5]),
    ],
)
def test_known_scores(mapping, expected):
    assert map_scores([2.0, 3.0, 5.0], mapping) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("mapping", NAMES)
@given(values=scores)
def test_it_is_the_formula(mapping, values):
    assert map_scores(values, mapping, min_ratio=0.6, max_ratio=1.4) == pytest.approx(
        reference.multipliers(values, mapping, 0.6, 1.4), rel=1e-9
    )


@pytest.mark.parametrize("mapping", NAMES)
@given(values=scores)
def test_a_larger_score_never_gets_a_smaller_multiplier(mapping, values):
    pairs = sorted(zip(values, map_scores(values, mapping), strict=True))
    assert all(one[1] <= other[1] for one, other in zip(pairs, pairs[1:], strict=False))


@given(values=scores, low=st.floats(0, 1), high=st.floats(1, 5))
def test_linear_gives_the_ends_exactly_and_all_others_between(values, low, high):
    multipliers = map_scores(values, "linear", min_ratio=low, max_ratio=high)
    assert multipliers[values.index(min(values))] == low
    assert multipliers[values.index(max(values))] == high
    assert all(low <= multiplier <= high for multiplier in multipliers)


@pytest.mark.parametrize("mapping", ["sqrt", "log2"])
@given(values=scores)
def test_sqrt_and_log2_keep_the_mean_rate(mapping, values):
    multipliers = map_scores(values, mapping)
    assert sum(multipliers) / len(multipliers) == pytest.approx(1)


@pytest.mark.parametrize("mapping", NAMES)
@given(values=scores, order=st.randoms())
def test_permuting_the_layers_permutes_the_multipliers(mapping, values, order):
    permutation = list(range(len(values)))
    order.shuffle(permutation)
    expected = map_scores(values, mapping)
    assert map_scores([values[i] for i in permutation], mapping) == pytest.approx([expected[i] for i in permutation])


extreme = st.sampled_from([5e-324, 1e-320, 2e-320, 1e-310, 1e-300, 0.0, 1.0, 1 + 2**-52, 1e300, -1e308, 1.7e308])
any_scores = st.lists(st.floats() | extreme, min_size=2, max_size=12)


@pytest.mark.parametrize("mapping", NAMES)
@given(values=any_scores)
@example(values=[0.0, 1e-320, 2e-320])  # differences whose quotient is infinite
@example(values=[-1.7e308, 0.0, 1.7e308])  # and whose difference is
def test_whatever_the_scores_are_a_multiplier_is_a_number_within_its_bounds(mapping, values):
    multipliers = map_scores(values, mapping)
    bounds = (0.0, max(len(values), 1)) if mapping in ("sqrt", "log2") else (0.5, 1.5)
    assert all(bounds[0] <= multiplier <= bounds[1] * (1 + 1e-9) for multiplier in multipliers)


def test_denormal_scores_are_mapped_as_others():
    assert map_scores([0.0, 1e-320, 2e-320], "linear") == pytest.approx([0.5, 1.0, 1.5], rel=1e-3)
    assert map_scores([-1e308, 0.0, 1e308], "linear") == [0.5, 1.0, 1.5]


@pytest.mark.parametrize("mapping", NAMES)
@pytest.mark.parametrize("values", [[], [3.0], [2.5, 2.5, 2.5]])
def test_equal_scores_one_score_and_none_give_1(mapping, values):
    assert map_scores(values, mapping) == [1.0] * len(values)


@pytest.mark.parametrize("mapping", NAMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_gets_1_and_changes_no_other(mapping, bad):
    multipliers = map_scores([2.0, bad, 3.0, 5.0], mapping)
    assert multipliers[1] == 1.0
    assert multipliers[:1] + multipliers[2:] == map_scores([2.0, 3.0, 5.0], mapping)


@pytest.mark.parametrize(("mapping", "bad"), [("sqrt", -0.1), ("log2", 0.5), ("log2", -3.0), ("log2", 0.0)])
def test_a_score_outside_the_formula_s_domain_gets_1_instead_of_a_negative_rate(mapping, bad):
    assert map_scores([bad, 2.0, 3.0, 5.0], mapping) == [1.0, *map_scores([2.0, 3.0, 5.0], mapping)]
    assert is_usable([bad, 2.0], mapping).tolist() == [False, True]


def test_multipliers_are_python_floats():
    # A np.float64 in a parameter group makes optimizer.pt unloadable.
    assert all(type(multiplier) is float for multiplier in map_scores([2.0, 3.0, float("nan")]))
