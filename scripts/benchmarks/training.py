"""Images per second of our Trainer with its input pipeline against loops of one's own.

Contenders, with the same network, batch size, optimizer and number of steps:

    trainer     TempBalanceTrainer as scripts/train.py makes it: uint8 images in memory, whole batches cropped,
                flipped and normalised
    per image   a hand-written loop as most tutorials have it: torchvision's transforms on one image after the other
                in a DataLoader, with 0 and with 2 workers; on a CPU only, a GPU would wait for them
    pipeline    a hand-written loop over our batches, without Trainer
    in memory   a hand-written loop whose batches lie ready as float tensors: no augmentation, nothing to load

Ratios are the trainer's images per second over the contender's, median of the rounds with smallest and largest; above
1 the trainer is faster. The contenders take turns in every round.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from benchmarks.clock import now
from benchmarks.race import ratio
from hf_tempbalance import TempBalanceConfig, TempBalanceTrainingArguments
from hf_tempbalance.tasks.data import collate
from hf_tempbalance.tasks.image_classification import RECIPE, RunArguments, load_data, make_model, make_trainer


ARCHITECTURE, BATCH_SIZE = "resnet18_cifar", 128
STEPS, GPU_STEPS = 20, 200  # in a round, after 3 that are not timed

Batches = Iterator[tuple[Tensor, Tensor]]


class Clock(TrainerCallback):
    """Times at which the third and the last step of a Trainer end; in between a GPU is never waited for."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step in (3, state.max_steps):
            self.ends.append(now(args.device.type))


def steps_of(options: argparse.Namespace) -> int:
    """Timed steps of a round."""
    return 2 if options.tiny else STEPS if options.device == "cpu" else GPU_STEPS


def training(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Images per second of each contender in each round, which they go through in turn."""
    contenders = contenders_of(options)
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, measure in contenders.items():
            speeds[name].append(measure())
    what = f"{options.dataset}, {ARCHITECTURE}, width {options.width_factor}, batches of {BATCH_SIZE}"
    print(f"{what}, {steps_of(options)} steps a round")
    print("| contender | images/s | trainer / contender |")
    print("| --- | --- | --- |")
    for name, values in speeds.items():
        middle, low, high = ratio(values, speeds["trainer"])
        spread = "" if name == "trainer" else f"{middle:.3f} ({low:.3f}-{high:.3f})"
        print(f"| {name} | {statistics.median(values):.0f} | {spread} |")
    return [{"contender": name, "images_per_second": values} for name, values in speeds.items()]


def contenders_of(options: argparse.Namespace) -> dict[str, Callable[[], float]]:
    """Name -> function that trains for a round and returns images per second."""
    arguments = RunArguments(
        dataset=options.dataset,
        architecture=ARCHITECTURE,
        width_factor=options.width_factor,
        channels_last=options.channels_last,
    )
    data = load_data(arguments, seed=0)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    loops: dict[str, Callable[[], Batches]] = {}
    if options.device == "cpu":
        loops |= {f"per image, {workers} workers": per_image(data, workers) for workers in (0, 2)}
    data = data.to(device)
    loops |= {"pipeline": lambda: pipeline(data), "in memory": in_memory(data)}

    def loop(batches: Callable[[], Batches]) -> Callable[[], float]:
        return lambda: plain_loop(make_model(arguments, data).to(device), batches(), device, options)

    return {"trainer": lambda: trainer_round(arguments, options)} | {n: loop(batches) for n, batches in loops.items()}


def trainer_round(arguments: RunArguments, options: argparse.Namespace) -> float:
    with tempfile.TemporaryDirectory() as folder:
        recipe = RECIPE | {
            "output_dir": folder,
            "per_device_train_batch_size": BATCH_SIZE,
            "dataloader_drop_last": True,  # every batch is whole, here as in the loops
            "max_steps": steps_of(options) + 3,
            "bf16": options.bf16,
            "eval_strategy": "no",
            "save_strategy": "no",
            "logging_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }
        trainer = make_trainer(arguments, TempBalanceConfig(), TempBalanceTrainingArguments(**recipe))
        clock = Clock()
        trainer.add_callback(clock)
        trainer.train()
    first, last = clock.ends
    return BATCH_SIZE * steps_of(options) / (last - first)


def plain_loop(model: nn.Module, batches: Batches, device: torch.device, options: argparse.Namespace) -> float:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    model.train()
    for step in range(steps_of(options) + 3):
        images, labels = next(batches)
        images, labels = images.to(device), labels.to(device)
        if options.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
            loss = nn.functional.cross_entropy(model(images).logits, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step == 2:
            start = now(device.type)
    return BATCH_SIZE * steps_of(options) / (now(device.type) - start)


def shuffled(count: int) -> Iterator[Tensor]:
    """Indices of batches, epoch after epoch without end."""
    while True:
        yield from (part for part in torch.randperm(count).split(BATCH_SIZE) if len(part) == BATCH_SIZE)


def pipeline(data: Any) -> Batches:
    for index in shuffled(len(data.train)):
        batch = collate(data.train.__getitems__(index.tolist()))
        yield batch["pixel_values"], batch["labels"]


def in_memory(data: Any) -> Callable[[], Batches]:
    ready = collate(data.train.__getitems__(list(range(len(data.train)))))

    def batches() -> Batches:
        for index in shuffled(len(data.train)):
            index = index.to(ready["labels"].device)
            yield ready["pixel_values"][index], ready["labels"][index]

    return batches


def per_image(data: Any, workers: int) -> Callable[[], Batches]:
    from torchvision import transforms
    from torchvision.transforms.functional import to_pil_image

    transform = transforms.Compose(
        [
            transforms.RandomCrop(data.image_size, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(data.mean, data.std),
        ]
    )
    images = [to_pil_image(image) for image in data.train.images]
    labels = data.train.labels.tolist()
    dataset = Transformed(images, labels, transform)
    settings = {"batch_size": BATCH_SIZE, "shuffle": True, "drop_last": True, "num_workers": workers}

    def batches() -> Batches:
        while True:
            yield from torch.utils.data.DataLoader(dataset, **settings)

    return batches


class Transformed(torch.utils.data.Dataset):
    def __init__(self, images: list, labels: list[int], transform: Callable) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]
