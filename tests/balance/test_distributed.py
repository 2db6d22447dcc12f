"""Sharing out the layers between processes: every one has an owner, all ranks agree, and the load is balanced."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_tempbalance.balance.distributed import exchange, from_first_rank, rank_and_size, share_out


costs = st.lists(st.floats(min_value=0, max_value=1e12), max_size=40)


def largest_load(costs, owners, size):
    return max(sum(cost for cost, owner in zip(costs, owners, strict=True) if owner == rank) for rank in range(size))


@given(costs, st.integers(1, 8))
def test_every_job_has_one_owner_and_every_rank_finds_the_same(costs, size):
    owners = share_out(costs, size)
    assert len(owners) == len(costs)
    assert all(owner in range(size) for owner in owners)
    assert owners == share_out(list(costs), size)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=7), st.integers(1, 3))
def test_the_largest_load_is_at_most_4_thirds_of_the_best_possible(costs, size):
    best = min(largest_load(costs, owners, size) for owners in product(range(size), repeat=len(costs)))
    assert largest_load(costs, share_out(costs, size), size) <= (4 / 3 - 1 / (3 * size)) * best + 1e-9


def test_balanced_by_cost_and_not_by_count():
    costs = [768**3] + [96**3] * 400  # one matrix costs as much as 512 small ones
    owners = share_out(costs, 2)
    assert sum(owner == owners[0] for owner in owners) == 1


@given(costs, st.integers(2, 8))
def test_nobody_is_idle_while_another_has_two_jobs(costs, size):
    owners = share_out([cost + 1.0 for cost in costs], size)
    counts = [owners.count(rank) for rank in range(size)]
    assert max(counts) <= 1 or min(counts) >= 1


@pytest.mark.parametrize("value", [{"a": 1.0}, None, "text"])
def test_without_a_process_group_everything_is_ones_own(value):
    assert rank_and_size() == (0, 1)
    assert exchange(value) == [value]
    assert from_first_rank(value) is value
