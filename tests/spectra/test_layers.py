from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from tiny import ConvNet, mlp
from torch import nn

from hf_tempbalance.spectra.followers import find_followers
from hf_tempbalance.spectra.layers import Exclusions, describe, find_layers, unwrap


def rules(model: nn.Module, **options) -> dict[str, str | None]:
    return {layer.name: layer.excluded_by for layer in find_layers(model, Exclusions(**options))}


def test_every_matrix_shaped_weight_is_listed_in_registration_order_and_nothing_else():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.LSTM(8, 8), nn.Linear(8, 4))
    assert rules(model, min_eigenvalues=0) == {
        "0": "first",
        "2.weight_ih_l0": "not_a_layer",
        "2.weight_hh_l0": "not_a_layer",
        "3": "last",
    }


def test_embeddings_are_neither_first_nor_last_and_tuned_only_on_demand():
    model = nn.Sequential(nn.Embedding(99, 64), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64))
    assert rules(model) == {"0": "embedding", "1": "first", "2": None, "3": "last"}
    assert rules(model, embeddings="tune") == {"0": None, "1": "first", "2": None, "3": "last"}


LANGUAGE_MODEL = {
    "embed_tokens": nn.Embedding(99, 64),
    "layers": mlp(64, 64, 64, 20, 64),
    "lm_head": nn.Linear(64, 99),
}


def test_a_name_pattern_excludes_whatever_other_rule_there_is_and_first_and_last_do_not_move_on():
    model = nn.ModuleDict(LANGUAGE_MODEL)
    assert rules(model, exclude=("*fc0", "lm_*")) == {
        "embed_tokens": "embedding",
        "layers.fc0": "excluded",
        "layers.fc1": None,
        "layers.fc2": "min_eigenvalues",
        "layers.fc3": "min_eigenvalues",
        "lm_head": "excluded",
    }
    assert rules(model, exclude=("FC1", "fc1"))["layers.fc1"] is None  # the whole name, in its case
    assert rules(model, exclude=("embed*",), embeddings="tune")["embed_tokens"] == "excluded"


def test_an_excluded_layer_is_analysed_and_a_vocabulary_is_not():
    layers = find_layers(nn.ModuleDict(LANGUAGE_MODEL), Exclusions(exclude=("*fc1", "lm_head")))
    assert [layer.name for layer in layers if layer.is_analysed] == [f"layers.fc{i}" for i in range(4)]


def pinned(model: nn.Module, **options) -> dict[str, str | None]:
    """Rules of the layers that are pinned."""
    layers = find_layers(model, Exclusions(embeddings="largest", **options))
    assert all(layer.is_tuned and not layer.is_analysed for layer in layers if layer.is_pinned)
    return {layer.name: layer.excluded_by for layer in layers if layer.is_pinned}


def test_embedding_and_head_can_be_tuned_with_the_largest_multiplier():
    model = nn.ModuleDict(LANGUAGE_MODEL)
    assert pinned(model) == {"embed_tokens": None, "lm_head": None}
    assert rules(model, embeddings="largest", min_eigenvalues=0) == {
        "embed_tokens": None,
        "layers.fc0": "first",
        "layers.fc1": None,
        "layers.fc2": None,
        "layers.fc3": None,  # the head is the last layer
        "lm_head": None,
    }


def test_also_alone_where_a_pattern_excludes_all_else():
    assert pinned(nn.ModuleDict(LANGUAGE_MODEL), exclude=("layers.*",)) == {"embed_tokens": None, "lm_head": None}
    assert pinned(nn.ModuleDict(LANGUAGE_MODEL), exclude=("*",)) == {}


def test_a_head_is_known_by_its_shape_or_by_a_word_of_its_name():
    names = {
        "wte": nn.Embedding(99, 64),
        "decoder": nn.Linear(64, 99),  # of the vocabulary's shape
        "pos_embed": nn.Linear(64, 64),
        "multihead": nn.Linear(64, 64),
        "head": nn.Linear(64, 5),
    }
    assert pinned(nn.ModuleDict(names)) == dict.fromkeys(["wte", "decoder", "pos_embed", "head"])


def test_a_tied_head_is_pinned_and_a_frozen_embedding_is_not():
    model = nn.ModuleDict(LANGUAGE_MODEL | {"lm_head": nn.Linear(64, 99)})
    model.lm_head.weight = model.embed_tokens.weight
    assert pinned(model) == {"embed_tokens": None, "lm_head": None}
    frozen = nn.ModuleDict({"embed": nn.Embedding(99, 64).requires_grad_(False), "layers": mlp(64, 64, 64, 64)})
    assert pinned(frozen) == {} and rules(frozen, embeddings="largest")["embed"] == "frozen"


def test_first_and_last_do_not_move_on_and_the_minimum_comes_after_them():
    model = mlp(10, 64, 64, 20, 10)  # 10, 64, 20 and 10 eigenvalues
    assert rules(model) == {"fc0": "first", "fc1": None, "fc2": "min_eigenvalues", "fc3": "last"}
    assert rules(model, exclude_first=False) == {
        "fc0": "min_eigenvalues",
        "fc1": None,
        "fc2": "min_eigenvalues",
        "fc3": "last",
    }
    assert rules(model, exclude_last=False, min_eigenvalues=20) == {
        "fc0": "first",
        "fc1": None,
        "fc2": None,
        "fc3": "min_eigenvalues",
    }


def test_exactly_the_minimum_is_enough():
    assert rules(mlp(50, 50, 50, 50), min_eigenvalues=50)["fc1"] is None
    assert rules(mlp(50, 50, 50, 50), min_eigenvalues=51)["fc1"] == "min_eigenvalues"


def test_kernel_positions_count():
    layers = find_layers(nn.Sequential(nn.Conv2d(16, 32, 3), nn.Conv2d(32, 32, 3, groups=32), nn.Linear(7, 9)))
    assert [layer.num_eigenvalues for layer in layers] == [16 * 9, 9, 7]
    assert [layer.kind for layer in layers] == ["conv2d", "conv2d", "linear"]


def test_one_layer_is_first_and_not_last_as_well():
    assert rules(mlp(64, 64)) == {"fc0": "first"}
    assert rules(mlp(64, 64), exclude_first=False) == {"fc0": "last"}


def test_frozen_tied_meta_and_integer_weights_are_marked():
    model = mlp(64, 64, 64, 64, 64, 64, 64)
    model.fc1.weight.requires_grad_(False)
    model.fc3.weight = model.fc2.weight
    model.fc4.to("meta")
    model.fc5.weight = nn.Parameter(torch.ones(64, 64, dtype=torch.int8), requires_grad=False)
    assert rules(model, exclude_last=False) == {
        "fc0": "first",
        "fc1": "frozen",
        "fc2": None,
        "fc3": "tied",
        "fc4": "meta",
        "fc5": "quantized",
    }
    assert [layer.is_analysed for layer in find_layers(model)] == [True, True, True, True, False, False]


def test_a_lazy_layer_is_marked_and_does_not_raise():
    layers = find_layers(nn.Sequential(nn.LazyLinear(5), nn.Linear(64, 64)))
    assert (layers[0].excluded_by, layers[0].shape, layers[0].is_analysed) == ("uninitialized", (), False)


def test_batchnorm_follows_by_name():
    block = OrderedDict(bn1=nn.BatchNorm2d(8), conv1=nn.Conv2d(8, 8, 3), other=nn.BatchNorm2d(8))
    model = nn.ModuleDict({"block": nn.Sequential(block), "bn": nn.BatchNorm2d(8)})
    assert find_followers(model, find_layers(model)) == {
        "block.bn1": "block.conv1"
    }  # before its convolution, and still its follower


def test_every_bn_in_the_name_is_replaced():
    model = nn.ModuleDict({"bn_a": nn.Sequential(OrderedDict(bn=nn.BatchNorm2d(4)))})
    model["conv_a"] = nn.Sequential(OrderedDict(conv=nn.Conv2d(4, 4, 1)))
    assert find_followers(model, find_layers(model)) == {"bn_a.bn": "conv_a.conv"}


def test_batchnorm_follows_by_order():
    model = nn.Sequential(
        nn.BatchNorm2d(3),  # before any convolution
        nn.Conv2d(3, 8, 3),
        nn.Linear(8, 8),  # invisible to the walk
        nn.BatchNorm2d(8),
        nn.BatchNorm2d(8),  # the second in a row
        nn.Conv2d(8, 8, 3),
        nn.SyncBatchNorm(8),
    )
    assert find_followers(model, find_layers(model), batchnorm="order") == {"3": "1", "6": "5"}
    assert find_followers(model, find_layers(model), batchnorm="none") == {}


class LlamaRMSNorm(nn.Module):
    """Named as transformers names its own."""


def test_layernorm_and_rmsnorm_follow_the_linear_before_them():
    model = nn.Sequential(
        nn.LayerNorm(8),  # before any linear layer
        nn.Linear(8, 8),
        nn.LayerNorm(8),
        nn.Linear(8, 8),
        nn.RMSNorm(8),
        nn.Linear(8, 8),
        LlamaRMSNorm(),
        LlamaRMSNorm(),
    )
    assert find_followers(model, find_layers(model)) == {}
    assert find_followers(model, find_layers(model), layernorm=True) == {"2": "1", "4": "3", "6": "5"}


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, lambda m: torch.compile(nn.DataParallel(m))])
def test_wrappers_are_seen_through(wrap):
    model = ConvNet()
    assert unwrap(wrap(model)) is model


def test_the_description_lists_every_layer_and_its_rule():
    model = mlp(10, 64, 10)
    text = describe(model, find_layers(model))
    assert "fc0 (64, 10): first" in text and "fc1 (10, 64): last" in text


def test_the_description_of_a_model_without_layers_says_what_it_has():
    assert "2 ReLU" in describe(nn.Sequential(nn.ReLU(), nn.ReLU()), [])
