"""What holds for the sparsities of any spectra, and what is said about values that are not allowed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import mlp
from torch import nn

from hf_tempbalance import LayerSpectrum, analyze, layer_sparsities


SHARES = st.floats(0, 1)
ALPHAS = st.floats(1.01, 1e6)


def spectrum(name: str, alpha: float, *shape: int, kind: str = "linear") -> LayerSpectrum:
    numbers = dict.fromkeys(("alpha_hat", "xmin", "D", "spectral_norm", "norm", "stable_rank", "entropy"), 1.0)
    return replace(TEMPLATE, name=name, kind=kind, shape=shape, alpha=alpha, **numbers)


TEMPLATE = analyze(nn.Sequential(nn.Linear(4, 4)))[0]


@st.composite
def networks(draw, alphas=ALPHAS) -> list[LayerSpectrum]:
    """Blocks of one to three linear layers of different sizes."""
    blocks = draw(st.lists(st.lists(st.tuples(alphas, st.integers(1, 5000)), min_size=1, max_size=3), min_size=1))
    return [
        spectrum(f"layers.{i}.fc{j}", alpha, rows, 7)
        for i, block in enumerate(blocks)
        for j, (alpha, rows) in enumerate(block)
    ]


def total(spectra: list[LayerSpectrum], sparsities: dict[str, float]) -> float:
    sizes = {layer.name: math.prod(layer.shape) for layer in spectra}
    return math.fsum(sizes[name] * share for name, share in sparsities.items()) / sum(sizes[n] for n in sparsities)


@given(networks(ALPHAS | st.just(math.nan)), SHARES, SHARES, st.sampled_from(["block", "layer"]))
def test_the_total_is_exact_and_no_layer_is_outside_0_to_1(spectra, sparsity, spread, unit):
    found = layer_sparsities(spectra, sparsity, spread, unit)
    assert list(found) == [layer.name for layer in spectra]
    assert all(0 <= share <= 1 for share in found.values())
    assert total(spectra, found) == pytest.approx(sparsity, rel=1e-9, abs=1e-12)


@given(networks(), SHARES, SHARES)
def test_a_larger_alpha_is_never_pruned_less(spectra, sparsity, spread):
    found = layer_sparsities(spectra, sparsity, spread, "layer")
    in_order = [found[layer.name] for layer in sorted(spectra, key=lambda layer: layer.alpha)]
    assert all(small <= large + 1e-12 for small, large in zip(in_order, in_order[1:], strict=False))


@given(networks(), SHARES, SHARES, st.randoms())
def test_the_order_of_the_layers_changes_nothing(spectra, sparsity, spread, random):
    shuffled = random.sample(spectra, len(spectra))
    expected = layer_sparsities(spectra, sparsity, spread)
    assert layer_sparsities(shuffled, sparsity, spread) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(networks(), SHARES, SHARES, st.integers(1, 10**6))
def test_only_the_proportions_of_the_sizes_count(spectra, sparsity, spread, factor):
    larger = [replace(layer, shape=(*layer.shape, factor)) for layer in spectra]
    expected = layer_sparsities(spectra, sparsity, spread)
    assert layer_sparsities(larger, sparsity, spread) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(networks(), SHARES, SHARES)
@settings(max_examples=30)
def test_layers_of_a_block_share_one_sparsity(spectra, sparsity, spread):
    found = layer_sparsities(spectra, sparsity, spread)
    shares: dict[str, set[float]] = {}
    for name, share in found.items():
        shares.setdefault(name.rpartition(".")[0], set()).add(share)
    assert all(len(values) == 1 for values in shares.values())


def test_the_worked_example_of_three_layers_of_one_size():
    spectra = [spectrum(f"layers.{i}", alpha, 8, 8) for i, alpha in enumerate([2, 3, 5])]
    found = layer_sparsities(spectra, 0.7, spread=0.3, unit="layer")
    assert list(found.values()) == pytest.approx(
        [0.7 * 0.7 / 0.96667, 0.7 * 0.9 / 0.96667, 0.7 * 1.3 / 0.96667], abs=1e-5
    )


def test_what_is_cut_at_1_goes_to_the_others_in_proportion():
    spectra = [spectrum(f"layers.{i}", alpha, 8, 8) for i, alpha in enumerate([2, 3, 5])]
    # 0.8 * 3 - 1 = 1.4 for the ratios 0.7 and 0.9
    assert list(layer_sparsities(spectra, 0.8).values()) == pytest.approx([1.4 * 0.7 / 1.6, 1.4 * 0.9 / 1.6, 1])
    # with the ratios 0, 2/3 and 2 the second is full too, and the first, whose ratio is 0, gets what is left
    assert list(layer_sparsities(spectra, 0.8, spread=1.0).values()) == pytest.approx([0.4, 1, 1])


@pytest.mark.parametrize("unit", ["block", "layer"])
def test_equal_scores_and_no_spread_give_every_layer_the_same(unit):
    spectra = [spectrum(f"layers.{i}", alpha, 8 * i + 8, 8) for i, alpha in enumerate([2, 3, 5])]
    equal = [replace(layer, alpha=3.3) for layer in spectra]
    assert set(layer_sparsities(equal, 0.7, unit=unit).values()) == {0.7}
    assert list(layer_sparsities(spectra, 0.7, 0.0, unit).values()) == pytest.approx([0.7] * 3)


def test_blocks_with_the_same_alphas_in_another_order_are_equal():
    alphas = [1.1, 1.3, 1.7, 2.1]  # added up from the right they are not the same number
    spectra = [spectrum(f"layers.0.{i}", alpha, 8, 8) for i, alpha in enumerate(alphas)]
    spectra += [spectrum(f"layers.1.{i}", alpha, 8, 8) for i, alpha in enumerate(reversed(alphas))]
    assert set(layer_sparsities(spectra, 0.7).values()) == {0.7}


@pytest.mark.parametrize("alpha", [math.nan, math.inf])
def test_a_block_without_a_finite_alpha_gets_the_uniform_sparsity_and_changes_no_other(alpha):
    spectra = [spectrum(f"layers.{i}.fc", a, 8, 8) for i, a in enumerate([2, 3, 5])]
    found = layer_sparsities([*spectra, spectrum("layers.3.fc", alpha, 99, 8)], 0.7)
    assert found == {**layer_sparsities(spectra, 0.7), "layers.3.fc": 0.7}
    with_its_neighbour = layer_sparsities([*spectra, spectrum("layers.0.out", alpha, 8, 8)], 0.7)
    assert with_its_neighbour["layers.0.out"] == with_its_neighbour["layers.0.fc"] < 0.6  # that of its block


def test_linear_layers_of_numbered_blocks_are_pruned_and_nothing_else():
    spectra = [
        spectrum("embed_tokens", 2, 99, 8, kind="embedding"),
        spectrum("layer1.0.fc", 2, 8, 8),
        spectrum("layer1.0.conv", 2, 8, 8, 3, 3, kind="conv2d"),
        spectrum("layer2.0.fc", 4, 8, 8),
        replace(spectrum("layer2.0.lora_A", 4, 8, 8), excluded_by="adapter"),
        replace(spectrum("layer2.0.int8", math.nan, 8, 8), excluded_by="quantized"),
        replace(spectrum("layer2.0.named", 9, 8, 8), excluded_by="excluded"),
        spectrum("layer2.0.empty", math.nan, 0, 8),
        spectrum("lm_head", 2, 99, 8),
    ]
    for unit in ("block", "layer"):
        found = layer_sparsities(spectra, 0.5, 0.3, unit)
        assert found == pytest.approx({"layer1.0.fc": 0.35, "layer2.0.fc": 0.65})  # not one block "0"


def test_without_numbered_blocks_every_linear_layer_counts_one_by_one():
    spectra = analyze(mlp(64, 96, 64, 80))
    assert layer_sparsities(spectra, 0.5, unit="layer").keys() == {"fc0", "fc1", "fc2"}
    with pytest.raises(ValueError, match=r"nothing to prune: of 3 layers none .* 'layers.0.fc'. unit='layer' prunes"):
        layer_sparsities(spectra, 0.5)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"sparsity": 70}, "sparsity=70 is not allowed: it must be between 0 and 1."),
        ({"sparsity": -0.1}, "sparsity=-0.1 is not allowed: it must be between 0 and 1."),
        ({"sparsity": math.nan}, "sparsity=nan is not allowed: it must be a finite number."),
        ({"sparsity": "0.5"}, "sparsity='0.5' is not allowed: it must be a finite number."),
        ({"sparsity": 0.5, "spread": 1.5}, "spread=1.5 is not allowed: it must be between 0 and 1."),
        ({"sparsity": 0.5, "unit": "stage"}, "unit='stage' is not allowed: it must be one of 'layer', 'block'."),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_what_is(values, message):
    with pytest.raises(ValueError) as refused:
        layer_sparsities([spectrum("layers.0", 2, 8, 8)], **values)
    assert str(refused.value) == message


def test_a_network_without_linear_layers_has_nothing_to_prune():
    spectra = analyze(nn.Sequential(nn.Conv2d(64, 64, 3)))
    with pytest.raises(ValueError, match="nothing to prune: of 1 layers") as refused:
        layer_sparsities(spectra, 0.5, unit="layer")
    assert "unit=" not in str(refused.value)
    with pytest.raises(ValueError, match="nothing to prune: of 0 layers"):
        layer_sparsities([], torch.tensor(0.5).item())
