"""PEFT's tuners around a layer, from PEFT's own registry: is the weight that is analysed the one that PEFT merges?"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from hf_tempbalance.spectra.layers import find_layers

from .models import stepped_rates
from .outcome import missing, outcome


TARGETS = ["1", "2", "3"]
# What a tuner's configuration needs beside `target_modules`, for layers of 64 and 96.
SETTINGS = {
    "ADALORA": {"total_step": 10},
    "C3A": {"block_size": 16},
    "IA3": {"feedforward_modules": []},
    "MISS": {"r": 4},
    "PSOFT": {"r": 4},
    "ROAD": {"group_size": 32},
    "TRAINABLE_TOKENS": {"token_indices": [0, 1]},
    "VBLORA": {"vector_length": 4},
}


def linear() -> nn.Module:
    return nn.Linear(64, 96)


def tuners() -> list[str]:
    """Names in PEFT's registry of those that are put around modules by name."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    configs = {kind.value: config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    return [name for name, config in configs.items() if "target_modules" in _fields(config)]


def _fields(config: type) -> set[str]:
    return {field.name for field in dataclasses.fields(config)}


def adapted(tuner: str, layer: Callable[[], nn.Module] = linear, adapters: int = 1) -> nn.Module | None:
    """A tiny random model, three of its layers in a tuner with random weights; None where PEFT refuses the layer."""
    from peft import get_peft_model
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.tuners.tuners_utils import BaseTunerLayer

    config = next(config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items() if kind.value == tuner)
    settings = dict(SETTINGS.get(tuner, {}))
    if type(layer()).__name__ == "Conv1D" and "fan_in_fan_out" in _fields(config):
        settings["fan_in_fan_out"] = True
    torch.manual_seed(0)
    layers = [nn.Linear(64, 64), layer(), layer(), layer(), nn.Linear(64, 64)]
    model = nn.Sequential(OrderedDict((str(index), module) for index, module in enumerate(layers)))
    try:
        model = get_peft_model(model, config(target_modules=TARGETS, **settings))
        if adapters == 2:
            model.add_adapter("second", config(target_modules=TARGETS, **settings))
            model.base_model.set_adapter(["default", "second"])
    except Exception:  # noqa: BLE001  whatever it is, it is PEFT's
        return None
    if not isinstance(model.get_submodule("base_model.model.1"), BaseTunerLayer):
        return None
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def check_adapter(model: nn.Module) -> str:
    """How the adapted layers are reported, in a few words; merges the adapter.

    Raises where the weight that is analysed is not that of `merge_and_unload`, a rate is not applied, or a part of an
    adapter that is not merged is taken for a layer.
    """
    layers = {layer.name.removeprefix("base_model.model."): layer for layer in find_layers(model)}
    if any(name not in layers for name in TARGETS):
        parts = {name: layer.excluded_by for name, layer in layers.items() if name.split(".")[0] in TARGETS}
        inside = {name for name in parts if name.endswith(".base_layer")}
        if len(inside) != len(TARGETS) or {parts[name] for name in parts.keys() - inside} - {"adapter"}:
            raise AssertionError(f"an adapter that is not merged is reported as {parts}")
        return "not a sum: the adapter is `adapter`, the layer inside is analysed"
    state = torch.get_rng_state()
    found = {name: layers[name].weight.whole().clone() for name in TARGETS}
    if not torch.equal(torch.get_rng_state(), state):
        raise AssertionError("reading the weight draws random numbers")
    if any(layers[name].excluded_by not in (None, "embedding") for name in TARGETS):
        raise AssertionError(f"not tuned: {[layers[name].excluded_by for name in TARGETS]}")
    if all(layers[name].kind != "embedding" for name in TARGETS):
        stepped_rates(model)
    merged = model.merge_and_unload()
    for name, weight in found.items():
        torch.testing.assert_close(weight, merged.get_submodule(name).weight.detach(), rtol=1e-4, atol=1e-5)
    return "merged as PEFT does"


def check_adapters() -> dict[str, tuple[str, str]]:
    """Tuner -> (outcome, how its layers are reported)."""
    if reason := missing("peft"):
        return {"PEFT": (reason, "")}
    results = {}
    for tuner in tuners():
        model = adapted(tuner)
        found: list[str] = []
        result = (
            outcome(partial(_collect, model, found)) if model else "not tried: PEFT does not put it around a Linear"
        )
        results[f"PEFT {tuner}"] = (result, found[0] if found else "")
    return results


def _collect(model: nn.Module, found: list[str]) -> None:
    found.append(check_adapter(model))
