"""Contenders in processes of their own, in turn, so that a machine that gets slower slows them all."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any


LONG = 20.0  # seconds
SCRIPTS = Path(__file__).resolve().parents[1]


class Worker:
    """A process of benchmarks.worker."""

    def __init__(self, contender: str, model: str, fit: str, device: str) -> None:
        environment = os.environ | {"PYTHONPATH": f"{SCRIPTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        command = [sys.executable, "-m", "benchmarks.worker", contender, model, fit, device]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self._answer()

    def ask(self, what: str) -> dict[str, Any]:
        """Send a line and wait for the answer."""
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self.process.communicate()

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            error = self.process.communicate()[1].strip().splitlines() or ["no output"]
            raise ValueError(f"{' '.join(self.process.args[3:])} failed: {error[-1]}")
        return json.loads(line)


def race(contenders: list[str], model: str, fit: str, device: str, rounds: int) -> dict[str, Any]:
    """Seconds of each contender in each round, and our error against float64.

    The first round is not counted, unless it is so long that loading libraries is nothing against it.
    """
    workers = {name: Worker(name, model, fit, device) for name in contenders}
    try:
        answers = [{name: worker.ask("run") for name, worker in workers.items()}]
        if max(answer["seconds"] for answer in answers[0].values()) < LONG:
            answers.pop()
        while len(answers) < rounds:
            answers.append({name: worker.ask("run") for name, worker in workers.items()})
        accuracy = workers[contenders[0]].ask("check")
    finally:
        for worker in workers.values():
            worker.close()
    seconds = {name: [answer[name]["seconds"] for answer in answers] for name in contenders}
    return {"model": model, "fit": fit, "device": device, "seconds": seconds, "accuracy": accuracy}


def ratio(ours: list[float], other: list[float]) -> tuple[float, float, float]:
    """Median, smallest and largest of the rounds' ratios: above 1 means that we are faster."""
    each = [b / a for a, b in zip(ours, other, strict=True)]
    return statistics.median(each), min(each), max(each)
