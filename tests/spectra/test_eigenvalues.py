from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hf_tempbalance.spectra.eigenvalues import squared_singular_values
from hf_tempbalance.spectra.weights import as_stack


TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}  # of the largest eigenvalue


def stack_of(weight: torch.Tensor) -> torch.Tensor:
    return as_stack(weight, "linear" if weight.dim() == 2 else "conv2d")


shapes = st.one_of(
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 3), st.integers(1, 3)),
)


@settings(max_examples=60, deadline=None)
@given(shape=shapes, dtype=st.sampled_from(list(TOLERANCE)), seed=st.integers(0, 1000))
def test_eigenvalues_are_squared_singular_values_of_each_kernel_position(shape, dtype, seed):
    weight = torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)
    values = squared_singular_values([stack_of(weight)])[0]
    expected = reference.eigenvalues(weight.double().numpy())
    assert values.dtype == dtype
    assert values.shape == expected.shape
    assert values.double().numpy() == pytest.approx(expected, abs=TOLERANCE[dtype] * expected[-1])


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(2, 40), columns=st.integers(2, 40))
def test_the_spectrum_of_a_matrix_and_of_its_transpose_are_one(rows, columns):
    weight = torch.randn(rows, columns, dtype=torch.float64)
    one, other = squared_singular_values([stack_of(weight), stack_of(weight.T.contiguous())])
    assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


def test_an_orthogonal_factor_changes_nothing():
    weight = torch.randn(60, 40, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(60, 60, dtype=torch.float64))[0]
    one, other = squared_singular_values([stack_of(weight), stack_of(rotation @ weight)])
    assert torch.allclose(one, other, rtol=1e-9)


def test_layers_of_all_sizes_in_one_call_are_those_of_single_calls():
    sizes = [(300, 500), (500, 300), (64, 64), (64, 200), (16, 16, 3, 3), (32, 16, 1, 1), (300, 300)]
    stacks = [stack_of(torch.randn(size)) for size in sizes]
    together = squared_singular_values(stacks)
    for stack, values in zip(stacks, together, strict=True):
        assert torch.allclose(values, squared_singular_values([stack])[0], rtol=1e-4, atol=1e-3)
        assert values.diff().min() >= 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_cast_up(dtype):
    weight = torch.randn(64, 48).to(dtype)
    half, full = squared_singular_values([stack_of(weight), stack_of(weight.float())])
    assert half.dtype == torch.float32
    assert torch.equal(half, full)


def test_rank_deficient_weights_have_exact_zeros():
    weight = torch.randn(100, 7, dtype=torch.float64) @ torch.randn(7, 80, dtype=torch.float64)
    for dtype in TOLERANCE:
        values = squared_singular_values([stack_of(weight.to(dtype))])[0]
        # In float32 the weights themselves are rounded, which lifts the rest a little above the solver's error.
        assert (values > values[-1] * 1e-6).sum() == 7
    assert (squared_singular_values([stack_of(weight)])[0] == 0).sum() >= 60


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_a_stack_that_is_not_finite_is_nan_and_changes_no_other(bad):
    healthy = torch.randn(64, 64)
    broken = healthy.clone()
    broken[3, 5] = bad
    values = squared_singular_values([stack_of(healthy), stack_of(broken)])
    assert values[1].isnan().all() and len(values[1]) == 64
    assert torch.equal(values[0], squared_singular_values([stack_of(healthy)])[0])


def test_one_bad_kernel_position_makes_the_whole_layer_nan():
    weight = torch.randn(16, 16, 3, 3)
    weight[0, 0, 2, 1] = float("nan")
    assert squared_singular_values([stack_of(weight)])[0].isnan().all()


def test_zero_and_empty_weights():
    zero, empty = squared_singular_values([stack_of(torch.zeros(8, 5)), stack_of(torch.zeros(0, 5))])
    assert torch.equal(zero, torch.zeros(5))
    assert empty.shape == (0,)


def test_the_number_of_threads_is_put_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        threads = torch.__config__.parallel_info()  # of OpenMP and of MKL
        squared_singular_values([stack_of(torch.randn(600, 600)) for _ in range(3)])
        assert torch.__config__.parallel_info() == threads
    finally:
        torch.set_num_threads(before)


def test_weights_that_require_a_gradient_get_none():
    weight = nn.Parameter(torch.randn(600, 600))
    values = squared_singular_values([weight.unsqueeze(0), weight.unsqueeze(0)])
    assert not any(value.requires_grad for value in values)


def test_no_copy_of_the_weights_is_made():
    conv = nn.Conv2d(8, 8, 3)
    assert as_stack(conv.weight, "conv2d").data_ptr() == conv.weight.data_ptr()


@pytest.mark.parametrize("error", [NotImplementedError, torch.linalg.LinAlgError])
def test_where_the_device_has_no_solver_or_it_fails_to_converge_lapack_decides(monkeypatch, error):
    stacks = [stack_of(torch.randn(40, 30)), stack_of(torch.randn(20, 30))]
    expected = squared_singular_values(stacks)
    original, asked = torch.linalg.eigvalsh, []

    def fails_at_first(gram, **options):
        asked.append(gram.device)
        if len(asked) % 2:
            raise error("not here")
        return original(gram, **options)

    monkeypatch.setattr(torch.linalg, "eigvalsh", fails_at_first)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # one after the other
    found = squared_singular_values(stacks)
    assert len(asked) == 4 and all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
