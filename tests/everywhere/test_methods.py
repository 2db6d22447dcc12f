"""Every preset with every way in, and weight decay with every optimizer: what docs/compatibility.md says happens."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from everywhere.methods import MODELS, PACKAGES, WAYS, check_preset
from everywhere.optimizers import DECAYED, SignSGD, check_training, plain
from everywhere.optimizers import WAYS as OPTIMIZER_WAYS
from everywhere.outcome import missing, outcome

from hf_tempbalance import TempBalanceConfig, TempBalancer
from hf_tempbalance.balance.balancer import NoEffectWarning
from hf_tempbalance.presets import PRESETS


DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"
SLOW = pytest.mark.slow
# FARMS looks at 81 windows of every matrix, and a Trainer is slower to make than a loop.
OFTEN = {("llr", "Llama", "callback"), ("alphadecay", "BERT", "trainer"), ("model-balancing", "BERT", "trainer")}
OFTEN |= {(preset, model, "loop") for preset in PRESETS for model in MODELS if preset != "farms"}
OFTEN |= {("farms", "convolutions", "loop")}
# One that decays beside the step, one that adds to the gradient, one that keeps numbers in its groups.
DECAYED_OFTEN = ("adamw_torch", "sgd", "timm LAMB")
pytestmark = [
    pytest.mark.usefixtures("without_a_compiler"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]


def documented(section: str) -> dict[str, list[str]]:
    """What was tried -> result of each way in, from the first table below a title."""
    text = DOCUMENT.read_text(encoding="utf-8").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows[2:]}


def test_the_document_has_every_preset_with_every_model_and_every_optimizer():
    assert list(documented("Methods")) == [f"{preset}, {model}" for preset in PRESETS for model in MODELS]
    assert list(documented("Weight decay")) == list(DECAYED)


@pytest.mark.parametrize(
    ("preset", "model", "way"),
    [
        pytest.param(preset, model, way, marks=() if (preset, model, way) in OFTEN else SLOW)
        for preset in PRESETS
        for model in MODELS
        for way in WAYS
    ],
)
def test_every_parameter_steps_with_its_preset_s_rate_and_decay(preset, model, way):
    if reason := missing(PACKAGES.get(model, "")):
        pytest.skip(reason)
    result = outcome(partial(check_preset, preset, model, way))
    assert result.partition(":")[0] == documented("Methods")[f"{preset}, {model}"][WAYS.index(way)], result


@pytest.mark.parametrize("way", OPTIMIZER_WAYS)
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in DECAYED_OFTEN else SLOW) for n in DECAYED])
def test_a_schedule_of_weight_decay_stays_its_owner_s_and_the_factor_comes_on_top(name, way, target="both"):
    if reason := missing(DECAYED[name].package):
        pytest.skip(reason)
    result = outcome(partial(check_training, name, "cosine", way, target), partial(plain, name, "cosine", target))
    if result.startswith("not tried"):
        pytest.skip(result)
    assert result.partition(":")[0] == documented("Weight decay")[name][OPTIMIZER_WAYS.index(way)], result


@pytest.mark.parametrize("kind", ["weight_decay_multipliers", "lr_multipliers"])
def test_the_check_sees_a_wrong_value(monkeypatch, kind):
    found = dict.fromkeys((name for name, _ in MODELS["convolutions"]().named_parameters()), 2.0)
    monkeypatch.setattr(f"hf_tempbalance.balance.balancer.TempBalancer.{kind}", found)
    assert outcome(partial(check_preset, "tempbalance", "convolutions", "loop")).startswith("failed: AssertionError")


def layers() -> torch.nn.Module:
    return torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(5)))


def test_a_state_that_was_loaded_does_not_hide_what_a_trial_step_shows():
    model = layers()
    optimizer = SignSGD([{"params": list(model.parameters()), "weight_decay": 0.1}])
    optimizer.load_state_dict(optimizer.state_dict())  # as Accelerate does; torch puts "differentiable" into defaults
    with pytest.raises(ValueError, match="SignSGD does not act on"):
        TempBalancer(model, optimizer, TempBalanceConfig(target="both"))


def test_an_optimizer_that_does_not_act_on_the_weight_decay_of_its_groups_is_refused_in_one_sentence():
    model = layers()
    optimizer = SignSGD([{"params": list(model.parameters()), "weight_decay": 0.1}])
    with pytest.raises(
        ValueError, match=r"SignSGD does not act on the weight_decay of its groups.*target='lr'"
    ) as error:
        TempBalancer(model, optimizer, TempBalanceConfig(target="both"))
    assert "\n" not in str(error.value)
    TempBalancer(model, optimizer, TempBalanceConfig())


ACTING = [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad, torch.optim.RMSprop]
ACTING += [torch.optim.Adadelta, torch.optim.Adamax, torch.optim.NAdam, torch.optim.RAdam, torch.optim.ASGD]
ACTING += [torch.optim.Adafactor]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ACTING)
def test_one_that_acts_on_it_is_not_refused_whatever_its_rate(kind, dtype):
    model = layers().to(dtype)
    optimizer = kind(model.parameters(), lr=1e-9, weight_decay=1e-9)
    TempBalancer(model, optimizer, TempBalanceConfig(target="weight_decay"))


def test_a_weight_decay_of_0_that_is_to_be_multiplied_is_said():
    model = layers()
    config = TempBalanceConfig.preset("alphadecay")
    with pytest.warns(NoEffectWarning, match="weight decay, and that is 0 in every group of the optimizer"):
        TempBalancer(model, torch.optim.SGD(model.parameters(), lr=0.1), config)


def lora_multipliers(preset: str) -> tuple[dict[str, float], dict[str, float]]:
    """Of the trained parameters of BERT with LoRA, and of the layers, after a look and its ramp."""
    pytest.importorskip("peft")
    torch.manual_seed(0)
    model = MODELS["BERT with LoRA"]()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    balancer = TempBalancer(model, torch.optim.SGD(trained.values(), lr=0.0), TempBalanceConfig.preset(preset))
    balancer.rebalance()
    for _ in range(balancer.config.ramp_steps):
        balancer.optimizer.step()
    return {name: balancer.lr_multipliers[name] for name in trained}, balancer.layer_multipliers


def test_with_lora_the_adapters_of_a_block_share_its_multiplier():
    found, _ = lora_multipliers("model-balancing")
    blocks = [{value for name, value in found.items() if f"encoder.layer.{i}." in name} for i in (0, 1)]
    assert [len(values) for values in blocks] == [1, 1] and blocks[0] != blocks[1]
    assert {value for name, value in found.items() if "encoder.layer" not in name} == {1.0}


def test_with_lora_and_llr_each_adapter_takes_its_layer_s_multiplier_and_frozen_embeddings_take_none():
    found, layers = lora_multipliers("llr")
    assert not any("embeddings" in name for name in layers)
    adapters = [name for name in found if "lora_" in name]
    assert len(adapters) == 2 * 11 and len({found[name] for name in adapters}) > 5
    assert all(found[name] == layers[name.partition(".lora_")[0]] for name in adapters)
    assert (min(layers.values()), max(layers.values())) == (1.0, 3.0)
