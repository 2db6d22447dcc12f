"""What a study's folder says: tables, what was left out, and no winner that the numbers don't support."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import yaml

from hf_tempbalance.runs.results import write_results
from hf_tempbalance.study.collect import collect
from hf_tempbalance.study.pictures import write_pictures
from hf_tempbalance.study.plan import Study
from hf_tempbalance.study.publish import publish
from hf_tempbalance.study.report import csv_table, markdown, rows, write_tables
from hf_tempbalance.study.runner import RUNS_NAME, claim
from hf_tempbalance.study.study_file import load_study


# Last test accuracy of each seed, in percent: TempBalance is above SGD by 2 points with any seed, SNR with some.
LAST = {
    "sgd": {1: 60.0, 2: 64.0, 3: 70.0},
    "tempbalance": {1: 62.0, 2: 66.1, 3: 71.9},
    "snr": {1: 66.0, 2: 60.0, 3: 71.0},
}


def study_in(folder: Path, **keys) -> Study:
    content = {
        "name": "small",
        "axes": {"method": list(LAST)},
        "methods": {"sgd": {}, "tempbalance": {"tempbalance": True}, "snr": {"optimizer": "sgd_snr"}},
        "seeds": [1, 2, 3],
        "baseline": {"method": "sgd"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(content | keys))
    study = load_study(path)
    claim(study, folder)
    return study


def results(seed: int, last: float, *, held_out: float = 50.0, status: str = "finished") -> dict:
    epochs = [
        {"epoch": 1.0, "eval_test_accuracy": last / 100 - 0.1, "eval_validation_accuracy": 0.1},
        {"epoch": 2.0, "eval_test_accuracy": last / 100 + 0.01, "eval_validation_accuracy": 0.2},
        {"epoch": 3.0, "eval_test_accuracy": last / 100, "eval_validation_accuracy": held_out / 100},
    ]
    layers = [
        {"name": "first", "excluded_by": "first", "alpha_start": 2.0, "alpha_end": 2.5},
        {"name": "conv", "excluded_by": None, "alpha_start": 3.0, "alpha_end": 2.0 + seed / 10},
    ]
    machine = {"device": "cpu", "machine": "x", "threads": 1, "versions": {"torch": "2"}, "commit": "a" * 40}
    return {
        "status": status,
        "environment": machine | {"dirty": False, "seed": seed},
        "seconds": 100.0,
        "tempbalance_seconds": 0.5,
        "epochs": epochs,
        "layers": layers,
        "best_checkpoint": "/a/machine/of/somebody/checkpoint-3",
    }


def fill(folder: Path, study: Study) -> None:
    for run in study.finals({}):
        write_results(folder / RUNS_NAME / run.name, results(run.seed, LAST[run.cell["method"]][run.seed]))


def test_the_rows_have_means_and_paired_differences_over_the_same_seeds(tmp_path):
    folder = tmp_path / "small"
    fill(folder, study_in(folder))
    sgd, tempbalance, snr = rows(collect(folder))
    assert (sgd.labels, sgd.difference) == (("sgd",), None)
    assert (sgd.last.n, sgd.last.mean, sgd.last.sd) == (
        3,
        pytest.approx(64.6667, abs=1e-4),
        pytest.approx(5.0332, abs=1e-4),
    )
    assert tempbalance.difference.mean == pytest.approx(2.0)
    assert tempbalance.difference.sd == pytest.approx(0.1)
    assert tempbalance.difference.verdict == "above" and snr.difference.verdict == "not shown"
    assert sgd.best.mean - sgd.last.mean == pytest.approx(1.0)
    assert sgd.chosen.mean == pytest.approx(sgd.last.mean)  # the last epoch is the best on held-out images
    assert sgd.share.mean == pytest.approx(0.5)


def test_a_better_mean_that_its_interval_does_not_support_is_no_winner(tmp_path):
    folder = tmp_path / "small"
    fill(folder, study_in(folder))
    page = markdown(collect(folder))
    lines = {line.split(" | ")[0].strip("| "): line for line in page.splitlines() if line.startswith("| ")}
    assert "+1.00 +-" in lines["snr"] and "| not shown |" in lines["snr"]
    assert "+2.00 +- 0.10 [1.75, 2.25] | above |" in lines["tempbalance"]
    assert "| baseline |" in lines["sgd"]


def test_one_seed_shows_nothing(tmp_path):
    folder = tmp_path / "small"
    fill(folder, study_in(folder, seeds=[1]))
    page = markdown(collect(folder))
    assert "+2.00 (one run) | not shown |" in page and "above |" not in page


def test_csv_has_the_same_numbers_without_rounding(tmp_path):
    folder = tmp_path / "small"
    fill(folder, study_in(folder))
    table = list(csv.DictReader(io.StringIO(csv_table(collect(folder)))))
    assert [row["method"] for row in table] == ["sgd", "tempbalance", "snr"]
    assert float(table[1]["difference_mean"]) == pytest.approx(2.0) and table[1]["paired_runs"] == "3"
    assert table[0]["difference_mean"] == "" and table[0]["against_baseline"] == "baseline"


def test_damaged_failed_foreign_and_missing_runs_are_left_out_with_the_reason(tmp_path):
    folder = tmp_path / "small"
    study = study_in(folder)
    fill(folder, study)
    at = {run.name: folder / RUNS_NAME / run.name / "results.json" for run in study.finals({})}
    at["sgd--seed1"].write_text('{"status": "finis')
    write_results(at["snr--seed2"].parent, results(2, 1.0, status="failed") | {"error": "OutOfMemoryError: no"})
    write_results(at["snr--seed3"].parent, results(9, 1.0))
    at["tempbalance--seed3"].unlink()
    write_results(
        at["tempbalance--seed2"].parent, {"status": "finished", "environment": {"seed": 2}, "epochs": [{"epoch": 1}]}
    )
    collected = collect(folder)
    reasons = collected.left_out
    assert "is damaged" in reasons["sgd--seed1"]
    assert reasons["snr--seed2"] == "it has not finished (status: failed: OutOfMemoryError: no)"
    assert "its seed is 9 and not 3" in reasons["snr--seed3"]
    assert reasons["tempbalance--seed3"] == "it has not been run"
    assert "no evaluation on the test split" in reasons["tempbalance--seed2"]
    page = markdown(collected)
    assert all(f"* {name}: " in page for name in reasons)
    sgd, tempbalance, snr = rows(collected)
    assert (sgd.last.n, tempbalance.last.n, snr.last.n) == (2, 1, 1)
    assert tempbalance.difference.n == 0 and "| - | not shown |" in page


def test_the_tuned_value_is_the_best_on_held_out_images_and_not_on_the_test_split(tmp_path):
    folder = tmp_path / "small"
    study = study_in(folder, tune={"learning_rate": [0.1, 0.2], "seeds": [1]})
    for run in study.trials():
        is_better = run.tuned == (0.2 if run.cell["method"] == "sgd" else 0.1)
        found = results(1, 40.0 if is_better else 90.0, held_out=70.0 if is_better else 60.0)
        write_results(folder / RUNS_NAME / run.name, found)
    collected = collect(folder)
    assert collected.chosen == {("sgd",): 0.2, ("tempbalance",): 0.1, ("snr",): 0.1}
    assert [row.tuned for row in rows(collected)] == ["0.2", "0.1", "0.1"]
    assert "| sgd | 60.00 | 70.00 (chosen) |" in markdown(collected)
    assert collected.left_out["sgd--learning_rate=0.2--seed2"] == "it has not been run"


def test_a_cell_whose_value_is_not_chosen_yet_is_left_out(tmp_path):
    folder = tmp_path / "small"
    study = study_in(folder, tune={"learning_rate": [0.1, 0.2], "seeds": [1]})
    write_results(folder / RUNS_NAME / study.trials()[0].name, results(1, 50.0))
    assert collect(folder).left_out["sgd"] == "its learning_rate has not been chosen yet"


def test_what_is_published_has_no_path_of_the_machine_and_gives_the_same_tables_byte_for_byte(tmp_path):
    folder, kept = tmp_path / "small", tmp_path / "kept"
    fill(folder, study_in(folder))
    publish(folder, kept)
    texts = [path.read_text() for path in kept.rglob("*.json")]
    assert len(texts) == 10 and not any("/a/machine" in text for text in texts)
    assert json.loads((kept / "runs" / "sgd--seed1" / "results.json").read_text())["best_checkpoint"] == "checkpoint-3"
    one, two = tmp_path / "one", tmp_path / "two"
    write_tables(collect(folder), one)
    write_tables(collect(kept), two)
    assert sorted(path.name for path in one.iterdir()) == ["table.csv", "table.md", "table.tex"]
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes()


def test_another_study_is_not_published_over_it(tmp_path):
    folder, kept = tmp_path / "small", tmp_path / "kept"
    fill(folder, study_in(folder))
    publish(folder, kept)
    other = tmp_path / "other"
    fill(other, study_in(other, seeds=[1, 2]))
    with pytest.raises(ValueError, match="has another study"):
        publish(other, kept)


def test_a_folder_that_is_no_study_or_has_nothing_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no study.json"):
        collect(tmp_path)
    study_in(tmp_path / "small")
    with pytest.raises(ValueError, match="has no finished run yet"):
        collect(tmp_path / "small")
    (tmp_path / "small" / "study.json").write_text("{")
    with pytest.raises(ValueError, match=r"study.json is damaged"):
        collect(tmp_path / "small")


def test_pictures_are_written_for_what_there_is(tmp_path):
    folder = tmp_path / "small"
    fill(folder, study_in(folder))
    paths = write_pictures(collect(folder), folder, tmp_path / "pictures")
    assert [path.name for path in paths] == ["curves.png", "seeds.png", "alphas.png"]
    assert all(path.stat().st_size > 5000 for path in paths)


def test_latex_escapes_what_latex_would_read(tmp_path):
    folder = tmp_path / "small"
    fill(folder, study_in(folder))
    text = write_tables(collect(folder), tmp_path)[2].read_text()
    assert r"$\pm$" in text and r"0.50 \%" in text and text.count(r"\\") == 4


PUBLISHED = sorted(
    path.parent for path in (Path(__file__).resolve().parents[2] / "docs" / "results").glob("*/study.json")
)


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_the_committed_tables_are_those_of_the_committed_runs(folder, tmp_path):
    written = write_tables(collect(folder), tmp_path)
    assert {path.name for path in written} == {"table.md", "table.csv", "table.tex"}
    for path in written:
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name
