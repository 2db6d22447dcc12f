"""Damaged, foreign, missing and read-only files; weights that go bad: what goes on, what stops, and what is said."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from tiny import ConvNet, Digits, mlp, trainer_settings
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_tempbalance import TempBalanceCallback, TempBalanceConfig, TempBalanceTrainer
from hf_tempbalance.runs.history import HISTORY_NAME, read_history


def make(folder: Path, *callbacks, model=None, **changes) -> Trainer:
    torch.manual_seed(3)
    settings = {"save_strategy": "epoch", "num_train_epochs": 3} | changes
    arguments = TrainingArguments(**trainer_settings(folder, **settings))
    callbacks = [TempBalanceCallback(), *callbacks]
    return Trainer(model or ConvNet(), arguments, train_dataset=Digits(128), callbacks=callbacks)


def state_of(folder: Path, step: int = 4) -> tuple[Path, dict]:
    path = folder / f"checkpoint-{step}" / "trainer_state.json"
    return path, json.loads(path.read_text())


def steps(path: Path) -> list[int]:
    return [look["step"] for look in read_history(path)]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("last_look_step", "four", "last_look_step is 'four' and should be a whole number"),
        ("last_look_step", -2, "last_look_step is -2 and should be a whole number, -1 or more"),
        ("balancer_state", [1, 2], r"balancer_state is \[1, 2\] and should be an object"),
    ],
)
def test_a_damaged_state_stops_with_file_field_and_the_way_out(tmp_path, field, value, message):
    make(tmp_path).train()
    path, state = state_of(tmp_path)
    state["stateful_callbacks"]["TempBalanceCallback"]["attributes"][field] = value
    path.write_text(json.dumps(state))
    before = (tmp_path / HISTORY_NAME).read_bytes()
    with pytest.raises(ValueError, match=f"trainer_state.json.*TempBalanceCallback.attributes.{message}.*damaged"):
        make(tmp_path).train(resume_from_checkpoint=str(path.parent))
    assert (tmp_path / HISTORY_NAME).read_bytes() == before


@pytest.mark.parametrize("value", [math.nan, -1.0, "1", None])
def test_a_damaged_multiplier_stops_with_the_layer_s_name(tmp_path, value):
    make(tmp_path).train()
    path, state = state_of(tmp_path)
    kept = state["stateful_callbacks"]["TempBalanceCallback"]["attributes"]["balancer_state"]
    kept["multipliers"]["conv3"] = value
    path.write_text(json.dumps(state))
    with pytest.raises(ValueError, match="balancer_state.multipliers.conv3 is"):
        make(tmp_path).train(resume_from_checkpoint=str(path.parent))


@pytest.mark.parametrize("what", ["attributes", "TempBalanceCallback"])
def test_a_state_without_its_parts_stops_or_is_looked_at_anew(tmp_path, what, caplog):
    make(tmp_path).train()
    path, state = state_of(tmp_path)
    entry = state["stateful_callbacks"]
    (entry["TempBalanceCallback"] if what == "attributes" else entry).pop(what)
    path.write_text(json.dumps(state))
    if what == "attributes":
        with pytest.raises(ValueError, match="attributes is 'missing' and should be an object"):
            make(tmp_path).train(resume_from_checkpoint=str(path.parent))
        return
    with caplog.at_level(logging.WARNING):
        make(tmp_path).train(resume_from_checkpoint=str(path.parent))
    assert "Training up to here has no state of TempBalance: the weights are looked at now, at step 4" in caplog.text
    assert steps(tmp_path / HISTORY_NAME) == [4, 8, 12]


def test_a_truncated_history_is_kept_aside_and_the_run_goes_on(tmp_path):
    make(tmp_path).train()
    path = tmp_path / HISTORY_NAME
    cut = path.read_bytes()[:-20]
    path.write_bytes(cut)
    trainer = make(tmp_path)
    with pytest.warns(UserWarning, match="the last line is cut off. The file as it was is now .*damaged-1.jsonl"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert (tmp_path / "tempbalance_history.damaged-1.jsonl").read_bytes() == cut
    assert steps(path)[-2:] == [8, 12] and len(steps(path)) == len(set(steps(path)))


def test_the_history_of_another_model_is_kept_aside(tmp_path):
    make(tmp_path).train()
    before = (tmp_path / HISTORY_NAME).read_bytes()

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = mlp(64, 64, 64, 64, 10)

        def forward(self, pixel_values, labels):
            return {"loss": torch.nn.functional.cross_entropy(self.layers(pixel_values.flatten(1)), labels)}

    trainer = make(tmp_path, model=Flat(), save_strategy="no")
    with pytest.warns(UserWarning, match="other layers.*damaged-1.jsonl"):
        trainer.train()
    assert (tmp_path / "tempbalance_history.damaged-1.jsonl").read_bytes() == before
    assert steps(tmp_path / HISTORY_NAME) == [0, 4, 8, 12]


def test_a_history_that_can_not_be_written_stops_before_the_first_step(tmp_path):
    (tmp_path / HISTORY_NAME).mkdir()
    trainer = make(tmp_path)
    with pytest.raises(ValueError, match=f"{HISTORY_NAME} can't be used .*another output folder"):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.slow
def test_a_read_only_history_stops_before_the_first_step(tmp_path):
    code = """
    import os, sys
    sys.path.insert(0, sys.argv[2])
    import test_faults
    from pathlib import Path
    folder = Path(sys.argv[1])
    trainer = test_faults.make(folder, save_strategy="no")
    if os.getuid() == 0:
        os.setuid(65534)  # root may write everywhere
    try:
        trainer.train()
    except ValueError as error:
        print("stopped:", error)
    """
    path = tmp_path / HISTORY_NAME
    path.write_text("")
    path.chmod(0o444)
    for folder in (tmp_path, *tmp_path.parents):
        if os.getuid() == 0 and folder.owner() == "root" and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    tmp_path.chmod(0o777)
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{here.parent}", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path), str(here)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert f"stopped: {path} can't be used for the history of this run: Permission denied" in done.stdout, done.stderr
    assert path.read_text() == ""


def test_a_disk_that_is_full_in_the_middle_costs_the_look_s_line_and_not_the_run(tmp_path, monkeypatch):
    write = os.fsync

    class Full(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            monkeypatch.setattr("os.fsync", full if state.global_step == 8 else write)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    trainer = make(tmp_path, Full(), save_strategy="no")
    with pytest.warns(UserWarning, match=f"{HISTORY_NAME}: the look at step 8 could not be written .No space left"):
        trainer.train()
    assert steps(tmp_path / HISTORY_NAME) == [0, 4, 12]
    logged = [entry["step"] for entry in trainer.state.log_history if "tempbalance/alpha_mean" in entry]
    assert logged == [0, 4, 8, 12]


class Change(TrainerCallback):
    """Changes the model before a step; registered before TempBalance's look at the epoch's end."""

    def __init__(self, **at: object) -> None:
        self.at = {int(step.removeprefix("step_")): function for step, function in at.items()}

    def on_step_end(self, args, state, control, model, **kwargs) -> None:
        if state.global_step in self.at:
            self.at[state.global_step](model)


def test_a_layer_that_becomes_all_zeros_keeps_the_schedule_s_rate_and_training_goes_on(tmp_path):
    trainer = make(tmp_path, Change(step_4=lambda model: model.conv3.weight.data.zero_()), save_strategy="no")
    with pytest.warns(UserWarning, match="conv3: alpha is nan .*zero or low-rank"):
        trainer.train()
    looks = read_history(tmp_path / HISTORY_NAME)
    zero = {layer["name"]: layer for layer in looks[1]["layers"]}
    assert zero["conv3"]["norm"] == 0 and zero["conv3"]["multiplier"] == 1.0
    assert {zero[name]["multiplier"] for name in ("conv2", "conv4", "conv5")} >= {0.5, 1.5}
    assert trainer.state.global_step == 12


def test_layers_may_be_frozen_and_set_free_in_the_middle(tmp_path, optimizer_rates):
    model = ConvNet()
    changes = {
        "step_4": lambda model: model.conv3.requires_grad_(False),
        "step_8": lambda model: model.conv3.requires_grad_(True),
    }
    trainer = make(tmp_path, Change(**changes), model=model, save_strategy="no", num_train_epochs=4)
    seen = optimizer_rates(model, trainer.create_optimizer())
    trainer.train()
    looks = [{layer["name"]: layer for layer in look["layers"]} for look in read_history(tmp_path / HISTORY_NAME)]
    assert [look["conv3"]["excluded_by"] for look in looks] == [None, "frozen", None, None, None]
    assert looks[1]["conv3"]["multiplier"] == 1.0
    assert seen["conv3.weight"] / seen["conv1.weight"] == pytest.approx(looks[-2]["conv3"]["multiplier"])


def test_a_layer_that_was_frozen_from_the_start_is_tuned_once_it_is_set_free(tmp_path, optimizer_rates):
    model = ConvNet()
    model.conv3.requires_grad_(False)
    trainer = make(tmp_path, Change(step_4=lambda model: model.conv3.requires_grad_(True)), model=model)
    trainer.optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    seen = optimizer_rates(model, trainer.optimizer)
    trainer.train()
    looks = [{layer["name"]: layer for layer in look["layers"]} for look in read_history(tmp_path / HISTORY_NAME)]
    assert [look["conv3"]["excluded_by"] for look in looks] == ["frozen", None, None, None]
    assert seen["conv3.weight"] / seen["conv1.weight"] == pytest.approx(looks[-2]["conv3"]["multiplier"])


@pytest.mark.parametrize("resume", [True, "explicit"])
def test_an_incomplete_checkpoint_is_passed_over_by_the_trainer(tmp_path, resume, caplog):
    def trainer():
        torch.manual_seed(3)
        arguments = TrainingArguments(**trainer_settings(tmp_path, save_strategy="epoch", num_train_epochs=3))
        return TempBalanceTrainer(ConvNet(), arguments, train_dataset=Digits(128), tempbalance=TempBalanceConfig())

    trainer().train()
    (tmp_path / "checkpoint-12" / "trainer_state.json").unlink()
    with caplog.at_level(logging.WARNING):
        again = trainer()
        again.train(resume_from_checkpoint=True if resume is True else str(tmp_path / "checkpoint-8"))
    assert again.state.global_step == 12
    assert ("checkpoint-12 is incomplete" in caplog.text) == (resume is True)


def test_resuming_without_any_complete_checkpoint_says_so(tmp_path):
    arguments = TrainingArguments(**trainer_settings(tmp_path))
    trainer = TempBalanceTrainer(ConvNet(), arguments, train_dataset=Digits(64), tempbalance=TempBalanceConfig())
    with pytest.raises(ValueError, match=f"{tmp_path} has no complete checkpoint"):
        trainer.train(resume_from_checkpoint=True)
