"""Every tuner of the installed PEFT: what is analysed is what `merge_and_unload` gives, or the tuner is `adapter`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from everywhere.adapters import TARGETS, adapted, check_adapter, linear, tuners
from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_tempbalance.spectra.layers import Exclusions, find_layers
from hf_tempbalance.spectra.unchanged import Unchanged
from hf_tempbalance.spectra.weights import find_weights


peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's, about kernels and settings
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "Linear": linear,
    "GPT-2's Conv1D": lambda: Conv1D(96, 64),
    "Conv2d": lambda: nn.Conv2d(64, 64, 3),
    "Conv2d in groups": lambda: nn.Conv2d(64, 64, 3, groups=4),
    "Embedding": lambda: nn.Embedding(99, 64),
}


def reports(layer: Callable[[], nn.Module], adapters: int = 1) -> dict[str, str]:
    """Tuner -> "merged" or "not" for those that PEFT puts around the layer; what is wrong is raised with its name."""
    found = {}
    for tuner in tuners():
        model = adapted(tuner, layer, adapters)
        if model is not None:
            try:
                found[tuner] = check_adapter(model).split()[0]
            except Exception as error:
                raise AssertionError(f"{tuner}: {error!r}") from error
    return found


def test_every_tuner_on_a_linear_is_merged_as_peft_does_or_marked():
    found = reports(linear)
    assert len(found) > 20 and found.keys() >= {"LORA", "LOHA", "VERA", "OFT", "BOFT", "HRA", "MISS", "IA3"}
    assert {found[name] for name in ("LORA", "LOHA", "VERA")} == {"merged"}
    assert {found[name] for name in ("OFT", "BOFT", "HRA", "MISS", "IA3")} == {"not"}


def test_of_two_active_adapters_both_are_added():
    assert reports(linear, adapters=2)["LORA"] == "merged"


@pytest.mark.parametrize("layer", [name for name in LAYERS if name != "Linear"])
def test_other_layers_are_merged_as_peft_does_or_marked(layer):
    found = reports(LAYERS[layer])
    assert found["LORA"] == ("not" if layer == "Conv2d in groups" else "merged")  # PEFT does not merge those either


def mixed(*tuners_inside_out: str) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(3)))
    kinds = {"lora": peft.LoraConfig, "loha": peft.LoHaConfig, "oft": peft.OFTConfig}
    for index, name in enumerate(tuners_inside_out):
        config = kinds[name](target_modules=["1"])
        if index == 0:
            model = peft.get_peft_model(model, config, adapter_name=name, mixed=True)
        else:
            model.add_adapter(name, config)
    model.set_adapter(list(tuners_inside_out))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.1)
    return model


def test_an_adapter_around_another_adds_to_what_that_one_adds():
    model = mixed("lora", "loha")
    weight = next(weight for weight in find_weights(model) if weight.name == "base_model.model.1")
    assert len(weight.adapters) == 2
    found = weight.whole()
    merged = model.merge_and_unload()[1].weight
    assert torch.allclose(found, merged, atol=1e-5)


def test_a_layer_inside_two_adapters_is_listed_though_the_outer_one_only_rotates_it():
    rules = {
        layer.name: layer.excluded_by for layer in find_layers(mixed("lora", "oft"), Exclusions(min_eigenvalues=0))
    }
    layers = {name: rule for name, rule in rules.items() if rule != "adapter"}
    assert list(layers) == ["base_model.model.0", "base_model.model.1.base_layer", "base_model.model.2"]
    assert any("oft" in name for name in rules.keys() - layers.keys())


def test_vectors_that_are_trained_in_an_adapter_make_its_layer_tuned():
    rules = {layer.name.removeprefix("base_model.model."): layer.excluded_by for layer in find_layers(adapted("VERA"))}
    assert [rules[name] for name in TARGETS] == [None, None, None]


def test_a_frozen_adapter_that_is_switched_off_is_looked_at_again():
    model = adapted("LORA")
    model.requires_grad_(False)
    weight = next(weight for weight in find_weights(model) if weight.adapters)
    unchanged: Unchanged[str] = Unchanged()
    unchanged.keep([(weight, "with the adapter")])
    with model.disable_adapter():
        assert unchanged.get(weight) is None
