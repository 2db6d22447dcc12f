"""The stages of a GPU day, in the order of their value, and their parts: processes with a time limit each."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.models import WHOLE_LLAMA

from gpu.machine import ROOT, SCRIPTS
from gpu.smoke import CHECKS
from gpu.trainers import TASKS


STUDIES = {"gpu_cifar10": "cifar10", "gpu_tiny_imagenet_12k": "tiny-imagenet-12k"}  # study -> data set
SEEDS = (43, 37, 13, 51, 71)  # of both studies
CNNS = ("ResNet18", "ResNet34", "VGG16", "WRN16-8", "WRN28-6")
TRANSFORMERS = ("ViT-B/16", "BERT-base", "GPT-2 medium", "Llama-1B, 2 blocks", WHOLE_LLAMA)
# Model -> rounds and seconds: a pass of the loop over the singular values takes up to minutes.
LONG_RACES = {"ViT-B/16": (3, 120), "BERT-base": (3, 120), "GPT-2 medium": (2, 180), "Llama-1B, 2 blocks": (2, 120)}
LONG_RACES[WHOLE_LLAMA] = (1, 300)
IMAGES = ("datasets", "dill", "multiprocess", "evaluate")  # what scripts/train.py needs beyond the rest


@dataclass(frozen=True)
class Part:
    """A process.

    Attributes:
        name: in the result file of the stage.
        command: of the process; it writes its rows to the file that is appended as ``--json FILE``.
        seconds: its time limit.
        gigabytes: of GPU memory that it needs.
        packages: modules that not every machine has.
        data: name of the data set that it needs.
        gpus: how many it needs.
        open_ended: whether what it has done so far counts, when the day ends before it does.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    gigabytes: float = 4
    packages: tuple[str, ...] = ()
    data: str | None = None
    gpus: int = 1
    open_ended: bool = False


@dataclass(frozen=True)
class Stage:
    """Parts that answer one question; minutes: what all of them may take together."""

    name: str
    about: str
    minutes: float
    parts: list[Part] = field(default_factory=list)


@dataclass(frozen=True)
class Day:
    """What stages are made for.

    Attributes:
        device: "cuda", or "cpu" for the dry run.
        tiny: the smallest sizes.
        folder: of this kind of machine, where results go.
        studies: folder of the studies, the same for all machines.
        data: folder of the data sets; None where there is none.
        gpus: of the machine.
    """

    device: str
    tiny: bool
    folder: Path
    studies: Path
    data: Path | None
    gpus: int


def stages(day: Day) -> list[Stage]:
    """All stages, the most valuable first."""
    return [make(day) for make in (smoke, solvers, analysis, share, training, trainer, studies)]


def bench(day: Day, part: str, *more: str, rounds: int) -> tuple[str, ...]:
    tiny = ("--tiny", "--rounds", "1") if day.tiny else ("--rounds", str(rounds))
    return (sys.executable, str(SCRIPTS / "bench.py"), part, "--device", day.device, *tiny, *more)


def smoke(day: Day) -> Stage:
    parts = [
        Part(check, (sys.executable, "-m", "gpu.smoke", check, "--device", day.device), 90, gigabytes=2)
        for check in CHECKS
    ]
    return Stage("smoke", "what has other code on a GPU is right", 5, parts)


def solvers(day: Day) -> Stage:
    table = ("--write-table", str(day.folder / "solvers_table.json"))
    sides = ("--sides", "32", "48") if day.tiny else ()
    part = Part("solvers", bench(day, "solvers", *table, *sides, rounds=5), 300, gigabytes=8)
    return Stage("solvers", "eigenvalues by side, batch, dtype and way; the table of the package", 5, [part])


def analysis(day: Day) -> Stage:
    parts = []
    for name in ["tiny"] if day.tiny else [*CNNS, *TRANSFORMERS]:
        rounds, seconds = LONG_RACES.get(name, (5, 90))
        command = bench(day, "analysis", "--fit", "median", "--model", name, rounds=rounds)
        parts.append(Part(name, command, seconds, gigabytes=24 if name == WHOLE_LLAMA else 8))
    return Stage("analysis", "a look against the svdvals loop", 10, parts)


def share(day: Day) -> Stage:
    names = ["tiny"] if day.tiny else ["ResNet18", WHOLE_LLAMA]
    parts = [
        Part(name, bench(day, "share", "--model", name, rounds=3), 240, gigabytes=45 if name == WHOLE_LLAMA else 6)
        for name in names
    ]
    return Stage("share", "a look beside an epoch of ResNet18, and beside 100 steps of a Llama of 1B", 5, parts)


def training(day: Day) -> Stage:
    images = None if day.tiny else "cifar10"
    where = "digits" if day.tiny or day.data is None else str(day.data / "cifar10")
    width = "0.125" if day.tiny else "1"
    loop = ["--width_factor", width, "--channels_last", "--dataset", where]
    loop += ["--bf16"] if day.device == "cuda" else []  # Trainer refuses it on a CPU
    run = [f"width_factor={width}", f"bf16={day.device == 'cuda'}", "channels_last=true"]
    run += ["per_device_train_batch_size=128"]
    run += [] if day.tiny else [f"dataset={where}", "num_train_epochs=3"]
    parts = [
        Part("throughput", bench(day, "training", *loop, rounds=3), 200, packages=IMAGES, data=images),
        Part("overlap", bench(day, "update", "--train", *run, rounds=1), 240, packages=IMAGES, data=images),
        Part("step", bench(day, "step", rounds=5), 90),
        Part("methods", bench(day, "methods", *(("--model", "tiny") if day.tiny else ()), rounds=3), 90),
    ]
    return Stage("training", "throughput, overlap, an optimizer step, and looks by other methods", 8, parts)


def trainer(day: Day) -> Stage:
    needs = {"deepspeed1": ("deepspeed",), "deepspeed2": ("deepspeed",), "deepspeed3": ("deepspeed",)}
    needs["adamw_8bit"] = ("bitsandbytes",)
    command = (sys.executable, "-m", "gpu.trainers")
    parts = []
    for processes in (1, 2) if day.gpus > 1 else (1,):
        for task in TASKS:
            if processes == 1 and task in ("callback", "trainer", "fsdp_overlapped"):
                continue  # what one process does is among the smoke checks
            ends = ("--device", day.device, "--processes", str(processes))
            name = f"{task}, {processes} process{'es' if processes > 1 else ''}"
            parts.append(Part(name, (*command, task, *ends), 120, packages=needs.get(task, ()), gpus=processes))
    return Stage("trainer", "FSDP2, DeepSpeed, 8-bit AdamW, torch.compile by Trainer", 6, parts)


def studies(day: Day) -> Stage:
    jobs = (sys.executable, "-m", "gpu.jobs", "--device", day.device, *(("--tiny",) if day.tiny else ()))
    parts = [Part("jobs", jobs, 200, gigabytes=16)]
    for seed in SEEDS[:1] if day.tiny else SEEDS:
        for study, data in STUDIES.items():
            file = ROOT / "configs" / "studies" / f"{study}.yaml"
            command = (sys.executable, "-m", "gpu.study", str(file), "--seed", str(seed))
            command += ("--studies", str(day.studies), "--data", str(day.data))
            command += ("--jobs_of", str(day.folder / "studies.json"))
            command += ("--tiny", "--set", f"bf16={day.device == 'cuda'}") if day.tiny else ()
            # 200 epochs of five runs: hours on a slow card, and every minute of them counts.
            limit = 120 if day.tiny else 6 * 3600
            found = None if day.tiny else data
            part = Part(f"{study}, seed {seed}", command, limit, 16, IMAGES, found, open_ended=not day.tiny)
            parts.append(part)
    return Stage("studies", "paired runs, as many as fit; they go on where the last day ended", 12, parts)
