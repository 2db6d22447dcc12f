"""From spectra to multipliers: scores, units, normalisation, the largest for some, targets."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from tiny import mlp
from torch import nn

from hf_tempbalance import LayerSpectrum, TempBalanceConfig, TempBalancer
from hf_tempbalance.balance.controls import CONTROLS
from hf_tempbalance.balance.mapping import MAPPINGS
from hf_tempbalance.balance.method import METRICS, TARGETS, UNITS, Method, multipliers_of
from hf_tempbalance.config import Control, Fit, Mapping, Metric, Target, Unit
from hf_tempbalance.spectra.powerlaw import FITS


@pytest.mark.parametrize(
    ("table", "names"),
    [(METRICS, Metric), (UNITS, Unit), (TARGETS, Target), (MAPPINGS, Mapping), (CONTROLS, Control), (FITS, Fit)],
)
def test_every_name_of_the_settings_has_its_function_and_every_function_a_name(table, names):
    assert set(table) == set(get_args(names))


def spectrum(name: str, alpha: float, **changes) -> LayerSpectrum:
    numbers = dict.fromkeys(("alpha_hat", "xmin", "D", "spectral_norm", "norm", "stable_rank", "entropy"), 1.0)
    values = {"kind": "linear", "shape": (8, 8), "num_eigenvalues": 8, "excluded_by": None, "alpha": alpha}
    return LayerSpectrum(name=name, **(numbers | values | changes))


def multipliers(alphas: dict[str, float], **settings) -> dict[str, float]:
    return multipliers_of([spectrum(*item) for item in alphas.items()], Method.of(TempBalanceConfig(**settings)))


def test_tempbalance_maps_alpha_of_each_layer_linearly():
    assert multipliers({"a": 2.0, "b": 3.0, "c": 4.0}) == {"a": 0.5, "b": 1.0, "c": 1.5}


def test_excluded_layers_are_not_in_it():
    spectra = [spectrum("a", 2.0), spectrum("b", 9.0, excluded_by="last"), spectrum("c", 4.0)]
    assert multipliers_of(spectra, Method.of(TempBalanceConfig())) == {"a": 0.5, "c": 1.5}


BLOCKS = {"layer.0.q": 2.0, "layer.0.mlp": 4.0, "layer.1.q": 3.0, "layer.1.mlp": 5.0, "layer.2.q": 6.0}


def test_the_layers_of_a_block_share_the_multiplier_of_their_mean_score():
    found = multipliers(BLOCKS, unit="block")
    assert found == pytest.approx(dict(zip(BLOCKS, [0.5, 0.5, 5 / 6, 5 / 6, 1.5], strict=True)))


def test_a_layer_without_a_score_keeps_1_and_its_block_is_the_mean_of_the_others():
    found = multipliers(BLOCKS | {"layer.0.mlp": float("nan")}, unit="block")
    assert found["layer.0.mlp"] == 1.0 and found["layer.0.q"] == 0.5
    assert found["layer.1.q"] == pytest.approx(0.5 + (4.0 - 2.0) / (6.0 - 2.0))


def test_normalize_divides_by_the_mean_over_the_tuned_layers():
    plain, normalized = (multipliers(BLOCKS, unit="block", normalize=value) for value in (False, True))
    mean = sum(plain.values()) / len(plain)
    assert normalized == pytest.approx({name: value / mean for name, value in plain.items()})
    assert sum(normalized.values()) / len(normalized) == pytest.approx(1)


def test_pinned_layers_take_the_largest_multiplier_and_leave_the_range_to_the_others():
    spectra = [spectrum("emb", float("nan"), is_pinned=True), spectrum("a", 2.0), spectrum("b", 3.0)]
    assert multipliers_of(spectra, Method.of(TempBalanceConfig())) == {"emb": 1.5, "a": 0.5, "b": 1.5}
    assert multipliers_of(spectra[:1], Method.of(TempBalanceConfig(max_ratio=3.0))) == {"emb": 3.0}


@pytest.mark.parametrize("settings", [{"mapping": "sqrt"}, {"mapping": "log2"}, {"normalize": True}])
def test_what_keeps_the_mean_of_the_tuned_layers_keeps_it_with_pinned_ones_among_them(settings):
    spectra = [spectrum("emb", float("nan"), is_pinned=True), spectrum("a", 2.0), spectrum("b", 3.0)]
    found = multipliers_of(spectra, Method.of(TempBalanceConfig(**settings)))
    assert sum(found.values()) / 3 == pytest.approx(1)
    assert found["emb"] == found["b"] > found["a"]


def test_a_control_shuffles_the_multipliers_of_units():
    found = multipliers(BLOCKS, unit="block", control="shuffled")
    plain = multipliers(BLOCKS, unit="block")
    assert sorted(set(found.values())) == sorted(set(plain.values()))
    assert all(found[name] != plain[name] for name in found)
    assert found["layer.1.q"] == found["layer.1.mlp"]


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.scale = nn.Parameter(torch.ones(width))


class Transformer(nn.Module):
    """An embedding, numbered blocks, a norm and a head."""

    def __init__(self, blocks: int = 3, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 40, bias=False)


def balanced(model: nn.Module, *, optimizer=None, **settings) -> TempBalancer:
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.2)
    balancer = TempBalancer(model, optimizer, TempBalanceConfig(**({"min_eigenvalues": 1} | settings)))
    balancer.rebalance()
    return balancer


def test_every_parameter_of_a_block_takes_its_multiplier_and_the_others_keep_1():
    model = Transformer()
    found = balanced(model, unit="block", exclude_first=False).lr_multipliers
    of_block = {i: {value for name, value in found.items() if name.startswith(f"layers.{i}.")} for i in range(3)}
    assert all(len(values) == 1 for values in of_block.values())
    assert len(set.union(*of_block.values())) == 3
    assert {value for name, value in found.items() if not name.startswith("layers.")} == {1.0}


def test_blocks_of_a_network_that_has_none_are_refused_in_one_sentence():
    with pytest.raises(ValueError, match=r"unit='block' needs numbered blocks") as error:
        balanced(mlp(8, 8, 8, 8), unit="block")
    assert "\n" not in str(error.value)


def test_layer_wise_decay_by_depth_covers_every_parameter_and_computes_no_spectrum(monkeypatch):
    from hf_tempbalance.spectra import analysis

    monkeypatch.setattr(analysis, "squared_singular_values", lambda *arguments: pytest.fail("a spectrum"))
    model = Transformer()
    config = TempBalanceConfig.preset("llrd", min_ratio=0.8**4)
    balancer = TempBalancer(model, torch.optim.AdamW(model.parameters(), lr=0.1), config)
    balancer.rebalance()
    depth = {"embed": 0, "layers.0": 1, "layers.1": 2, "layers.2": 3, "norm": 4, "head": 4}
    for name, found in balancer.lr_multipliers.items():
        prefix = next(prefix for prefix in depth if name.startswith(f"{prefix}."))
        assert found == pytest.approx(0.8 ** (4 - depth[prefix])), name


@pytest.mark.parametrize(
    ("target", "keys"), [("lr", {"lr"}), ("weight_decay", {"weight_decay"}), ("both", {"lr", "weight_decay"})]
)
def test_the_target_says_which_values_of_a_group_are_multiplied(target, keys):
    model = mlp(32, 32, 32, 32, 32, 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.2)
    balancer = balanced(model, optimizer=optimizer, target=target)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    seen = {}
    optimizer.register_step_pre_hook(
        lambda opt, args, kwargs: seen.update(
            {names[id(p)]: (g["lr"], g["weight_decay"]) for g in opt.param_groups for p in g["params"]}
        )
    )
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    layers = balancer.layer_multipliers
    assert len(set(layers.values())) == 3
    for name, (lr, decay) in seen.items():
        multiplier = layers.get(name.rpartition(".")[0], 1.0)
        assert lr == 0.1 * (multiplier if "lr" in keys else 1.0)
        assert decay == 0.2 * (multiplier if "weight_decay" in keys else 1.0)
    rates, decays = balancer.lr_multipliers, balancer.weight_decay_multipliers
    assert (len(set(rates.values())) > 1, len(set(decays.values())) > 1) == ("lr" in keys, "weight_decay" in keys)
    assert optimizer.param_groups[0]["weight_decay"] == 0.2


def test_a_target_that_the_optimizer_has_no_value_for_is_refused_in_one_sentence():
    model = mlp(32, 32, 32, 32, 32)
    optimizer = torch.optim.Rprop(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="Rprop has no weight_decay that could be given to each layer") as error:
        balanced(model, optimizer=optimizer, target="weight_decay")
    assert "\n" not in str(error.value)


def test_embeddings_and_head_take_the_largest_multiplier_without_a_spectrum():
    model = Transformer()
    balancer = balanced(model, embeddings="largest", exclude_first=False, exclude_last=False)
    found = balancer.lr_multipliers
    assert found["embed.weight"] == found["head.weight"] == max(balancer.layer_multipliers.values()) == 1.5
    assert min(balancer.layer_multipliers.values()) == 0.5


def test_embeddings_alone_take_the_largest_ratio():
    model = Transformer()
    found = balanced(model, embeddings="largest", exclude=["layers.*"], max_ratio=3.0).lr_multipliers
    assert {name for name, value in found.items() if value == 3.0} == {"embed.weight", "head.weight"}
    assert set(found.values()) == {1.0, 3.0}
