"""Killed with SIGKILL at the worst moments and resumed, a run ends as the one that nobody stopped, bit for bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


PROGRAM = Path(__file__).with_name("killable.py")
# What is left of the checkpoints when the process dies; saves are every 2 steps in the first two, else every 4.
MOMENTS = {
    "in the middle of an epoch": [2, 4, 6],
    "between an optimizer step and the next": [2, 4],
    "between a look and the checkpoint": [4],
    "before the model is saved whole": [4, 8],
    "between model and optimizer": [4, 8],
    "before the state is saved": [4, 8],
    "inside the state": [4, 8],
    "in the first save": [4],
}


def ends_of(tmp_path_factory, *kinds: str) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, str(PROGRAM), str(folder), *kinds]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def callback_ends(tmp_path_factory) -> dict[str, dict]:
    return ends_of(tmp_path_factory, "callback")


@pytest.fixture(scope="module")
def other_ends(tmp_path_factory) -> dict[str, dict]:
    return ends_of(tmp_path_factory, "trainer", "llr", "alphadecay")


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", ["callback", pytest.param("trainer", marks=pytest.mark.slow)])
def test_weights_optimizer_multipliers_and_history_are_those_of_the_run_that_went_through(request, kind, moment):
    ends = request.getfixturevalue("callback_ends" if kind == "callback" else "other_ends")
    end = ends[f"{kind}: {moment}"]
    assert end["killed"] == -9  # it did die of the signal
    assert end["left"] == [f"checkpoint-{step}" for step in MOMENTS[moment]]
    assert end["resumed"] == 0
    assert end["differing"] == []
    assert end["steps"] == [0, 4, 8, 12, 16]


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "steps"), [("llr", [0, 5, 10]), ("alphadecay", [0, 3, 6, 9, 12, 15])])
def test_so_is_a_preset_s_in_a_ramp_and_between_looks(other_ends, preset, steps):
    end = other_ends[f"{preset}: in the middle of an epoch"]
    assert (end["killed"], end["resumed"], end["differing"]) == (-9, 0, [])
    assert end["left"] == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    assert end["steps"] == steps
