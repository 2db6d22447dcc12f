"""Pruning a model by magnitude with the sparsities of its layers."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import mlp
from torch import nn
from torch.nn.utils import prune
from transformers import LlamaConfig, LlamaForCausalLM

from hf_tempbalance import analyze, layer_sparsities
from hf_tempbalance.pruning import prune_by_magnitude


def llama() -> LlamaForCausalLM:
    size = {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 3, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=300, num_key_value_heads=2, **size))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_layer_has_its_zeros_and_the_largest_weights_are_untouched(dtype):
    model = llama().to(dtype)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    parameters = {name: id(parameter) for name, parameter in model.named_parameters()}
    sparsities = layer_sparsities(analyze(model), 0.7)
    prune_by_magnitude(model, sparsities)
    assert len(sparsities) == 21 and len(set(sparsities.values())) == 3
    for name, share in sparsities.items():
        weight, was = model.get_submodule(name).weight, before[f"{name}.weight"]
        kept = weight != 0
        assert (~kept).sum() == round(share * weight.numel())
        assert torch.equal(weight[kept], was[kept]) and was[~kept].abs().max() <= was[kept].abs().min()
    pruned = {f"{name}.weight" for name in sparsities}
    after = model.state_dict()
    assert after.keys() == before.keys()  # permanent: no masks
    assert all(torch.equal(after[name], before[name]) for name in before if name not in pruned)
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == parameters
    zeros = sum((after[name] == 0).sum().item() for name in pruned) / sum(after[name].numel() for name in pruned)
    assert zeros == pytest.approx(0.7, abs=len(pruned) / sum(after[name].numel() for name in pruned))


@pytest.mark.parametrize("share, zeros", [(0.0, 0), (0.5, 6), (1.0, 12), (0.04, 0), (0.05, 1)])
def test_the_number_of_zeros_is_the_nearest_whole_one(share, zeros):
    layer = nn.Sequential(nn.Linear(3, 4))
    prune_by_magnitude(layer, {"0": share})
    assert (layer[0].weight == 0).sum() == zeros


def test_masks_hold_the_zeros_in_training_until_they_are_made_permanent():
    model = nn.Sequential(nn.Linear(8, 8))
    prune_by_magnitude(model, {"0": 0.5}, permanent=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(4, 8)).square().sum().backward()
    optimizer.step()
    model(torch.randn(4, 8))
    assert (model[0].weight == 0).sum() == 32
    prune.remove(model[0], "weight")
    assert (model[0].weight == 0).sum() == 32 and set(model.state_dict()) == {"0.weight", "0.bias"}


def test_pruning_again_counts_the_zeros_that_are_there():
    model = nn.Sequential(nn.Linear(8, 8))
    for share, permanent in [(0.25, False), (0.5, False), (0.75, True)]:
        prune_by_magnitude(model, {"0": share}, permanent=permanent)
        assert (model[0].weight == 0).sum() == 64 * share


def test_the_weight_of_an_attention_layer_that_is_a_parameter_is_pruned():
    attention = nn.MultiheadAttention(8, 2, kdim=4, vdim=4)
    prune_by_magnitude(attention, {"q_proj_weight": 0.5})
    assert (attention.q_proj_weight == 0).sum() == 32


def test_what_can_not_be_pruned_is_said_and_nothing_is_changed():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8, device="meta"))
    for sparsities, message in [
        ({"0": 0.5, "9": 0.5}, "'9' is no layer of this model with a weight that can be pruned"),
        ({"0": 0.5, "1": 0.5}, "'1' is no layer of this model with a weight that can be pruned"),
        ({"0": 0.5, "2": 0.5}, "2: a weight that is quantized, sharded or without numbers can't be pruned"),
        ({"0": 1.5}, "sparsity of '0'=1.5 is not allowed: it must be between 0 and 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            prune_by_magnitude(model, sparsities)
    assert (model[0].weight == 0).sum() == 0
    adapted = get_peft_model(mlp(8, 8), LoraConfig(target_modules=["fc0"]))
    with pytest.raises(ValueError, match="base_model.model.fc0 has an adapter.* Merge it"):
        prune_by_magnitude(adapted, {"base_model.model.fc0": 0.5})
