from __future__ import annotations

import json
import math

import pytest

from hf_tempbalance.history import append_look, cut_history, read_history


def look(step: int, alpha: float = 2.5) -> dict:
    layer = {"name": "conv1", "alpha": alpha, "excluded_by": None, "multiplier": 1.5}
    return {"step": step, "epoch": step / 10, "seconds": 0.1, "layers": [layer]}


def test_looks_come_back_in_order(tmp_path):
    path = tmp_path / "new folder" / "history.jsonl"
    for step in (0, 10, 20):
        append_look(path, look(step))
    assert read_history(path) == [look(0), look(10), look(20)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_file_is_strict_json_and_what_is_not_finite_comes_back_as_nan(tmp_path, value):
    path = tmp_path / "history.jsonl"
    append_look(path, look(0, value))
    assert json.loads(path.read_text(), parse_constant=pytest.fail)["layers"][0]["alpha"] is None
    layer = read_history(path)[0]["layers"][0]
    assert math.isnan(layer["alpha"]) and layer["excluded_by"] is None


def test_a_last_line_that_was_cut_off_is_ignored_and_then_removed(tmp_path):
    path = tmp_path / "history.jsonl"
    append_look(path, look(0))
    with path.open("a") as file:
        file.write('{"step": 10, "lay')
    assert read_history(path) == [look(0)]
    cut_history(path, 10)
    append_look(path, look(10))
    assert read_history(path) == [look(0), look(10)]


def test_looks_after_a_step_are_cut(tmp_path):
    path = tmp_path / "history.jsonl"
    for step in (0, 10, 20):
        append_look(path, look(step))
    cut_history(path, 10)
    assert [item["step"] for item in read_history(path)] == [0, 10]
    cut_history(path, -1)
    assert read_history(path) == []


def test_cutting_a_file_that_is_not_there_makes_none(tmp_path):
    cut_history(tmp_path / "none.jsonl", 5)
    assert not (tmp_path / "none.jsonl").exists()


def test_a_foreign_file_is_refused_with_file_and_line(tmp_path):
    path = tmp_path / "history.jsonl"
    append_look(path, look(0))
    with path.open("a") as file:
        file.write('{"loss": 1.0}\n')
    with pytest.raises(ValueError, match=r"history.jsonl, line 2 is not a look"):
        read_history(path)
