"""TempBalance in a loop of your own with Accelerate, on one process or many; it can be killed and resumed.

accelerate launch scripts/accelerate_loop.py
accelerate launch --multi_gpu --num_processes 2 scripts/accelerate_loop.py    (also without a GPU, with gloo)
accelerate launch scripts/accelerate_loop.py --resume
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hf_tempbalance import TempBalancer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/accelerate_loop"))
    parser.add_argument("--resume", action="store_true", help="go on from the last finished epoch")
    options = parser.parse_args()
    saved = sorted(options.output_dir.glob("epoch-*"))
    if saved and not options.resume:
        parser.error(f"{options.output_dir} has a run already. Pass --resume to go on, or another --output_dir.")

    # Without a GPU, Accelerate joins the launched processes only when it is told that they use the CPU.
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    torch.manual_seed(43)
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.from_numpy(images).float() / 16 - 0.5, torch.from_numpy(labels))
    train, test = torch.utils.data.random_split(data, [1500, 297], torch.Generator().manual_seed(43))
    widths = (64, 256, 256, 128)
    layers = [m for a, b in zip(widths, widths[1:], strict=False) for m in (nn.Linear(a, b), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=options.epochs)
    batches = DataLoader(train, batch_size=50, shuffle=True)
    model, optimizer, batches = accelerator.prepare(model, optimizer, batches)

    balancer = TempBalancer(model, optimizer)  # after prepare, on every process
    accelerator.register_for_checkpointing(balancer, schedule)
    first = 0
    if saved:
        accelerator.load_state(saved[-1])
        first = schedule.last_epoch
    else:
        balancer.rebalance()
    for epoch in range(first, options.epochs):
        model.train()
        batches.set_epoch(epoch)
        for inputs, targets in batches:
            loss = nn.functional.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
        schedule.step()
        spectra = balancer.rebalance()  # every process looks at its share of the layers
        save(accelerator, options.output_dir, epoch + 1)
        accelerator.print(f"epoch {epoch + 1}: test accuracy {accuracy(accelerator.unwrap_model(model), test):.4f}")
        for spectrum in spectra:
            multiplier = balancer.layer_multipliers.get(spectrum.name, 1.0)
            accelerator.print(f"  {spectrum.name}: alpha {spectrum.alpha:.2f}, rate x {multiplier:.2f}")
    accelerator.end_training()


def save(accelerator: Accelerator, folder: Path, epoch: int) -> None:
    """A state gets its name when it is whole, so a kill at any moment leaves one to go on from."""
    accelerator.save_state(folder / "unfinished")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (folder / "unfinished").rename(folder / f"epoch-{epoch:04d}")
    accelerator.wait_for_everyone()


@torch.no_grad()
def accuracy(model: nn.Module, data: torch.utils.data.Dataset) -> float:
    device = next(model.parameters()).device
    inputs, targets = (torch.stack(column).to(device) for column in zip(*data, strict=True))
    model.eval()
    return (model(inputs).argmax(1) == targets).float().mean().item()


if __name__ == "__main__":
    main()
