from __future__ import annotations

import pytest

from hf_tempbalance.runs.checkpoints import last_complete_checkpoint


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
