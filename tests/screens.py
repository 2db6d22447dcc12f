"""What the commands print at 80, 100 and 160 columns, of weights and runs that are the same on every machine.

The screens are kept in tests/golden/screens. ``PYTHONPATH=tests:scripts python tests/screens.py`` writes them anew;
look at the difference before it is committed.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from hf_tempbalance import TempBalanceConfig
from hf_tempbalance.cli import main as cli
from hf_tempbalance.runs.history import append_look
from hf_tempbalance.runs.results import write_results


KEPT = Path(__file__).parent / "golden" / "screens"
WIDTHS = (80, 100, 160)
RESNET = {f"backbone.layer{s}.{b}.conv{c}": 64 * s for s in (1, 2) for b in (0, 1) for c in (1, 2)}
RESNET = {"backbone.conv1": 24, **RESNET, "backbone.layer2.0.downsample.0": 64, "backbone.fc": 100}
PARTS = ("attention.attention.query", "attention.output.dense", "intermediate.dense", "output.dense")
VIT = {"vit.embeddings.patch_embeddings.projection": 48}
VIT |= {f"vit.encoder.layer.{block}.{part}": 96 for block in (0, 1, 10) for part in PARTS}
VIT["classifier"] = 60


def weight(rows: int, columns: int, alpha: float) -> torch.Tensor:
    """A diagonal matrix whose eigenvalues have a tail with this exponent, the same to the last digit everywhere."""
    count = min(rows, columns)
    share = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    found = torch.zeros(rows, columns)
    found.diagonal().copy_(share ** (-0.5 / (alpha - 1)))
    return found


def save(path: str, sides: dict[str, int], shift: float = 0.0) -> None:
    """A file with such a layer of each name; exponents from 1.7 to 8."""
    step = 6.3 / max(len(sides) - 1, 1)
    tensors = {
        f"{name}.weight": weight(2 * side, side, 1.7 + shift + step * number)
        for number, (name, side) in enumerate(sides.items())
    }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)


def run(
    folder: str, looks: int, seed: int = 0, names: tuple[str, ...] = (), alpha: float = 3.0, plain: bool = False
) -> None:
    """The records of a run of 2 epochs. The first layer and the last are not tuned."""
    names = names or tuple(RESNET)
    layers = [{"name": name, "excluded_by": None, "alpha_start": 3.0, "alpha_end": alpha} for name in names]
    log = [{"epoch": epoch, "step": 10 * epoch, "loss": 2 / epoch, "learning_rate": 0.05} for epoch in (1, 2)]
    gain = 0.0 if plain else 0.01 + 0.002 * seed
    log += [
        {"epoch": epoch, "step": 10 * epoch, "eval_accuracy": 0.8 + 0.01 * epoch + 0.003 * (seed % 5) ** 2 + gain}
        for epoch in (1, 2)
    ]
    settings = TempBalanceConfig().to_dict()
    config = {"tempbalance": not plain, "settings": settings, "architecture": "resnet18_cifar"}
    arguments = {"seed": seed, "output_dir": folder, "learning_rate": 0.1}
    environment = {"versions": {"torch": "2"}, "threads": 1, "seed": seed}
    Path(folder).mkdir(parents=True)
    results = {"status": "finished", "config": config, "arguments": arguments, "environment": environment}
    write_results(folder, results | {"seconds": 30.0 + seed, "epochs": log, "layers": layers})
    for number in range(0 if plain else looks):
        numbers = {"kind": "conv2d", "num_eigenvalues": 64, "D": 0.1, "stable_rank": 9.0, "alpha_relative": alpha / 3}
        entries = []
        for position, name in enumerate(names):
            rule = {0: "first", len(names) - 1: "last"}.get(position) if len(names) > 1 else None
            multiplier = 1.0 if rule or math.isnan(alpha) or len(names) == 3 else 0.5 + position / len(names)
            layer = {"name": name, "excluded_by": rule, "multiplier": multiplier, "alpha": alpha + 0.01 * position}
            entries.append(numbers | layer)
        look = {
            "step": 10 * number,
            "epoch": float(number),
            "seconds": 0.25,
            "multiplier_mean": sum(layer["multiplier"] for layer in entries) / len(entries),
            "layers": entries,
        }
        append_look(Path(folder, "tempbalance_history.jsonl"), look)


def make_files() -> None:
    """All that the screens are of, in the current folder."""
    save("resnet.safetensors", RESNET)
    save("trained.safetensors", RESNET, shift=0.4)
    save("vit.safetensors", VIT)
    save("long.safetensors", {f"{'n' * 150}{number}{'n' * 150}": 64 for number in range(3)})
    zero = {f"block.{number}.fc.weight": torch.full((64, 64), math.nan) for number in range(3)}
    save_file(zero, "nan.safetensors")
    for seed in (0, 1, 2):
        run(f"runs/plain-{seed}", 0, seed, plain=True)
        run(f"runs/tempbalance-{seed}", 3, seed)
    save("runs/tempbalance-0/model.safetensors", RESNET)
    three = ("stem", "middle", "head")
    run("runs/one-look", 1)
    run("runs/one-layer", 2, names=three)
    run("runs/nan", 2, alpha=math.nan)
    for name in "ab":
        run(f"runs/{'folder' * 25}-{name}", 0, seed=ord(name), plain=True)
    run("runs/long", 2, names=tuple(f"{'n' * 150}{number}{'n' * 150}" for number in range(3)))


COMMANDS = {
    "analyze": ["analyze", "resnet.safetensors"],
    "analyze_median": ["analyze", "resnet.safetensors", "--fit", "median", "--sort", "alpha"],
    "analyze_vit": ["analyze", "vit.safetensors"],
    "analyze_run": ["analyze", "runs/tempbalance-0"],
    "analyze_long_names": ["analyze", "long.safetensors"],
    "analyze_nan": ["analyze", "nan.safetensors"],
    "compare": ["compare", "resnet.safetensors", "trained.safetensors"],
    "sparsities": ["sparsities", "vit.safetensors", "--sparsity", "0.6"],
    "compare_runs": ["compare-runs", *(f"runs/plain-{s}" for s in range(3)), "--with"]
    + [f"runs/tempbalance-{s}" for s in range(3)],
    "compare_runs_long_folders": ["compare-runs", f"runs/{'folder' * 25}-a", "--with", f"runs/{'folder' * 25}-b"],
    "quick_start": ["scripts/compare.py", "runs/plain-0", "runs/tempbalance-0"],
    "no_look": ["scripts/compare.py", "runs/plain-0", "runs/plain-1"],
    "one_look": ["scripts/compare.py", "runs/plain-0", "runs/one-look"],
    "one_layer": ["scripts/compare.py", "runs/plain-0", "runs/one-layer"],
    "nan": ["scripts/compare.py", "runs/plain-0", "runs/nan"],
    "long_names": ["scripts/compare.py", "runs/plain-0", "runs/long"],
}


def screen(arguments: list[str], width: int) -> str:
    """What a command prints in the current folder, with COLUMNS=width."""
    import compare

    out = io.StringIO()
    before, argv = dict(os.environ), sys.argv
    os.environ["COLUMNS"] = str(width)
    os.environ.pop("LINES", None)
    try:
        with contextlib.redirect_stdout(out):
            if arguments[0] == "scripts/compare.py":
                sys.argv = arguments
                compare.main()
            else:
                assert cli.main(arguments) == 0
    finally:
        os.environ.clear()
        os.environ.update(before)
        sys.argv = argv
    return out.getvalue()


@contextlib.contextmanager
def files() -> Iterator[None]:
    """A folder with all files, as the current one."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            make_files()
            yield
        finally:
            os.chdir(before)


def shown(name: str) -> str:
    """The three screens of a command, under a line each."""
    return "\n".join(f"=== {width} columns\n{screen(COMMANDS[name], width)}" for width in WIDTHS)


if __name__ == "__main__":
    with files():
        texts = {name: shown(name) for name in COMMANDS}
    for name, text in texts.items():
        (KEPT / f"{name}.txt").write_text(text, encoding="utf-8")
    print(json.dumps({name: len(text.splitlines()) for name, text in texts.items()}))  # noqa: T201
