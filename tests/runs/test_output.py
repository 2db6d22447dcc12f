"""One process at a time in an output folder, and no run over another by mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hf_tempbalance.runs.history import HISTORY_NAME
from hf_tempbalance.runs.output import checkpoint_to_resume, how_to_go_on, locked, remove_run
from hf_tempbalance.runs.results import RESULTS_NAME


def used(folder: Path) -> Path:
    for name in (RESULTS_NAME, HISTORY_NAME, "model.safetensors", "mine.txt"):
        (folder / name).write_text("{}")
    for step in (1, 2):
        (folder / f"checkpoint-{step}").mkdir()
    (folder / "checkpoint-1" / "trainer_state.json").write_text('{"global_step": 1}')
    return folder


def test_a_second_process_is_refused_while_the_first_lives_and_a_killed_one_leaves_no_lock(tmp_path):
    code = (
        "import sys, time; from hf_tempbalance.runs.output import locked\n"
        "with locked(sys.argv[1]):\n    print('in', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "in\n"
        with pytest.raises(ValueError, match="is in use: another process"), locked(tmp_path):
            pass
        first.kill()
    with locked(tmp_path):
        pass


def test_a_folder_is_free_again_afterwards_and_others_are_free_meanwhile(tmp_path):
    with locked(tmp_path / "a"), locked(tmp_path / "b"):
        pass
    with locked(tmp_path / "a"):
        pass


def test_an_empty_folder_and_files_of_others_are_no_run(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    assert checkpoint_to_resume(tmp_path, None, overwrite=False) is None


@pytest.mark.parametrize("name", [RESULTS_NAME, HISTORY_NAME, "model.safetensors", "trainer_state.json"])
def test_whatever_a_run_leaves_makes_a_folder_used(tmp_path, name):
    (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match="has a run already") as error:
        checkpoint_to_resume(tmp_path, None, overwrite=False)
    assert "--resume_from_checkpoint last" in str(error.value) and "--overwrite_output_dir true" in str(error.value)
    assert checkpoint_to_resume(tmp_path, None, overwrite=True) is None


def test_last_is_the_newest_whole_checkpoint(tmp_path):
    assert checkpoint_to_resume(used(tmp_path), "last", overwrite=False) == str(tmp_path / "checkpoint-1")
    assert how_to_go_on(tmp_path) == "Go on with --resume_from_checkpoint last"
    (tmp_path / "checkpoint-1" / "trainer_state.json").unlink()
    with pytest.raises(ValueError, match="has no complete checkpoint .*: --overwrite_output_dir true"):
        checkpoint_to_resume(tmp_path, "last", overwrite=False)
    assert "Start again" in how_to_go_on(tmp_path)


def test_going_on_and_starting_again_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match="Give one of them"):
        checkpoint_to_resume(used(tmp_path), "last", overwrite=True)


def test_a_run_is_removed_and_nothing_else(tmp_path):
    remove_run(used(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "model.safetensors"]
