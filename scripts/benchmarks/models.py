"""The models of the benchmark: real architectures with random weights whose spectra have heavy tails."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import nn


def by_timm(name: str, **arguments: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        import hf_tempbalance.tasks.backbones  # noqa: F401  registers the *_cifar networks

        return timm.create_model(name, **arguments)

    return build


def bert_base() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig())


def gpt2_medium() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(n_embd=1024, n_layer=24, n_head=16))


def tiny() -> nn.Module:
    """Shows that a part runs; its times tell nothing."""
    widths = (32, 48, 64, 48, 32)
    return nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(widths)))


def llama_blocks(blocks: int) -> Callable[[], nn.Module]:
    """Blocks of a Llama of 1B parameters (2048 wide, 8192 inside, 8 of 32 heads for keys), without the vocabulary."""

    def build() -> nn.Module:
        shapes = {"q": (2048, 2048), "k": (2048, 512), "v": (2048, 512), "o": (2048, 2048)}
        shapes |= {"gate": (2048, 8192), "up": (2048, 8192), "down": (8192, 2048)}
        layers = nn.ModuleDict()
        for block in range(blocks):
            for name, (inputs, outputs) in shapes.items():
                layers[f"{block}_{name}"] = nn.Linear(inputs, outputs, bias=False)
        return layers

    return build


TINY, WHOLE_LLAMA = "tiny", "Llama-1B"
MODELS: dict[str, Callable[[], nn.Module]] = {
    "ResNet18": by_timm("resnet18_cifar", num_classes=100),
    "ResNet34": by_timm("resnet34_cifar", num_classes=100),
    "VGG16": by_timm("vgg16_cifar", num_classes=100),
    "VGG19": by_timm("vgg19_cifar", num_classes=100),
    "WRN16-8": by_timm("wrn16_8_cifar", num_classes=100),
    "WRN28-6": by_timm("wrn28_6_cifar", num_classes=100),
    "ViT-B/16": by_timm("vit_base_patch16_224"),
    "BERT-base": bert_base,
    "GPT-2 medium": gpt2_medium,
    "Llama-1B, 2 blocks": llama_blocks(2),
    WHOLE_LLAMA: llama_blocks(16),
    TINY: tiny,
}


@torch.no_grad()
def build(name: str, device: str = "cpu") -> nn.Module:
    """A model of the table; columns of its matrices are scaled by u^(-1/4), u uniform, which gives heavy tails."""
    torch.manual_seed(0)
    model = MODELS[name]().to(device).eval()
    random = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            scale = torch.rand(parameter.shape[1], generator=random).clamp_min(1e-4) ** -0.25
            shape = [1, -1] + [1] * (parameter.dim() - 2)
            parameter.mul_(scale.reshape(shape).to(parameter.device))
    return model
