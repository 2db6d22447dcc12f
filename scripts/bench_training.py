"""Images per second of our Trainer with its input pipeline against loops of one's own, in one run.

    python scripts/bench_training.py                                            2 cores: quarter width, some minutes
    python scripts/bench_training.py --width_factor 1 --bf16 --channels_last    one GPU

Contenders, with the same network, batch size, optimizer and number of steps:

    trainer     TempBalanceTrainer as scripts/train.py makes it: uint8 images in memory, whole batches cropped,
                flipped and normalised
    per image   a hand-written loop as most tutorials have it: torchvision's transforms on one image after the other
                in a DataLoader, with 0 and with 2 workers
    pipeline    a hand-written loop over our batches, without Trainer
    in memory   a hand-written loop whose batches lie ready as float tensors: no augmentation, nothing to load

Ratios are the trainer's images per second over the contender's, median of the rounds with smallest and largest; above
1 the trainer is faster. The contenders take turns in every round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from hf_tempbalance import TempBalanceConfig, TempBalanceTrainingArguments
from hf_tempbalance.huggingface.parser import run
from hf_tempbalance.tasks.data import collate
from hf_tempbalance.tasks.image_classification import RECIPE, RunArguments, load_data, make_model, make_trainer


Batches = Iterator[tuple[Tensor, Tensor]]


class Clock(TrainerCallback):
    """Times at which the steps of a Trainer end."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.ends.append(now())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits", help="as for scripts/train.py; its images are repeated")
    parser.add_argument("--architecture", default="resnet18_cifar")
    parser.add_argument("--width_factor", type=float, default=0.25)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20, help="timed steps in each round, after 3 that are not")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--channels_last", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args()
    contenders = contenders_of(options)
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, measure in contenders.items():
            speeds[name].append(measure())
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {device}, {options.architecture}, width {options.width_factor}")
    print("| contender | images/s | trainer / contender |")
    print("| --- | --- | --- |")
    for name, values in speeds.items():
        ratios = [ours / other for ours, other in zip(speeds["trainer"], values, strict=True)]
        spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})"
        print(f"| {name} | {statistics.median(values):.0f} | {'' if name == 'trainer' else spread} |")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"device": device, "images_per_second": speeds}, indent=2) + "\n")


def contenders_of(options: argparse.Namespace) -> dict[str, Callable[[], float]]:
    """Name -> function that trains for a round and returns images per second."""
    arguments = RunArguments(
        dataset=options.dataset,
        architecture=options.architecture,
        width_factor=options.width_factor,
        channels_last=options.channels_last,
    )
    data = load_data(arguments, seed=0)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    loops = {"per image, 0 workers": per_image(data, options, 0), "per image, 2 workers": per_image(data, options, 2)}
    data = data.to(device)
    loops |= {"pipeline": lambda: pipeline(data, options), "in memory": in_memory(data, options)}

    def loop(batches: Callable[[], Batches]) -> Callable[[], float]:
        return lambda: plain_loop(make_model(arguments, data).to(device), batches(), device, options)

    return {"trainer": lambda: trainer_round(arguments, options)} | {n: loop(batches) for n, batches in loops.items()}


def trainer_round(arguments: RunArguments, options: argparse.Namespace) -> float:
    with tempfile.TemporaryDirectory() as folder:
        recipe = RECIPE | {
            "output_dir": folder,
            "per_device_train_batch_size": options.batch_size,
            "dataloader_drop_last": True,  # every batch is whole, here as in the loops
            "max_steps": options.steps + 3,
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
    return options.batch_size * options.steps / (clock.ends[-1] - clock.ends[2])


def plain_loop(model: nn.Module, batches: Batches, device: torch.device, options: argparse.Namespace) -> float:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    model.train()
    for step in range(options.steps + 3):
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
            start = now()
    return options.batch_size * options.steps / (now() - start)


def shuffled(count: int, batch_size: int) -> Iterator[Tensor]:
    """Indices of batches, epoch after epoch without end."""
    while True:
        yield from (part for part in torch.randperm(count).split(batch_size) if len(part) == batch_size)


def pipeline(data: Any, options: argparse.Namespace) -> Batches:
    for index in shuffled(len(data.train), options.batch_size):
        batch = collate(data.train.__getitems__(index.tolist()))
        yield batch["pixel_values"], batch["labels"]


def in_memory(data: Any, options: argparse.Namespace) -> Callable[[], Batches]:
    ready = collate(data.train.__getitems__(list(range(len(data.train)))))

    def batches() -> Batches:
        for index in shuffled(len(data.train), options.batch_size):
            index = index.to(ready["labels"].device)
            yield ready["pixel_values"][index], ready["labels"][index]

    return batches


def per_image(data: Any, options: argparse.Namespace, workers: int) -> Callable[[], Batches]:
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
    settings = {"batch_size": options.batch_size, "shuffle": True, "drop_last": True, "num_workers": workers}

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


def now() -> float:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    run(main)
