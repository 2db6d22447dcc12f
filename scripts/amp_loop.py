"""TempBalance in a plain PyTorch loop with torch.amp and GradScaler.

    python scripts/amp_loop.py                      bfloat16 on a CPU, float16 on a GPU
    python scripts/amp_loop.py --dtype float16

The weights stay float32 under autocast, and the looks read these. A step that the scaler skips, because a gradient
overflowed, is skipped with its multipliers.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

from hf_tempbalance import TempBalancer


def main() -> None:
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--dtype", choices=["float16", "bfloat16"])
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype or ("bfloat16" if device.type == "cpu" else "float16"))

    torch.manual_seed(43)
    images, labels = load_digits(return_X_y=True)
    inputs, targets = torch.from_numpy(images).float().to(device) / 16 - 0.5, torch.from_numpy(labels).to(device)
    model = nn.Sequential(
        nn.Linear(64, 256),
        nn.ReLU(),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    ).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    balancer = TempBalancer(model, optimizer)
    for epoch in range(options.epochs):
        spectra = balancer.rebalance()
        for part in torch.randperm(1500).split(50):
            with torch.autocast(device.type, dtype):
                loss = nn.functional.cross_entropy(model(inputs[part]), targets[part])
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        with torch.no_grad(), torch.autocast(device.type, dtype):
            accuracy = (model(inputs[1500:]).argmax(1) == targets[1500:]).float().mean().item()
        print(f"epoch {epoch + 1}: test accuracy {accuracy:.4f}, loss scale {scaler.get_scale():g}")
        for spectrum in spectra:
            multiplier = balancer.layer_multipliers.get(spectrum.name, 1.0)
            print(f"  {spectrum.name}: alpha {spectrum.alpha:.2f}, rate x {multiplier:.2f}")


if __name__ == "__main__":
    main()
