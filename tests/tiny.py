"""Small networks and Trainer set-ups that several tests share."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset


class ConvNet(nn.Module):
    """The golden runs' model: five 3x3 convolutions, each with a BatchNorm named after it, and a linear head."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        widths = [1, 16, 32, 64, 64, 64]
        for i in range(1, 6):
            self.add_module(f"conv{i}", nn.Conv2d(widths[i - 1], widths[i], 3, padding=1, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(widths[i]))
        self.linear = nn.Linear(widths[-1], num_classes)
        self.losses: list[float] = []

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        x = pixel_values
        for i in range(1, 6):
            x = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x)).relu()
            if i in (2, 4):
                x = nn.functional.max_pool2d(x, 2)
        logits = self.linear(x.mean((2, 3)))
        if labels is None:
            return {"logits": logits}
        loss = nn.functional.cross_entropy(logits, labels)
        if self.training:
            self.losses.append(loss.item())
        return {"loss": loss, "logits": logits}


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers fc0, fc1, ... of these widths."""
    pairs = zip(widths[:-1], widths[1:], strict=True)
    return nn.Sequential(OrderedDict((f"fc{i}", nn.Linear(a, b)) for i, (a, b) in enumerate(pairs)))


class Digits(Dataset):
    """The first images of scikit-learn's digits in file order, as (1, 8, 8) images in -0.5 ... 0.5."""

    def __init__(self, count: int, dtype: torch.dtype = torch.float32) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        self.images = torch.from_numpy(digits.images[:count] / 16 - 0.5).to(dtype).unsqueeze(1)
        self.labels = torch.from_numpy(digits.target[:count])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


def trainer_settings(output_dir: Path, **changes: Any) -> dict[str, Any]:
    """Arguments of a short CPU run without anything that writes to the terminal."""
    settings = {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": 32,
        "num_train_epochs": 2,
        "learning_rate": 0.05,
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 7,
    }
    return settings | changes
