"""Real architectures, small: every matrix-shaped weight is in the report, every parameter gets its layer's rate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from everywhere.models import MODELS, PACKAGES, check_model, unlisted
from torch import nn

from hf_tempbalance import TempBalanceConfig, TempBalancer, analyze


ROOT = Path(__file__).resolve().parents[2]
# PEFT asks transformers for a name that the latter is about to give up.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_passed_over_and_every_rate_is_the_layer_s(name):
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    assert "tuned" in check_model(name)


def test_the_document_has_every_model():
    rows = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8").splitlines()
    assert [name for name in MODELS if not any(row.startswith(f"| {name} | works | ") for row in rows)] == []


def test_the_check_sees_what_is_passed_over():
    model = nn.Sequential(nn.Linear(64, 64), nn.LSTM(8, 8))
    spectra = [spectrum for spectrum in analyze(model) if "hh" not in spectrum.name]
    assert unlisted(model, spectra) == ["1.weight_hh_l0"]


def rules(name: str) -> dict[str, str | None]:
    return {spectrum.name: spectrum.excluded_by for spectrum in analyze(MODELS[name]())}


def test_gpt2_is_analysed_through_its_conv1d_layers():
    found = rules("GPT-2")
    assert found["transformer.wte"] == found["transformer.wpe"] == "embedding"
    assert found["transformer.h.0.attn.c_attn"] == "first" and found["lm_head"] == "last"
    assert [name for name, rule in found.items() if rule is None] == [
        f"transformer.h.{i}.{name}"
        for i in (0, 1)
        for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ][1:]


def test_mixtral_s_experts_are_layers_and_its_router_is_listed():
    spectra = {spectrum.name: spectrum for spectrum in analyze(MODELS["Mixtral"]())}
    experts = spectra["model.layers.0.mlp.experts.gate_up_proj"]
    assert experts.kind == "experts" and experts.num_eigenvalues == 4 * 64 and experts.excluded_by is None
    assert spectra["model.layers.0.mlp.gate.weight"].excluded_by == "not_a_layer"


def test_frozen_layers_are_reported_and_their_parameters_are_not_needed_in_the_optimizer():
    found = rules("BERT, half of it frozen")
    assert {rule for name, rule in found.items() if "layer.0." in name} <= {"frozen", "first"}
    assert all(rule is None for name, rule in found.items() if "layer.1." in name)


def lora_model(**options) -> nn.Module:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    settings = {"r": 4, "lora_alpha": 16, "target_modules": ["query", "value"]} | options
    model = peft.get_peft_model(MODELS["BERT"](), peft.LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    return model


def test_lora_is_analysed_as_the_merged_weight():
    model = lora_model()
    spectra = {spectrum.name.removeprefix("base_model.model."): spectrum for spectrum in analyze(model)}
    unmerged = {spectrum.name: spectrum for spectrum in analyze(model.get_base_model())}
    assert unmerged.keys() == spectra.keys()
    merged = {spectrum.name: spectrum for spectrum in analyze(model.merge_and_unload())}
    assert merged.keys() == spectra.keys()
    for name, spectrum in spectra.items():
        assert (spectrum.alpha, spectrum.norm) == pytest.approx((merged[name].alpha, merged[name].norm), nan_ok=True)
    with_adapter = [name for name in spectra if name.endswith(("query", "value"))]
    assert len(with_adapter) == 4


def test_an_adapter_s_parameters_follow_its_layer_and_frozen_layers_are_not_tuned():
    model = lora_model()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    balancer = TempBalancer(model, torch.optim.AdamW(trained, lr=0.1))
    spectra = balancer.rebalance()
    assert {s.name.split("self.")[-1] for s in spectra if s.excluded_by is None} == {"query", "value"}
    assert all(s.excluded_by == "frozen" for s in spectra if s.name.endswith(("key", "dense")) and "layer" in s.name)
    multipliers = balancer.lr_multipliers
    for layer, multiplier in balancer.layer_multipliers.items():
        assert multipliers[f"{layer}.lora_A.default.weight"] == multiplier
        assert multipliers[f"{layer}.lora_B.default.weight"] == multiplier
    assert len(set(multipliers.values())) > 2


def test_lora_on_gpt2_is_merged_the_right_way_round():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True)
    model = peft.get_peft_model(MODELS["GPT-2"](), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.5)
    found = {spectrum.name.removeprefix("base_model.model."): spectrum.norm for spectrum in analyze(model)}
    merged = {spectrum.name: spectrum.norm for spectrum in analyze(model.merge_and_unload())}
    assert found == pytest.approx(merged, nan_ok=True)


def test_an_adapter_that_is_switched_off_or_merged_is_not_added():
    model = lora_model()
    with_adapter = [spectrum.norm for spectrum in analyze(model)]
    with model.disable_adapter():
        assert [spectrum.norm for spectrum in analyze(model)] != pytest.approx(with_adapter, nan_ok=True)
    model.merge_adapter()
    assert [spectrum.norm for spectrum in analyze(model)] == pytest.approx(with_adapter, nan_ok=True)


def test_dora_whose_weight_is_no_sum_is_listed_and_left_alone():
    model = lora_model(use_dora=True)
    found = {spectrum.name: spectrum.excluded_by for spectrum in analyze(model)}
    parts = [name for name in found if "lora" in name]
    assert parts and {found[name] for name in parts} == {"adapter"}


def test_trainer_with_lora_trains_with_the_rates_of_the_layers(tmp_path):
    from tiny import trainer_settings
    from transformers import Trainer, TrainingArguments

    from hf_tempbalance import TempBalanceCallback

    model, callback = lora_model(), TempBalanceCallback(TempBalanceConfig(update_unit="step"))
    ids = torch.randint(3, 99, (32, 8))
    data = [{"input_ids": row, "labels": torch.tensor(i % 2)} for i, row in enumerate(ids)]
    arguments = TrainingArguments(**trainer_settings(tmp_path, optim="adamw_torch", learning_rate=1e-3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all("lora_" in name for name in changed)
    assert len(set(callback.balancer.layer_multipliers.values())) > 2
