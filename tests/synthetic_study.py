"""Folders of studies whose runs have never been run: a study.json, and results.json files with numbers of ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from hf_tempbalance.runs.history import HISTORY_NAME
from hf_tempbalance.runs.results import write_results
from hf_tempbalance.study.plan import Run, Study
from hf_tempbalance.study.runner import RUNS_NAME, choose, claim, has_ended
from hf_tempbalance.study.study_file import load_study


METHODS = {"plain": {}, "tempbalance": {"tempbalance": True}, "snr": {"optimizer": "sgd_snr"}}


class Quiet:
    """The progress of a study that nobody watches."""

    def update(self, *args: Any) -> None:
        pass

    def ended(self, *args: Any) -> None:
        pass


def study_in(folder: Path, methods: dict[str, Any] = METHODS, **keys: Any) -> Study:
    """A claimed folder of a study with these methods, three seeds and what else is given."""
    content = {"name": "small", "axes": {"method": list(methods)}, "methods": methods, "seeds": [1, 2, 3]}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(content | {"baseline": {"method": next(iter(methods))}} | keys))
    study = load_study(path)
    claim(study, folder)
    return study


def results(seed: int, last: float, *, held_out: float = 50.0, status: str = "finished") -> dict[str, Any]:
    """What a run of scripts/train.py leaves that ends with this test accuracy, in percent."""
    epochs = [
        {"epoch": 1.0, "eval_test_accuracy": last / 100 - 0.1, "eval_validation_accuracy": 0.1},
        {"epoch": 2.0, "eval_test_accuracy": last / 100 + 0.01, "eval_validation_accuracy": 0.2},
        {"epoch": 3.0, "step": 30, "eval_test_accuracy": last / 100, "eval_validation_accuracy": held_out / 100},
    ]
    layers = [
        {"name": "first", "excluded_by": "first", "alpha_start": 2.0, "alpha_end": 2.5},
        {"name": "conv", "excluded_by": None, "alpha_start": 3.0, "alpha_end": 2.0 + seed / 10},
    ]
    machine = {"device": "cpu", "machine": "x", "threads": 1, "versions": {"torch": "2"}, "commit": "a" * 40}
    return {
        "status": status,
        "environment": machine | {"dirty": False, "seed": seed},
        "seconds": 100.0,
        "tempbalance_seconds": 0.5,
        "epochs": epochs,
        "layers": layers,
        "best_checkpoint": "/a/machine/of/somebody/checkpoint-3",
    }


def results_of_script(seed: int, loss: float, *, chosen: float = 1.0) -> dict[str, Any]:
    """What ``hf-tempbalance run`` leaves of a script with this last eval_loss and, of a prediction, this test_loss."""
    epochs = [{"epoch": float(epoch), "step": 10 * epoch, "eval_loss": loss + 3 - epoch} for epoch in (1, 2, 3)]
    found = results(seed, 0.0) | {"epochs": epochs, "predictions": [{"test_loss": chosen}]}
    return {key: value for key, value in found.items() if key != "layers"}


def fill(folder: Path, study: Study, last: Callable[[Run], float], held_out: Callable[[Run], float] = lambda _: 50.0):
    """Finish the runs of a study, trials first: the last test accuracy and the held-out one of each, in percent."""
    finish(folder, study.trials(), last, held_out)
    chosen = choose(study, folder, has_ended=lambda run: has_ended(folder, run))
    finish(folder, study.finals(chosen), last, held_out)


def finish(folder: Path, runs: list[Run], last: Callable[[Run], float], held_out: Callable[[Run], float]) -> None:
    for run in runs:
        write_results(folder / RUNS_NAME / run.name, results(run.seed, last(run), held_out=held_out(run)))


def write_history(folder: Path, run: str, multipliers: list[float]) -> None:
    """The history of a run of 30 steps with looks at equal distances and one tuned layer with these multipliers."""
    numbers = ("alpha", "alpha_hat", "xmin", "D", "spectral_norm", "norm", "stable_rank", "entropy")
    lines = []
    for place, multiplier in enumerate(multipliers):
        layer = {"name": "conv", "kind": "conv2d", "shape": [8, 8], "num_eigenvalues": 60, "excluded_by": None}
        look = {"step": 30 * place // len(multipliers), "epoch": float(place), "seconds": 0.1}
        lines.append(look | {"layers": [layer | dict.fromkeys(numbers, 2.0) | {"multiplier": multiplier}]})
    path = folder / RUNS_NAME / run / HISTORY_NAME
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
