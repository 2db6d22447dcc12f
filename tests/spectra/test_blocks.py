from __future__ import annotations

import math

import pytest
from tiny import mlp
from torch import nn

from hf_tempbalance import TempBalanceConfig, analyze
from hf_tempbalance.spectra import analysis
from hf_tempbalance.spectra.blocks import block_of, depths


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("roberta.encoder.layer.3.output.dense.weight", "roberta.encoder.layer.3"),
        ("layer1.0.conv1", "layer1.0"),  # a residual network's: another than layer2.0
        ("layer2.0.shortcut.0", "layer2.0"),
        ("transformer.h.11.attn.c_attn", "transformer.h.11"),
        ("4", "4"),
        ("model.embed_tokens", None),
        ("lm_head", None),
        ("", None),
    ],
)
def test_a_block_is_the_whole_prefix_up_to_the_first_number(name, block):
    assert block_of(name) == block


def test_depth_is_0_before_the_blocks_and_one_more_after_them():
    names = ["embed", "layers.0.q", "layers.0.norm", "between", "layers.1.q", "more.0.q", "norm", "head"]
    assert list(depths(names).values()) == [0, 1, 1, 1, 2, 3, 4, 4]


def test_blocks_are_counted_in_registration_order_and_not_by_their_numbers():
    assert depths(["h.10.w", "h.2.w", "h.10.b"]) == {"h.10.w": 1, "h.2.w": 2, "h.10.b": 1}


def test_without_blocks_there_is_no_depth():
    assert depths(["a", "b"]) == {"a": 0, "b": 0}


def test_where_the_score_is_the_depth_nothing_is_decomposed(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a spectrum was computed")

    monkeypatch.setattr(analysis, "squared_singular_values", refuse)
    model = nn.ModuleDict({"embed": nn.Embedding(9, 64), "blocks": mlp(64, 64, 64), "head": nn.Linear(64, 9)})
    config = TempBalanceConfig.preset("llrd")
    spectra = analyze(model, config)
    assert [spectrum.is_tuned for spectrum in spectra] == [True] * 4
    assert all(math.isnan(spectrum.alpha) and math.isnan(spectrum.norm) for spectrum in spectra)
    with pytest.raises(ValueError, match="nothing to analyse"):  # no layers are no layers
        analyze(nn.Sequential(nn.ReLU()), config)
