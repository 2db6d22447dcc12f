"""One contender in a process of its own: builds its model, then runs once for each line that it is sent.

python -m benchmarks.worker CONTENDER MODEL FIT DEVICE
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path

import torch

from benchmarks.clock import timed


def main() -> None:
    contender, name, fit, device = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")  # what the contender prints is not an answer
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)

    from benchmarks.contenders import CONTENDERS
    from benchmarks.models import build

    model = build(name, device)
    with tempfile.TemporaryDirectory() as folder:
        arguments = [model, fit]
        if contender == "ours, from a file":
            from safetensors.torch import save_model

            arguments.append(str(Path(folder, "model.safetensors")))
            save_model(model, arguments[-1])
        print(json.dumps({"ready": True}), file=answers, flush=True)
        for line in sys.stdin:
            answer = run(CONTENDERS[contender], arguments, device) if line == "run\n" else check(model, fit)
            print(json.dumps(answer), file=answers, flush=True)


def run(contender, arguments: list, device: str) -> dict:
    seconds, alphas = timed(lambda: contender(*arguments), device)
    return {"seconds": seconds, "alphas": {name: alpha for name, alpha in alphas.items() if alpha == alpha}}


def check(model: torch.nn.Module, fit: str) -> dict:
    """The largest relative error of alpha against the same in float64, and where it is."""
    from benchmarks.contenders import ours

    found, exact = ours(model, fit), ours(model.double(), fit)
    errors = {name: abs(found[name] / exact[name] - 1) for name in exact if exact[name] == exact[name]}
    worst = max(errors, key=errors.get)
    return {"worst": errors[worst], "layer": worst, "layers": len(errors)}


if __name__ == "__main__":
    main()
