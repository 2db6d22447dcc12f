"""SGD with spectral-norm regularisation, against a direct SVD and against torch's SGD."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import ConvNet
from torch import nn

from hf_tempbalance import TempBalancer
from hf_tempbalance.optim import SGDSNR
from hf_tempbalance.optim.sgd_snr import largest_singular_triplets


def with_gap(*shape: int, dtype=torch.float64) -> torch.Tensor:
    """A random weight whose largest singular value is eight times the next, so that 5 iterations find it."""
    flat = torch.randn(shape, dtype=dtype).flatten(1)
    u, s, vh = torch.linalg.svd(flat, full_matrices=False)
    s = s / s[0]
    s[0] = 8 * s[1] if len(s) > 1 else s[0]
    return ((u * s) @ vh).view(shape)


def expected_gradient(weight: torch.Tensor, coefficient: float) -> torch.Tensor:
    u, s, vh = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    return coefficient * s[0] * torch.outer(u[:, 0], vh[0]).view_as(weight)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (5, 1), (1, 5), (8, 3, 3, 3), (4, 5, 3)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_step_adds_the_gradient_of_half_the_squared_spectral_norm_with_and_without_weight_decay(shape, weight_decay):
    weight = nn.Parameter(with_gap(*shape))
    start, weight.grad = weight.detach().clone(), torch.randn_like(weight)
    gradient = weight.grad.clone()
    SGDSNR([weight], lr=0.1, spectral_norm_regularization=0.3, weight_decay=weight_decay).step()
    step = gradient + weight_decay * start + expected_gradient(start, 0.3)
    assert torch.allclose(weight, start - 0.1 * step, rtol=0, atol=2e-3 * 0.1)
    assert torch.equal(weight.grad, gradient)


def test_the_term_is_the_derivative_of_the_penalty():
    weight = with_gap(7, 11).requires_grad_()
    penalty = 0.5 * torch.linalg.matrix_norm(weight, ord=2) ** 2
    (gradient,) = torch.autograd.grad(penalty, weight)
    assert torch.allclose(gradient, expected_gradient(weight.detach(), 1.0))


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 12), columns=st.integers(1, 12), count=st.integers(1, 4), seed=st.integers(0, 99))
def test_power_iterations_together_are_those_of_each_matrix_and_converge_from_below(rows, columns, count, seed):
    torch.manual_seed(seed)
    matrices = torch.randn(count, rows, columns, dtype=torch.float64)
    true = torch.linalg.svdvals(matrices)[:, 0]
    few, many = (largest_singular_triplets(matrices, seed=3, iterations=n) for n in (5, 500))
    assert (few[1] <= true * (1 + 1e-9)).all()
    assert torch.allclose(many[1], true, rtol=1e-2)
    for i in range(count):
        alone = largest_singular_triplets(matrices[i : i + 1], seed=3)
        assert all(torch.allclose(a[0], b[i], atol=1e-8) for a, b in zip(alone, few, strict=True))


def test_a_zero_matrix_adds_nothing():
    weight = nn.Parameter(torch.zeros(4, 4))
    weight.grad = torch.zeros(4, 4)
    SGDSNR([weight], lr=1.0, spectral_norm_regularization=1.0).step()
    assert torch.equal(weight, torch.zeros(4, 4))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 1, 8, 8, generator=generator))["logits"].square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("options", [{"momentum": 0.9, "weight_decay": 0.01}, {"momentum": 0.9, "nesterov": True}, {}])
def test_with_coefficient_0_and_for_vectors_it_is_torch_s_sgd(options):
    model = ConvNet()
    twin = copy.deepcopy(model)
    train(model, SGDSNR(model.parameters(), 0.1, spectral_norm_regularization=0.0, **options), 4)
    train(twin, torch.optim.SGD(twin.parameters(), 0.1, **options), 4)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    bias = nn.Parameter(torch.ones(3))
    bias.grad = torch.ones(3)
    SGDSNR([bias], 0.1, spectral_norm_regularization=5.0).step()
    assert torch.equal(bias, torch.full((3,), 0.9))


def test_it_keeps_spectral_norms_smaller():
    norms = []
    for coefficient in (0.0, 2.0):
        torch.manual_seed(0)
        model = ConvNet()
        train(model, SGDSNR(model.parameters(), 0.1, spectral_norm_regularization=coefficient), 20)
        norms.append(
            sum(torch.linalg.matrix_norm(p.flatten(1), ord=2).item() for p in model.parameters() if p.dim() > 1)
        )
    assert norms[1] < 0.7 * norms[0]


def test_after_a_load_both_go_on_in_lock_step_and_no_generator_is_read():
    model = ConvNet()
    optimizer = SGDSNR(model.parameters(), 0.1, momentum=0.9)
    train(model, optimizer, 3)
    twin = copy.deepcopy(model)
    other = SGDSNR(twin.parameters(), 0.1, momentum=0.9)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    state = torch.get_rng_state()
    optimizer.zero_grad()
    train(model, optimizer, 3)
    train(twin, other, 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert optimizer.param_groups[0]["step"] == 6


def test_the_hooks_of_step_run_once():
    model = ConvNet()
    torch.optim.SGD(model.parameters(), 0.1)  # torch puts hooks into the class at its first use
    optimizer, calls = SGDSNR(model.parameters(), 0.1), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    train(model, optimizer, 1)
    assert calls == ["before", "after"]


def test_groups_may_have_their_own_coefficient_and_a_closure_gives_the_loss():
    one, two = (nn.Parameter(with_gap(4, 4)) for _ in range(2))
    starts = [one.detach().clone(), two.detach().clone()]
    groups = [{"params": [one], "spectral_norm_regularization": 0.5}, {"params": [two]}]
    optimizer = SGDSNR(groups, lr=0.1, spectral_norm_regularization=0.0)

    def closure():
        optimizer.zero_grad()
        loss = 0 * (one.sum() + two.sum()) + 3
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 3
    assert torch.allclose(one, starts[0] - 0.1 * expected_gradient(starts[0], 0.5), atol=1e-3)
    assert torch.equal(two, starts[1])


def test_tempbalance_multiplies_its_rates(optimizer_rates):
    model = ConvNet()
    optimizer = SGDSNR(model.parameters(), 0.1, momentum=0.9)
    seen = optimizer_rates(model, optimizer)
    balancer = TempBalancer(model, optimizer)
    balancer.rebalance()
    train(model, optimizer, 2)
    assert seen == {name: 0.1 * multiplier for name, multiplier in balancer.lr_multipliers.items()}
    assert optimizer.param_groups[0]["step"] == 2


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_a_coefficient_out_of_range_is_an_error(value):
    with pytest.raises(ValueError, match=f"spectral_norm_regularization={value}"):
        SGDSNR([nn.Parameter(torch.zeros(2, 2))], 0.1, spectral_norm_regularization=value)
