"""What a layer is for, and a short name for it, by the names that transformers and timm give."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, T5Config
from transformers.models.bert import BertConfig

from hf_tempbalance.runs.roles import ROLES, role_of, short_names, split_name
from hf_tempbalance.spectra.weights import find_weights


BERT = "bert.encoder.layer.3."
CASES = {
    "embedding": [("bert.embeddings.word_embeddings", "embedding"), ("patch_embed.proj", "conv2d")],
    "attention q": [(BERT + "attention.self.query", "linear"), ("model.layers.0.self_attn.q_proj", "linear")],
    "attention k": [("encoder.block.0.layer.0.SelfAttention.k", "linear"), ("h.0.attention.k_lin", "linear")],
    "attention v": [("decoder.block.0.layer.1.EncDecAttention.v", "linear")],
    "attention qkv": [
        ("transformer.h.0.attn.c_attn", "linear"),
        ("blocks.0.attn.qkv", "linear"),
        ("layers.0.self_attn.in_proj_weight", "in_proj"),
    ],
    "attention o": [
        (BERT + "attention.output.dense", "linear"),
        ("transformer.h.0.attn.c_proj", "linear"),
        ("layers.0.blocks.1.attn.proj", "linear"),
    ],
    "MLP up": [
        (BERT + "intermediate.dense", "linear"),
        ("transformer.h.0.mlp.c_fc", "linear"),
        ("model.layers.0.mlp.gate_proj", "linear"),
        ("model.decoder.layers.0.fc1", "linear"),
        ("convnext.encoder.stages.0.layers.0.pwconv1", "linear"),
        ("layers.0.linear1", "linear"),
    ],
    "MLP down": [
        (BERT + "output.dense", "linear"),
        ("transformer.h.0.mlp.c_proj", "linear"),
        ("encoder.block.0.layer.1.DenseReluDense.wo", "linear"),
        ("model.layers.0.mlp.experts.down_proj", "experts"),
    ],
    "convolution": [
        ("layer1.0.conv1", "conv2d"),
        ("stages.1.downsample.1", "conv2d"),  # between two stages of ConvNeXt: nothing is beside it
        ("blocks.0.0.se.fc1", "conv2d"),
        ("resnet.embedder.embedder.convolution", "conv2d"),
    ],
    "shortcut": [
        ("layer1.0.downsample.0", "conv2d"),
        ("resnet.encoder.stages.0.layers.0.shortcut.convolution", "conv2d"),
        ("s1.b1.downsample.conv", "conv2d"),
    ],
    "head": [("backbone.fc", "linear"), ("lm_head", "linear"), ("classifier.out_proj", "linear")],
    "other": [("layers.1.downsample.reduction", "linear"), ("0", "linear"), ("", "linear"), ("x" * 300, "linear")],
}


def test_every_role_has_a_case():
    assert tuple(CASES) == ROLES


@pytest.mark.parametrize(("role", "name", "kind"), [(role, *case) for role, cases in CASES.items() for case in cases])
def test_the_role_of_a_layer(role, name, kind):
    assert role_of(name, kind) == role


@pytest.mark.parametrize(
    ("name", "block", "inside"),
    [
        ("bert.encoder.layer.3.output.dense", "bert.encoder.layer.3", "output.dense"),
        ("layers.0.blocks.1.attn.qkv", "layers.0.blocks.1", "attn.qkv"),
        ("layer2.0.downsample.0", "layer2.0", "downsample.0"),
        ("encoder.block.0.layer.1.DenseReluDense.wi", "encoder.block.0", "layer.1.DenseReluDense.wi"),
        ("features.0", "", "features.0"),
        ("lm_head", "", "lm_head"),
    ],
)
def test_the_block_of_a_layer_and_its_name_there(name, block, inside):
    assert split_name(name) == (block, inside)


@pytest.mark.parametrize(
    ("automatic", "config", "some"),
    [
        (
            AutoModelForSequenceClassification,
            BertConfig(num_hidden_layers=12),
            {
                "bert.embeddings.word_embeddings": "embeddings.word_embeddings",
                "bert.encoder.layer.3.attention.self.query": "L03.attn.q",
                "bert.encoder.layer.11.output.dense": "L11.mlp.down",
                "classifier": "classifier",
            },
        ),
        (
            AutoModelForSeq2SeqLM,
            T5Config(num_layers=2, feed_forward_proj="gated-gelu"),
            {
                "encoder.block.1.layer.0.SelfAttention.q": "encoder.L1.attn.q",
                "decoder.block.1.layer.1.EncDecAttention.q": "decoder.L1.cross.q",
                "decoder.block.0.layer.2.DenseReluDense.wi_0": "decoder.L0.mlp.gate",
                "decoder.block.0.layer.2.DenseReluDense.wi_1": "decoder.L0.mlp.up",
                "encoder.embed_tokens": "encoder.embed_tokens",
            },
        ),
    ],
)
def test_short_names_of_a_model_are_all_different(automatic, config, some):
    with torch.device("meta"):
        weights = list(find_weights(automatic.from_config(config)))
    found = short_names([(weight.name, weight.kind) for weight in weights])
    assert len(set(found.values())) == len(weights)
    assert {name: found.get(name) for name in some} == some


def test_a_short_name_that_two_layers_would_have_is_written_out():
    layers = [(f"model.layers.0.self_attn.{name}", "linear") for name in ("q_a_proj", "q_b_proj", "o_proj")]
    assert list(short_names(layers).values()) == ["L0.self_attn.q_a_proj", "L0.self_attn.q_b_proj", "L0.attn.o"]
    assert short_names([]) == {} and short_names([("", "linear")]) == {"": ""}
