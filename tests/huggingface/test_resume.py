"""Runs that are stopped and resumed, with and without TempBalance on either side."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from tiny import ConvNet, Digits, trainer_settings
from transformers import Trainer, TrainerCallback

from hf_tempbalance import TempBalanceCallback, TempBalanceConfig, TempBalanceTrainer, TempBalanceTrainingArguments
from hf_tempbalance.runs.history import HISTORY_NAME, read_history


SLOW = pytest.mark.slow


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


@pytest.mark.parametrize("restore_callbacks", [False, pytest.param(True, marks=SLOW)])
# In the middle of an epoch and at its end.
@pytest.mark.parametrize("step", [pytest.param(2, marks=SLOW), 4, 6, pytest.param(8, marks=SLOW)])
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


OVERLAP = TempBalanceConfig(update_unit="step", update_interval=4, overlap=True, overlap_steps=3)


def without_seconds(folder: Path) -> list[tuple]:
    """Step from which each overlapped look was in force, and the look."""
    looks = read_history(folder / HISTORY_NAME)[1:]
    return [(look["in_force"], *known) for look, known in zip(looks, looks_of(folder)[1:], strict=True)]


# Before, at the beginning, in the middle and at the end of a look.
STEPS = [*(pytest.param(step, marks=SLOW) for step in (3, 4, 8)), 5, 7]


@pytest.mark.parametrize("restore_callbacks", [False, pytest.param(True, marks=SLOW)])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", ["callback", "trainer"])
def test_a_run_that_is_resumed_in_the_middle_of_an_overlapped_look_ends_the_same(
    tmp_path, kind, step, restore_callbacks
):
    whole = make(kind, tmp_path / "whole", config=OVERLAP)
    whole.train()
    # After 4 steps: the look is in force after 3 more, and logged when the next has been made. The last never is.
    assert [look[0] for look in without_seconds(tmp_path / "whole")] == [7, 11, 15, None]
    assert [look[1] for look in without_seconds(tmp_path / "whole")] == [4, 8, 12, 16]
    checkpoint = interrupted(kind, tmp_path / "resumed", step, config=OVERLAP)
    changes = {"restore_callback_states_from_checkpoint": restore_callbacks}
    resumed = make(kind, tmp_path / "resumed", config=OVERLAP, **changes)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert weights_equal(whole, resumed)
    assert without_seconds(tmp_path / "resumed") == without_seconds(tmp_path / "whole")


def test_the_wait_for_an_overlapped_look_is_logged(tmp_path):
    trainer = make("trainer", tmp_path, config=OVERLAP)
    trainer.train()
    waits = [entry["tempbalance/waited"] for entry in trainer.state.log_history if "tempbalance/waited" in entry]
    assert len(waits) == 4 and min(waits) >= 0
    looks = read_history(tmp_path / HISTORY_NAME)
    assert [look["waited"] for look in looks[1:]] == waits
    assert "waited" not in looks[0]  # the first look is not overlapped


def test_saving_the_best_model_in_the_middle_of_a_look_keeps_its_result(tmp_path):
    torch.manual_seed(3)
    changes = {"save_strategy": "best", "eval_strategy": "steps", "eval_steps": 5, "metric_for_best_model": "loss"}
    arguments = TempBalanceTrainingArguments(**trainer_settings(tmp_path, **(changes | {"num_train_epochs": 2})))
    data = {"train_dataset": Digits(128), "eval_dataset": Digits(32)}
    TempBalanceTrainer(ConvNet(), arguments, **data, tempbalance=OVERLAP).train()
    state = json.loads((tmp_path / "checkpoint-5" / "trainer_state.json").read_text())
    kept = state["stateful_callbacks"]["TempBalanceCallback"]["attributes"]
    pending = kept["balancer_state"]["pending"]
    assert (pending["step"], pending["steps_left"]) == (4, 2)


def test_other_settings_than_the_checkpoint_s_act_at_once_and_are_named(tmp_path, caplog):
    plain = make("plain", tmp_path / "plain")
    checkpoint = interrupted("callback", tmp_path / "run", 6)
    plain.train(resume_from_checkpoint=str(checkpoint))
    off = TempBalanceConfig(min_ratio=1.0, max_ratio=1.0)
    resumed = make("callback", tmp_path / "run", config=off)
    with caplog.at_level(logging.WARNING):
        resumed.train(resume_from_checkpoint=str(checkpoint))
    assert weights_equal(plain, resumed)
    assert [look[0] for look in looks_of(tmp_path / "run")] == [0, 4, 6, 8, 12, 16]
    message = "The checkpoint was made with min_ratio=0.5 (now 1.0), max_ratio=1.5 (now 1.0): the weights are"
    assert message in caplog.text


def test_settings_that_tune_other_layers_are_refused_with_file_field_and_the_way_out(tmp_path):
    checkpoint = interrupted("callback", tmp_path, 6)
    trainer = make("callback", tmp_path, config=TempBalanceConfig(exclude_last=False, min_eigenvalues=0))
    with pytest.raises(
        ValueError, match="trainer_state.json.*min_eigenvalues=50 .now 0.*Use the checkpoint's"
    ) as error:
        trainer.train(resume_from_checkpoint=str(checkpoint))
    assert "delete the entry TempBalanceCallback" in str(error.value) and "\n" not in str(error.value)


def test_the_same_settings_say_nothing_and_look_at_nothing_new(tmp_path, caplog):
    checkpoint = interrupted("callback", tmp_path, 6)
    with caplog.at_level(logging.WARNING):
        make("callback", tmp_path).train(resume_from_checkpoint=str(checkpoint))
    assert "The checkpoint was made with" not in caplog.text
    assert [look[0] for look in looks_of(tmp_path)] == [0, 4, 8, 12, 16]
