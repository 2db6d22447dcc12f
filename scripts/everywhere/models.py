"""Kinds of models, small and with random weights: is every matrix-shaped weight listed, does each get its rate?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from hf_tempbalance import LayerSpectrum, TempBalanceConfig, TempBalancer, analyze

from .outcome import missing, outcome


TEXT = {"vocab_size": 99, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
VISION = {key: value for key, value in TEXT.items() if key != "vocab_size"} | {"image_size": 32, "patch_size": 8}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def transformer(name: str, **settings) -> Callable[[], nn.Module]:
    """A model class of transformers by name, with settings for its own configuration class."""

    def make() -> nn.Module:
        import transformers

        architecture = getattr(transformers, name)
        return architecture(architecture.config_class(**settings))

    return make


def timm_model(name: str, **settings) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import timm

        return timm.create_model(name, num_classes=10, **settings)

    return make


def lora() -> nn.Module:
    from peft import LoraConfig, get_peft_model

    targets = ["query", "value", "word_embeddings"]
    model = get_peft_model(MODELS["BERT"](), LoraConfig(r=4, target_modules=targets, modules_to_save=["classifier"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at the start, where the merged weight is still the old one
                parameter.normal_(std=0.1)
    return model


def with_frozen_half() -> nn.Module:
    model = MODELS["BERT"]()
    model.bert.encoder.layer[0].requires_grad_(False)
    return model


def with_every_convolution() -> nn.Module:
    kinds = {"conv1d": nn.Conv1d, "conv2d": nn.Conv2d, "conv3d": nn.Conv3d}
    kinds |= {"up1d": nn.ConvTranspose1d, "up2d": nn.ConvTranspose2d, "up3d": nn.ConvTranspose3d}
    model = nn.ModuleDict({name: kind(64, 64, 3) for name, kind in kinds.items()})
    model["grouped"] = nn.Conv2d(64, 64, 3, groups=4)
    model["depthwise"] = nn.Conv2d(64, 64, 3, groups=64)
    model["attention"] = nn.MultiheadAttention(64, 4)
    model["attention of other widths"] = nn.MultiheadAttention(64, 4, kdim=32, vdim=96)
    return nn.ModuleDict({"stem": nn.Linear(64, 64), "body": model, "head": nn.Linear(64, 10)})


MODELS: dict[str, Callable[[], nn.Module]] = {
    "BERT": transformer("BertForSequenceClassification", **TEXT),
    "RoBERTa": transformer("RobertaForSequenceClassification", **TEXT, **TOKENS),
    "GPT-2": transformer("GPT2LMHeadModel", vocab_size=99, n_embd=64, n_layer=2, n_head=4, n_positions=32, **TOKENS),
    "Llama": transformer("LlamaForCausalLM", **TEXT, num_key_value_heads=2, **TOKENS),
    "Mixtral": transformer("MixtralForCausalLM", **TEXT, num_key_value_heads=2, num_local_experts=4, **TOKENS),
    "ViT": transformer("ViTForImageClassification", **VISION),
    "ConvNeXt": transformer("ConvNextForImageClassification", hidden_sizes=[32, 64, 64, 64], depths=[1, 1, 2, 1]),
    "T5": transformer(
        "T5ForConditionalGeneration", vocab_size=99, d_model=64, d_kv=16, d_ff=96, num_layers=2, num_heads=4
    ),
    "Whisper": transformer(
        "WhisperForAudioClassification", vocab_size=99, d_model=64, encoder_layers=2, decoder_layers=1,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=96, decoder_ffn_dim=96,
        num_mel_bins=16, **TOKENS, decoder_start_token_id=1,
    ),
    "timm ViT": timm_model("vit_tiny_patch16_224", img_size=32, depth=2),
    "timm EfficientNet": timm_model("efficientnet_b0"),
    "nn.TransformerEncoder": lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(64, 4, 96, batch_first=True), 2, enable_nested_tensor=False
    ),
    "every convolution, attention": with_every_convolution,
    "BERT, half of it frozen": with_frozen_half,
    "BERT with LoRA (PEFT)": lora,
    "BERT, compiled": lambda: torch.compile(MODELS["BERT"]()),
    "BERT in bfloat16": lambda: MODELS["BERT"]().bfloat16(),
}  # fmt: skip
PACKAGES = {"BERT with LoRA (PEFT)": "peft", "timm ViT": "timm", "timm EfficientNet": "timm"}


def unlisted(model: nn.Module, spectra: list[LayerSpectrum]) -> list[str]:
    """Matrix-shaped parameters that no entry of the report stands for."""
    names = {spectrum.name for spectrum in spectra}
    parameters = getattr(model, "_orig_mod", model).named_parameters()
    return [
        name
        for name, parameter in parameters
        if parameter.dim() >= 2 and not any(name == known or name.startswith(f"{known}.") for known in names)
    ]


def stepped_rates(model: nn.Module) -> dict[int, float]:
    """Id of each trained parameter -> its rate in a step. Raises where that is not its layer's."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    seen: dict[int, float] = {}

    def watch(opt, args, kwargs) -> None:
        seen.update({id(parameter): group["lr"] for group in opt.param_groups for parameter in group["params"]})

    optimizer.register_step_pre_hook(watch)
    balancer = TempBalancer(model, optimizer, TempBalanceConfig())
    balancer.rebalance()
    optimizer.step()
    multipliers = balancer.lr_multipliers
    for key, parameter in getattr(model, "_orig_mod", model).named_parameters():
        if parameter.requires_grad and seen[id(parameter)] != 0.1 * multipliers[key]:
            raise AssertionError(f"{key} was stepped with {seen[id(parameter)]}, not {0.1 * multipliers[key]}")
    return seen


def check_model(name: str) -> str:
    """What the report lists, in a few words. Raises where a weight is passed over or a rate is not applied."""
    torch.manual_seed(0)
    model = MODELS[name]()
    spectra = analyze(model)
    if passed_over := unlisted(model, spectra):
        raise AssertionError(f"passed over silently: {passed_over}")
    seen = stepped_rates(model)
    if len(set(seen.values())) < 3:
        raise AssertionError(f"only the rates {sorted(set(seen.values()))} were used")
    rules = Counter(spectrum.excluded_by or "tuned" for spectrum in spectra)
    return ", ".join(f"{count} {rule}" for rule, count in rules.most_common())


def check_models() -> dict[str, tuple[str, str]]:
    """Model -> (outcome, what is in its report)."""
    results = {}
    for name in MODELS:
        found: list[str] = []
        result = missing(PACKAGES.get(name, "")) or outcome(partial(_collect, name, found))
        results[name] = (result, found[0] if found else "")
    return results


def _collect(name: str, found: list[str]) -> None:
    found.append(check_model(name))
