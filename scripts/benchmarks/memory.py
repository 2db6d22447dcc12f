"""Growth of this process to its peak during one look, in bytes (Linux). python -m benchmarks.memory MODEL"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn


FILE = "file of 1 GB"
MATRICES, SHAPE = 64, (1024, 4096)


def main() -> None:
    name = sys.argv[1]
    print(json.dumps(of_a_file() if name == FILE else of_a_model(name)))


def of_a_model(name: str) -> dict[str, int | str]:
    """Against the largest batch: all Gram matrices of one size."""
    from benchmarks.models import build
    from hf_tempbalance import analyze
    from hf_tempbalance.spectra.layers import find_layers

    model = build(name)
    analyze(nn.Sequential(*(nn.Linear(64, 64) for _ in range(4))))  # loads the libraries
    before = start()
    analyze(model)
    extra = resident("VmHWM") - before
    batches: dict[int, int] = {}
    for layer in find_layers(model):
        if layer.is_analysed:
            count, *sides = layer.weight.stack_shape
            batches[min(sides)] = batches.get(min(sides), 0) + count * min(sides) ** 2 * 4
    return {"extra": extra, "largest": max(batches.values()), "of": "the largest batch of Gram matrices"}


def of_a_file() -> dict[str, int | str]:
    """hf-tempbalance analyze of a checkpoint in four files, 64 matrices of 1024 x 4096, against its size."""
    from safetensors.torch import save_file

    from hf_tempbalance.cli.main import main as hf_tempbalance_command

    with tempfile.TemporaryDirectory() as folder:
        weight_map = {}
        for shard in range(4):
            names = [f"layers.{shard * MATRICES // 4 + i}.weight" for i in range(MATRICES // 4)]
            file = f"model-{shard + 1}-of-4.safetensors"
            save_file({name: torch.randn(SHAPE) for name in names}, Path(folder, file))
            weight_map |= dict.fromkeys(names, file)
        index = Path(folder, "model.safetensors.index.json")
        index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        small = Path(folder, "small.safetensors")
        save_file({"a.weight": torch.randn(64, 64), "b.weight": torch.randn(64, 64)}, small)
        table = str(Path(folder, "out.csv"))
        arguments = ["--fit", "median", "--csv", table, "--json", str(Path(folder, "out.json"))]
        for file in (small, index):
            before = start()
            code = hf_tempbalance_command(["analyze", str(file), *arguments])
            if code or (file == index and len(Path(table).read_text().splitlines()) != MATRICES + 1):
                raise SystemExit("hf-tempbalance analyze failed")
    return {"extra": resident("VmHWM") - before, "largest": MATRICES * SHAPE[0] * SHAPE[1] * 4, "of": "the file"}


def start() -> int:
    """Let the peak start anew; the resident bytes now."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def resident(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
