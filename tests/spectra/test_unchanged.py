"""What is not decomposed a second time, and what never is."""

from __future__ import annotations

import pytest
import torch
from tiny import mlp
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from hf_tempbalance import TempBalanceConfig, TempBalancer, analyze
from hf_tempbalance.spectra import analysis


CONFIG = TempBalanceConfig(min_eigenvalues=1)


@pytest.fixture
def decomposed(monkeypatch) -> list[tuple[int, ...]]:
    """Shapes of the weights that are decomposed, in the order of the looks."""
    shapes = []
    original = analysis.squared_singular_values

    def spy(stacks, *arguments):
        shapes.extend(tuple(stack.shape[1:]) for stack in stacks)
        return original(stacks, *arguments)

    monkeypatch.setattr(analysis, "squared_singular_values", spy)
    return shapes


def balanced(frozen: tuple[str, ...] = ("fc1", "fc2")) -> TempBalancer:
    model = mlp(64, 65, 66, 67, 68, 69, 70, 71)
    for name in frozen:
        model.get_submodule(name).requires_grad_(False)
    return TempBalancer(model, torch.optim.SGD(model.parameters(), lr=0.1), CONFIG)


def test_a_second_look_leaves_out_what_is_frozen_and_has_the_same_results(decomposed):
    balancer = balanced()
    first = balancer.rebalance()
    assert len(decomposed) == 7
    decomposed.clear()
    second = balancer.rebalance()
    assert sorted(decomposed) == [(65, 64), *((n + 1, n) for n in range(67, 71))]
    assert second == first == analyze(balancer.model, CONFIG)


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda p: p.mul_(2), id="in place"),
        pytest.param(lambda p: p.copy_(torch.randn_like(p)), id="copy, as load_state_dict does"),
        pytest.param(lambda p: setattr(p, "data", torch.randn_like(p)), id="another tensor"),
    ],
)
def test_a_frozen_weight_that_was_written_into_is_looked_at_again(decomposed, write):
    balancer = balanced()
    balancer.rebalance()
    with torch.no_grad():
        write(balancer.model.fc1.weight)
    decomposed.clear()
    spectra = balancer.rebalance()
    looked_at = list(decomposed)
    assert spectra == analyze(balancer.model, CONFIG)
    assert (66, 65) in looked_at and (67, 66) not in looked_at


def test_a_layer_that_is_set_free_is_looked_at_again(decomposed):
    balancer = balanced()
    balancer.rebalance()
    balancer.model.fc2.requires_grad_(True)
    decomposed.clear()
    spectra = {s.name: s for s in balancer.rebalance()}
    assert (67, 66) in decomposed and spectra["fc2"].excluded_by is None


def test_a_weight_that_is_trained_is_always_looked_at_though_its_counter_may_stand(decomposed):
    balancer = balanced(frozen=())
    balancer.rebalance()
    balancer.model.fc3.weight.data.mul_(3)  # past the version counter, as some optimizers write
    decomposed.clear()
    spectra = balancer.rebalance()
    assert len(decomposed) == 7 and spectra == analyze(balancer.model, CONFIG)


def test_a_vocabulary_is_decomposed_for_nobody_who_does_not_balance_it(decomposed):
    size = {"n_embd": 64, "n_layer": 2, "n_head": 2, "vocab_size": 500, "n_positions": 80}
    tied = GPT2LMHeadModel(GPT2Config(**size))
    spectra = {s.name: s for s in analyze(tied)}
    assert (500, 64) not in decomposed
    assert spectra["lm_head"].excluded_by == "last" and spectra["lm_head"].alpha != spectra["lm_head"].alpha
    own = GPT2LMHeadModel(GPT2Config(**size, tie_word_embeddings=False))
    analyze(own)
    assert (500, 64) not in decomposed
    spectra = {s.name: s for s in analyze(own, TempBalanceConfig(exclude_last=False))}  # a rule uses it
    assert (500, 64) in decomposed and spectra["lm_head"].excluded_by is None


def test_a_classifier_head_is_reported_though_it_is_not_balanced():
    spectra = analyze(nn.Sequential(nn.Embedding(500, 64), *mlp(64, 64, 64, 60).children()))
    assert spectra[-1].excluded_by == "last" and spectra[-1].alpha > 1


@pytest.mark.parametrize("limit", [1, 70_000, 1 << 30])
@pytest.mark.parametrize("fit", ["median", "goodness-of-fit"])
def test_the_size_of_a_batch_changes_no_result(limit, fit):
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(64, 64, 3) for _ in range(3)), nn.Flatten(), *mlp(128, 128, 96, 64).children())
    options = {"fit": fit, "min_eigenvalues": 1}
    expected = analyze(model, TempBalanceConfig(**options))
    assert analyze(model, TempBalanceConfig(**options, max_batch_bytes=limit)) == expected


def test_the_number_of_threads_changes_no_result():
    model = mlp(200, 190, 180, 170, 160)
    config = TempBalanceConfig(fit="goodness-of-fit", min_eigenvalues=1)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = analyze(model, config)
        torch.set_num_threads(3)
        assert analyze(model, config) == one
    finally:
        torch.set_num_threads(threads)


def test_max_batch_bytes_is_checked():
    with pytest.raises(ValueError, match="max_batch_bytes=0 is not allowed: it must be 1 or larger"):
        TempBalanceConfig(max_batch_bytes=0)
