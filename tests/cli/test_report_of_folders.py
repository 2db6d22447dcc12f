"""``hf-tempbalance report`` of what is no single run: a folder of several, and a study's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import screens
from page import Page

from hf_tempbalance.cli import main as cli


@pytest.fixture
def several(tmp_path) -> Path:
    """Two runs, one that is damaged, and a folder that is none."""
    for name, seed in (("with <b>", 0), ("plain #1", 1)):
        screens.run(str(tmp_path / "runs" / name), 2, seed, plain=seed == 1)
    for name in ("damaged", "other"):
        (tmp_path / "runs" / name).mkdir()
    (tmp_path / "runs" / "damaged" / "results.json").write_text("{")
    return tmp_path / "runs"


def test_a_folder_of_runs_has_a_page_of_each_and_an_index(several, capsys):
    assert cli.main(["report", str(several)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"{several}/tempbalance_runs.html: 3 runs"
    index = Page((several / "tempbalance_runs.html").read_text(encoding="utf-8"))
    assert sorted(index.links) == [
        "plain%20%231/tempbalance_report.html",
        "with%20%3Cb%3E/tempbalance_report.html",
    ]
    assert "with <b>" in index.text and "accuracy 0.83" in index.text and "results.json is damaged" in index.text
    assert "other" not in index.text
    for name in ("with <b>", "plain #1"):
        assert (several / name / "tempbalance_report.html").is_file()


@pytest.mark.slow
def test_the_index_is_put_where_output_says_and_its_links_lead_to_the_pages(several, tmp_path, capsys):
    assert cli.main(["report", str(several), "--output", str(tmp_path / "elsewhere" / "index.html")]) == 0
    index = Page((tmp_path / "elsewhere" / "index.html").read_text(encoding="utf-8"))
    assert "../runs/plain%20%231/tempbalance_report.html" in index.links


@pytest.mark.slow
def test_a_study_s_folder_has_the_report_of_the_study(tmp_path, capsys):
    kept = Path(__file__).parents[2] / "docs" / "results" / "small_cpu"
    shutil.copytree(kept, tmp_path / "study")
    assert cli.main(["report", str(tmp_path / "study"), "--output", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("# small_cpu") and f"{tmp_path}/out/table.md" in out.splitlines()[-1]
    assert (tmp_path / "out" / "table.md").read_bytes() == (kept / "table.md").read_bytes()
    assert (tmp_path / "out" / "curves.png").is_file()


def test_a_folder_without_runs_is_one_sentence(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    assert cli.main(["report", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert "it is not the output folder of a run" in err and err.count("\n") == 1
