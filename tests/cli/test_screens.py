"""What the commands print at 80, 100 and 160 columns: kept screens, and a terminal. `screens` writes them anew."""

from __future__ import annotations

import os
import re

import pytest
import screens
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from hf_tempbalance.cli.tables import lay_out, shortened


@pytest.fixture(scope="module", autouse=True)
def in_their_folder():
    with screens.files():
        yield


@pytest.mark.parametrize("name", screens.COMMANDS)
def test_a_screen_is_the_kept_one_and_no_line_is_longer_than_the_terminal(name):
    kept = (screens.KEPT / f"{name}.txt").read_text(encoding="utf-8")
    assert screens.shown(name) == kept
    parts = re.split(r"=== (\d+) columns\n", kept)[1:]
    assert [int(width) for width in parts[::2]] == list(screens.WIDTHS)
    for width, text in zip(parts[::2], parts[1::2], strict=True):
        assert max(map(cell_len, text.splitlines())) <= int(width)


def test_every_kept_screen_is_of_a_command():
    assert {path.stem for path in screens.KEPT.glob("*.txt")} == screens.COMMANDS.keys()


@pytest.mark.parametrize("name", ["analyze_vit", "compare", "quick_start", "compare_runs"])
def test_wide_has_whole_names_and_all_columns_in_the_narrowest_terminal(name):
    text = screens.screen([*screens.COMMANDS[name], "--wide"], 80)
    assert "..." not in text and "more columns" not in text and "names after" not in text and "~" not in text
    if name == "analyze_vit":
        assert "vit.encoder.layer.10.attention.attention.query" in text
        assert {"layer_id", "Q", "entropy", "sigma", "num_ERG_spikes", "fit"} <= set(text.splitlines()[0].split())


def test_a_pipe_has_the_header_first_and_whole_names(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert screens.cli.main(["analyze", "vit.safetensors"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["name", "layer_type", "N", "M"]
    assert "vit.encoder.layer.10.attention.attention.query" in {line.split()[0] for line in lines}


def test_columns_leave_by_their_importance_and_come_back_with_room():
    columns = {"name": ["conv1", "conv2"], "other": ["12"] * 2, "alpha": ["2.345"] * 2, "D": ["0.1"] * 2}
    for width, shown in ((14, ["alpha"]), (18, ["alpha", "D"]), (25, ["other", "alpha", "D"])):
        table = lay_out(columns, width, first=("alpha", "D"))
        assert table.header.split() == ["name", *shown]
        assert set(table.left_out) == columns.keys() - {"name", *shown}


def test_columns_that_belong_together_leave_together():
    columns = {"name": ["conv1"], "a A": ["1"], "a B": ["1"], "b": ["1"]}
    assert lay_out(columns, 13, first=(("a A", "a B"), "b")).left_out == ["a A", "a B"]


NAMES = st.lists(st.text("ab.字", min_size=1, max_size=60), min_size=1, max_size=6, unique=True)


@given(NAMES, st.integers(12, 50))
def test_shortened_names_fit_and_stay_different(names, room):
    cut = shortened(names, room)
    assert max(map(cell_len, cut)) <= room and len(set(cut)) == len(names)
    assert all(one == other for one, other in zip(names, cut, strict=True) if cell_len(one) <= room)


@given(NAMES, st.integers(30, 80))
def test_no_table_is_wider_than_its_terminal(names, width):
    numbers = ["123.456"] * len(names)
    columns = {"name": names} | {head: numbers for head in ("alpha", "alpha_relative", "D", "xmin")}
    table = lay_out(columns, width, first=("alpha",))
    assert max(map(cell_len, (table.header, *table.rows))) <= width and len(table.rows) == len(names)


def test_the_settings_of_readline_are_not_the_user_s(monkeypatch):
    from hf_tempbalance.terminal import screen_width

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("LINES", raising=False)
    assert screen_width() == 80
    monkeypatch.setenv("LINES", "24")
    assert os.isatty(1) or screen_width() is None
