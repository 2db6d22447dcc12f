"""results.json of a run that was stopped and resumed is that of a run that went through."""

from __future__ import annotations

import itertools
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import ConvNet, Digits, trainer_settings
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_tempbalance import TempBalanceConfig, TempBalanceTrainer
from hf_tempbalance.huggingface.results_callback import ResultsCallback


class WithDropout(ConvNet):
    """Its training shows where random numbers were drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Sequential(nn.Dropout(0.5), self.linear)


class Killed(Exception):  # noqa: N818  it stands for a signal
    pass


class KillAt(TrainerCallback):
    """Ends the run before an optimizer step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            raise Killed


def train(folder: Path, kind: str, *, kill_at: int = -1, resume_at: int | None = None, **changes: Any) -> Trainer:
    """4 epochs of 4 steps; results.json as scripts/train.py writes it."""
    torch.manual_seed(3)
    settings = trainer_settings(folder, num_train_epochs=4, logging_strategy="epoch", **changes)
    data = {"train_dataset": Digits(128), "eval_dataset": Digits(32)}
    results = ResultsCallback({"config": {}}, is_resumed=resume_at is not None)
    make = partial(TempBalanceTrainer, tempbalance=TempBalanceConfig()) if kind == "trainer" else Trainer
    trainer = make(WithDropout(), TrainingArguments(**settings), **data)
    trainer.add_callback(results)
    trainer.add_callback(KillAt(kill_at))
    try:
        trainer.train(resume_from_checkpoint=None if resume_at is None else str(folder / f"checkpoint-{resume_at}"))
        results.finish(trainer, "finished")
    except Killed:
        pass
    return trainer


def evaluations(entries: list[dict[str, Any]]) -> list[tuple[float, float]]:
    return [(entry["epoch"], entry["eval_loss"]) for entry in entries if "eval_loss" in entry]


EPOCH_AND_STEPS = {"eval_strategy": "epoch", "save_strategy": "steps", "save_steps": 2}
STEPS_AND_EPOCH = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "epoch"}


@pytest.mark.parametrize("kind", ["plain", "trainer"])
@pytest.mark.parametrize("strategies", [EPOCH_AND_STEPS, STEPS_AND_EPOCH], ids=["eval epoch", "eval steps"])
def test_resumed_at_the_end_of_an_epoch_it_has_every_evaluation_and_the_same_weights(tmp_path, kind, strategies):
    whole = train(tmp_path / "whole", kind, **strategies)
    train(tmp_path / "killed", kind, kill_at=9, **strategies)
    resumed = train(tmp_path / "killed", kind, resume_at=8, **strategies)
    expected = evaluations(whole.state.log_history)
    assert [epoch for epoch, _ in expected] == (
        [1, 2, 3, 4] if strategies is EPOCH_AND_STEPS else [n / 2 for n in range(1, 9)]
    )
    assert evaluations(resumed.state.log_history) == expected
    results = [json.loads((tmp_path / name / "results.json").read_text())["epochs"] for name in ("whole", "killed")]
    assert evaluations(results[0]) == evaluations(results[1]) == expected
    assert [entry.get("loss") for entry in results[0]] == [entry.get("loss") for entry in results[1]]
    one, other = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_last_checkpoint_of_a_run_that_ends_within_an_epoch_has_its_evaluation(tmp_path):
    trainer = train(tmp_path, "plain", max_steps=6, **EPOCH_AND_STEPS)
    state = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())
    assert evaluations(state["log_history"]) == evaluations(trainer.state.log_history)
    assert [epoch for epoch, _ in evaluations(state["log_history"])] == [1, 1.5]


def test_seconds_are_the_sum_of_the_parts_and_a_clock_that_is_set_back_does_not_count(tmp_path, monkeypatch):
    clock = itertools.count(1e9, -1000)  # goes back at each look at it
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    parts = []
    for resume_at in (None, 8):
        start = time.monotonic()
        train(tmp_path, "plain", kill_at=13 if resume_at is None else -1, resume_at=resume_at, **STEPS_AND_EPOCH)
        parts.append(time.monotonic() - start)
        seconds = json.loads((tmp_path / "results.json").read_text())["seconds"]
        assert max(parts[:-1], default=0) / 2 < seconds <= sum(parts)


@pytest.mark.parametrize("seconds", [-5.0, None])
def test_seconds_of_an_older_run_that_are_no_time_count_as_none(tmp_path, seconds):
    train(tmp_path, "plain", kill_at=13, **STEPS_AND_EPOCH)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": seconds}))
    train(tmp_path, "plain", resume_at=8, **STEPS_AND_EPOCH)
    assert 0 < json.loads(path.read_text())["seconds"] < 60
