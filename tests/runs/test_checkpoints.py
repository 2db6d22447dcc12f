"""Which checkpoint a training goes on from, in every way to ask for it."""

from __future__ import annotations

import logging

import pytest

from hf_tempbalance.runs.checkpoints import last_complete_checkpoint, resolve


def checkpoint(folder, step: int, state: str | None = None):
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    if state is not None:
        (path / "trainer_state.json").write_text(state)
    return path


WHOLE = '{"global_step": 5}'


@pytest.mark.parametrize("state", [None, "", '{"global_st', "{}", "[]"])
def test_the_newest_that_was_written_to_its_end(tmp_path, state):
    checkpoint(tmp_path, 5, WHOLE)
    whole = checkpoint(tmp_path, 10, WHOLE)
    broken = checkpoint(tmp_path, 100, state)
    assert last_complete_checkpoint(tmp_path) == (whole, [broken])


def test_nothing_but_numbered_folders_counts(tmp_path):
    checkpoint(tmp_path, 5)
    (tmp_path / "checkpoint-7").write_text(WHOLE)
    (tmp_path / "checkpoint-best").mkdir()
    assert last_complete_checkpoint(tmp_path) == (None, [tmp_path / "checkpoint-5"])
    assert last_complete_checkpoint(tmp_path / "none") == (None, [])


@pytest.mark.parametrize("newest", [True, "last", "true"])
def test_the_script_s_word_and_the_trainer_s_mean_the_newest_whole_one(tmp_path, newest, caplog):
    whole = checkpoint(tmp_path, 5, WHOLE)
    checkpoint(tmp_path, 10)
    with caplog.at_level(logging.WARNING):
        assert resolve(tmp_path, newest) == str(whole)
    assert [record.message.split(" is ")[0] for record in caplog.records] == [str(tmp_path / "checkpoint-10")]


@pytest.mark.parametrize("nothing", [None, False])
def test_nothing_is_resumed_where_nothing_is_asked_for(tmp_path, nothing):
    checkpoint(tmp_path, 5, WHOLE)
    assert resolve(tmp_path, nothing) is None


def test_a_folder_is_taken_as_it_is(tmp_path):
    assert resolve("elsewhere", checkpoint(tmp_path, 5)) == str(tmp_path / "checkpoint-5")


@pytest.mark.parametrize("wanted", [True, "last", "gone"])
def test_a_checkpoint_that_is_not_there_is_told_in_one_line(tmp_path, wanted):
    with pytest.raises(ValueError, match="no complete checkpoint|'gone' is not a folder") as error:
        resolve(tmp_path, wanted)
    assert "\n" not in str(error.value)
