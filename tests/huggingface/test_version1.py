"""A run of the version before this one, stopped in the middle of a look, ends here as it would have ended there."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_tempbalance import TempBalanceConfig
from hf_tempbalance.runs.history import HISTORY_NAME, read_history


FIXTURE = Path(__file__).parents[1] / "fixtures" / "version1"


def recipe():
    spec = importlib.util.spec_from_file_location("version1", FIXTURE / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore:.*reproduc.*:UserWarning")
def test_a_checkpoint_of_version_1_is_resumed_to_the_same_end(tmp_path):
    made = recipe()
    shutil.copytree(FIXTURE / "stopped", tmp_path / "run")
    trainer = made.run(tmp_path / "run", config=TempBalanceConfig(**made.SETTINGS))
    trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-5"))
    for name, expected in load_file(FIXTURE / "end.safetensors").items():
        # Another processor may round eigenvalues elsewhere.
        torch.testing.assert_close(trainer.model.state_dict()[name], expected, rtol=1e-5, atol=1e-6)
    before, now = read_history(FIXTURE / "whole_history.jsonl"), read_history(tmp_path / "run" / HISTORY_NAME)
    assert [(look["step"], look["epoch"], look.get("in_force")) for look in now] == [
        (look["step"], look["epoch"], look.get("in_force")) for look in before
    ]
    for look, expected in zip(now, before, strict=True):
        for layer, other in zip(look["layers"], expected["layers"], strict=True):
            assert layer["name"] == other["name"]
            assert layer["multiplier"] == pytest.approx(other["multiplier"], rel=1e-5)
