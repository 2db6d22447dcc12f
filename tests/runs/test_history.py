from __future__ import annotations

import json
import math

import pytest

from hf_tempbalance.runs.history import append_look, continue_history, read_history


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


LAYERS = ["conv1"]


def test_looks_after_a_step_are_dropped(tmp_path):
    path = tmp_path / "history.jsonl"
    for step in (0, 10, 20):
        append_look(path, look(step))
    assert continue_history(path, 10, LAYERS) is None
    assert [item["step"] for item in read_history(path)] == [0, 10]
    assert continue_history(path, -1, LAYERS) is None
    assert read_history(path) == []
    assert [item.name for item in tmp_path.iterdir()] == ["history.jsonl"]


def test_continuing_a_file_that_is_not_there_makes_none(tmp_path):
    assert continue_history(tmp_path / "new" / "none.jsonl", 5, LAYERS) is None
    assert not (tmp_path / "new" / "none.jsonl").exists()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (b'{"step": 10, "lay', "the last line is cut off"),
        (b"\x00\xff\x00 rubbish\n", "line 2 is not a look"),
        (b'{"step": 10}\n', "line 2 is not a look"),
        (b"[]\n", "line 2 is not a look"),
    ],
)
def test_a_damaged_file_is_kept_aside_and_its_readable_lines_are_taken_over(tmp_path, damage, problem):
    path = tmp_path / "history.jsonl"
    append_look(path, look(0))
    with path.open("ab") as file:
        file.write(damage)
    before = path.read_bytes()
    message = continue_history(path, 10, LAYERS)
    assert message == f"{path}: {problem}. The file as it was is now history.damaged-1.jsonl."
    assert (tmp_path / "history.damaged-1.jsonl").read_bytes() == before
    append_look(path, look(10))
    assert read_history(path) == [look(0), look(10)]


def test_a_second_damaged_file_does_not_replace_the_first(tmp_path):
    path = tmp_path / "history.jsonl"
    for number in (1, 2):
        path.write_text(f"rubbish {number}\n")
        continue_history(path, 10, LAYERS)
    assert (tmp_path / "history.damaged-1.jsonl").read_text() == "rubbish 1\n"
    assert (tmp_path / "history.damaged-2.jsonl").read_text() == "rubbish 2\n"


def test_a_file_of_another_model_is_kept_aside_and_not_continued(tmp_path):
    path = tmp_path / "history.jsonl"
    append_look(path, look(0))
    message = continue_history(path, 10, ["conv1", "conv2"])
    assert "line 1 is a look at other layers" in message
    assert read_history(path) == [] and read_history(tmp_path / "history.damaged-1.jsonl") == [look(0)]


def test_a_file_that_can_not_be_used_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "history.jsonl"
    path.mkdir()
    with pytest.raises(ValueError, match=r"history.jsonl can't be used .*: Is a directory. .* another output folder"):
        continue_history(path, 0, LAYERS)


def test_a_line_that_could_not_be_written_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "history.jsonl"
    append_look(path, look(0))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr("os.fsync", full)
        append_look(path, look(10))
    append_look(path, look(20))
    assert read_history(path) == [look(0), look(20)]


def test_a_foreign_file_is_refused_with_file_and_line(tmp_path):
    path = tmp_path / "history.jsonl"
    append_look(path, look(0))
    with path.open("a") as file:
        file.write('{"loss": 1.0}\n')
    with pytest.raises(ValueError, match=r"history.jsonl, line 2 is not a look"):
        read_history(path)
