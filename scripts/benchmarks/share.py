"""What a look costs beside the training it belongs to: an epoch of ResNet18, 100 steps of a Llama of 1B parameters."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.clock import timed
from benchmarks.models import TINY, WHOLE_LLAMA, build
from benchmarks.scale import LLAMAS
from hf_tempbalance import analyze


HEAD, VOCABULARY = 64, 128256  # of the published Llamas


@dataclass(frozen=True)
class Training:
    """A training between two looks.

    Attributes:
        model: of what is trained.
        batch: makes inputs on a device.
        loss: of the model on a batch.
        steps: between two looks.
        timed: steps that are measured; the rest takes as long.
    """

    model: Callable[[], nn.Module]
    batch: Callable[[str], Tensor]
    loss: Callable[[nn.Module, Tensor], Tensor]
    steps: int
    timed: int


def llama_1b() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    blocks, width, keys, inside = LLAMAS["1B"]
    sizes = {"hidden_size": width, "intermediate_size": inside, "num_hidden_layers": blocks}
    sizes |= {"num_attention_heads": width // HEAD, "num_key_value_heads": keys // HEAD, "vocab_size": VOCABULARY}
    return LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True, use_cache=False))


def resnet_loss(model: nn.Module, images: Tensor) -> Tensor:
    labels = torch.arange(len(images), device=images.device) % 100
    return nn.functional.cross_entropy(model(images), labels)


TRAININGS = {
    "ResNet18": Training(
        lambda: build("ResNet18").to(memory_format=torch.channels_last),
        lambda device: torch.randn(128, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last),
        resnet_loss,
        steps=50_000 // 128,
        timed=100,
    ),
    WHOLE_LLAMA: Training(
        llama_1b,
        lambda device: torch.randint(VOCABULARY, (8, 1024), device=device),
        lambda model, tokens: model(input_ids=tokens, labels=tokens).loss,
        steps=100,
        timed=20,
    ),
    TINY: Training(
        lambda: build(TINY),
        lambda device: torch.randn(8, 32, device=device),
        lambda model, inputs: model(inputs).square().mean(),
        steps=100,
        timed=2,
    ),
}


def shares(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Seconds of a look, and of the training between two: bf16 on an accelerator, float32 and ResNet18 on a CPU."""
    names = options.model or (["ResNet18"] if options.device == "cpu" else ["ResNet18", WHOLE_LLAMA])
    for name in filter(TRAININGS.__contains__, names):
        row = measure(TRAININGS[name], options.device, options.rounds)
        look, step = statistics.median(row["look"]), statistics.median(row["step"])
        steps = TRAININGS[name].steps
        share = look / (steps * step)
        print(f"{name:10} a look {look:.3f} s, {steps} steps of {1e3 * step:.1f} ms: {share:.2%}", flush=True)
        yield {"model": name, "steps": steps, "share": share, **row}


def measure(training: Training, device: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of looks and of single steps, in turn."""
    model, batch = training.model().to(device).train(), training.batch(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    count = training.timed if device != "cpu" else 2

    def steps() -> None:
        for _ in range(count):
            optimizer.zero_grad()
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=device != "cpu"):
                loss = training.loss(model, batch)
            loss.backward()
            optimizer.step()

    steps(), analyze(model)  # memory is allocated, kernels are chosen
    found: dict[str, list[float]] = {"look": [], "step": []}
    for _ in range(rounds):
        found["step"].append(timed(steps, device)[0] / count)
        found["look"].append(timed(lambda: analyze(model), device)[0])
    return found
