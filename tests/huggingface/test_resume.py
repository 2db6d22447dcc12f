"""Runs that are stopped and resumed, with and without TempBalance on either side."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import ConvNet, Digits, trainer_settings
from transformers import Trainer, TrainerCallback

from hf_tempbalance import TempBalanceCallback, TempBalanceConfig, TempBalanceTrainer, TempBalanceTrainingArguments
from hf_tempbalance.history import HISTORY_NAME, read_history


class Stop(TrainerCallback):
    """Ends training after a step, as a kill would, but inside one process."""

    def __init__(self, step: int | None) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def make(kind: str, folder: Path, stop_at: int | None = None, config: TempBalanceConfig | None = None, **changes):
    torch.manual_seed(3)
    settings = {"num_train_epochs": 4, "save_strategy": "steps", "save_steps": 1, "optim_args": "momentum=0.9"}
    arguments = TempBalanceTrainingArguments(**trainer_settings(folder, **(settings | changes)))
    shared = {"train_dataset": Digits(128), "callbacks": [Stop(stop_at)]}
    if kind == "callback":
        shared["callbacks"].append(TempBalanceCallback(config))
        return Trainer(ConvNet(), arguments, **shared)
    tempbalance = (config or TempBalanceConfig()) if kind == "trainer" else None
    return TempBalanceTrainer(ConvNet(), arguments, **shared, tempbalance=tempbalance)


def interrupted(kind: str, folder: Path, step: int, **changes) -> Path:
    """The checkpoint of a run that went one step further than it."""
    with pytest.raises(KeyboardInterrupt):
        make(kind, folder, stop_at=step + 1, **changes).train()
    return folder / f"checkpoint-{step}"


def weights_equal(one: Trainer, other: Trainer) -> bool:
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def looks_of(folder: Path) -> list[tuple]:
    """The history without the seconds, which no two runs share."""
    looks = read_history(folder / HISTORY_NAME)
    return [(look["step"], look["epoch"], str(look["layers"])) for look in looks]


@pytest.mark.parametrize("restore_callbacks", [False, True])
@pytest.mark.parametrize("step", [2, 4, 6, 8])  # in the middle of an epoch and at its end
@pytest.mark.parametrize("kind", ["callback", "trainer"])
def test_a_resumed_run_ends_as_the_one_that_was_never_stopped(tmp_path, kind, step, restore_callbacks):
    whole = make(kind, tmp_path / "whole")
    whole.train()
    checkpoint = interrupted(kind, tmp_path / "resumed", step)
    changes = {"restore_callback_states_from_checkpoint": restore_callbacks}
    resumed = make(kind, tmp_path / "resumed", **changes)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert weights_equal(whole, resumed)
    assert looks_of(tmp_path / "resumed") == looks_of(tmp_path / "whole")
    assert [look[0] for look in looks_of(tmp_path / "whole")] == [0, 4, 8, 12, 16]
    state = torch.load(tmp_path / "whole" / "checkpoint-16" / "optimizer.pt", weights_only=True)["state"]
    again = torch.load(tmp_path / "resumed" / "checkpoint-16" / "optimizer.pt", weights_only=True)["state"]
    assert all(torch.equal(state[i]["momentum_buffer"], again[i]["momentum_buffer"]) for i in state)


def test_two_different_runs_do_not_end_equal(tmp_path):
    one, other = make("trainer", tmp_path / "one"), make("plain", tmp_path / "other")
    one.train()
    other.train()
    assert not weights_equal(one, other)


def test_a_resume_between_looks_goes_on_with_the_stored_multipliers(tmp_path):
    config = TempBalanceConfig(update_unit="step", update_interval=3)
    whole = make("trainer", tmp_path / "whole", config=config)
    whole.train()
    checkpoint = interrupted("trainer", tmp_path / "resumed", 4, config=config)
    resumed = make("trainer", tmp_path / "resumed", config=config)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert weights_equal(whole, resumed)
    assert [look[0] for look in looks_of(tmp_path / "resumed")] == [0, 3, 6, 9, 12, 15]


KINDS = ["plain", "callback", "trainer"]


@pytest.mark.parametrize("after", KINDS)
@pytest.mark.parametrize("before", KINDS)
def test_checkpoints_are_exchanged_between_all_ways_in(tmp_path, before, after):
    checkpoint = interrupted(before, tmp_path, 6, lr_scheduler_type="cosine")
    trainer = make(after, tmp_path, lr_scheduler_type="cosine")
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert trainer.state.global_step == 16
    # A save after the resume went well, and has the plain layout.
    saved = torch.load(tmp_path / "checkpoint-16" / "optimizer.pt", weights_only=True)
    assert [len(group["params"]) for group in saved["param_groups"]] == [11, 6]
    assert all("layer" not in group for group in saved["param_groups"])
    schedule = torch.load(tmp_path / "checkpoint-16" / "scheduler.pt", weights_only=True)
    assert len(schedule["base_lrs"]) == 2


def test_a_plain_checkpoint_resumed_plain_by_our_trainer_is_exact(tmp_path):
    whole = make("plain", tmp_path / "whole")
    whole.train()
    checkpoint = interrupted("plain", tmp_path / "resumed", 6)
    resumed = make("plain", tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert weights_equal(whole, resumed)


def test_switched_on_at_resume_it_looks_at_once(tmp_path):
    checkpoint = interrupted("plain", tmp_path, 6)
    make("callback", tmp_path).train(resume_from_checkpoint=str(checkpoint))
    assert [look[0] for look in looks_of(tmp_path)] == [6, 8, 12, 16]


def test_a_fresh_run_in_the_same_folder_starts_a_new_history(tmp_path):
    make("trainer", tmp_path).train()
    make("trainer", tmp_path, num_train_epochs=1).train()
    assert [look[0] for look in looks_of(tmp_path)] == [0, 4]


def test_resuming_with_other_tuned_layers_is_refused_with_their_names(tmp_path):
    checkpoint = interrupted("callback", tmp_path, 6)
    trainer = make("callback", tmp_path, config=TempBalanceConfig(exclude_first=False, min_eigenvalues=0))
    with pytest.raises(ValueError, match="conv1"):
        trainer.train(resume_from_checkpoint=str(checkpoint))
