"""What a study's folder says: verdicts, tables, what was left out, and no winner that the numbers don't support."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest
from synthetic_study import fill, results, results_of_script, study_in, write_history

from hf_tempbalance.runs.results import write_results
from hf_tempbalance.study.collect import Collected, collect
from hf_tempbalance.study.comparisons import compare
from hf_tempbalance.study.controls import controls
from hf_tempbalance.study.plan import Run
from hf_tempbalance.study.publish import publish
from hf_tempbalance.study.report import markdown, write_tables
from hf_tempbalance.study.runner import RUNS_NAME
from hf_tempbalance.study.study_file import read_study
from hf_tempbalance.study.tables import Row, csv_comparisons, csv_table, rows


# Last test accuracy of each seed, in percent: TempBalance is above SGD by 2 points with any seed, SNR with some.
LAST = {
    "plain": {1: 60.0, 2: 64.0, 3: 70.0},
    "tempbalance": {1: 62.0, 2: 66.1, 3: 71.9},
    "snr": {1: 66.0, 2: 60.0, 3: 71.0},
}


def last(run: Run) -> float:
    return LAST[run.cell["method"]][run.seed]


def filled(folder: Path, accuracy=last, **keys) -> Collected:
    fill(folder, study_in(folder, **keys), accuracy)
    return collect(folder)


def rows_of(collected: Collected) -> list[Row]:
    return rows(collected, compare(collected))


def lines_of(page: str, beginning: str) -> dict[str, str]:
    """First cell or name -> line, of the lines that begin so."""
    found = [line for line in page.splitlines() if line.startswith(beginning)]
    return {line.strip("|* ").split(" | ")[0].split("**")[0]: line for line in reversed(found)}


def test_the_rows_have_means_and_paired_differences_over_the_same_seeds(tmp_path):
    plain, tempbalance, snr = rows_of(filled(tmp_path / "small"))
    assert (plain.labels, plain.against, plain.runs) == (("plain",), None, 3)
    assert (plain.last.mean, plain.last.sd) == (pytest.approx(64.6667, abs=1e-4), pytest.approx(5.0332, abs=1e-4))
    assert tempbalance.against.difference.mean == pytest.approx(2.0)
    assert tempbalance.against.verdict == "better: shown" and snr.against.verdict == "not shown"
    assert plain.best.mean - plain.last.mean == pytest.approx(1.0)
    assert plain.chosen.mean == pytest.approx(plain.last.mean)  # the last epoch is the best on held-out images
    assert plain.share.mean == pytest.approx(0.5)


def test_a_better_mean_that_its_interval_does_not_support_is_no_winner(tmp_path):
    lines = lines_of(markdown(filled(tmp_path / "small")), "| ")
    assert "+1.00 +-" in lines["snr"] and "| not shown |" in lines["snr"]
    assert "+2.00 +- 0.10 [1.75, 2.25] | better: shown |" in lines["tempbalance"]
    assert "| baseline |" in lines["plain"]


def test_each_method_has_its_verdict_in_words_and_what_the_seeds_could_show(tmp_path):
    verdicts = lines_of(markdown(filled(tmp_path / "small")), "* **")
    assert verdicts["plain"] == "* **plain**: the baseline."
    assert verdicts["snr"].startswith(
        "* **snr**: better than plain: not shown. With this spread, 3 seeds would show a "
    )
    assert verdicts["tempbalance"].startswith("* **tempbalance**: better than plain: shown; better than plain at its ")
    # sd 0.1: 3.264 times that, detectable(0.1, 3)
    assert "3 seeds would show a difference of 0.33 points, and one of 2.00 needs 2." in verdicts["tempbalance"]


def test_the_page_says_how_many_comparisons_the_correction_is_over(tmp_path):
    page = markdown(filled(tmp_path / "small"))
    assert "\n2 comparisons have a p value" in page
    lines = page[page.index("## Comparisons") :]
    assert (
        "| tempbalance | plain | 3 | +2.00 +- 0.10 [1.75, 2.25] | < 0.001 | 0.002 | better: shown | 0.33 | 2 |"
        in lines
    )


def test_one_seed_shows_nothing(tmp_path):
    page = markdown(filled(tmp_path / "small", seeds=[1]))
    assert "+2.00 (one pair) | not shown (one pair: no interval) |" in page and ": shown" not in page
    assert "0 comparisons have a p value" in page and "would show a difference" not in page


def test_the_same_value_in_every_run_has_no_interval_of_differences(tmp_path):
    page = markdown(filled(tmp_path / "small", lambda run: 50.0))
    assert "+0.00 +- 0.00 (all the same: no interval) | not shown (all differences are the same: no interval)" in page


def test_a_run_that_diverged_is_counted_and_in_no_mean(tmp_path):
    collected = filled(tmp_path / "small", lambda run: math.nan if run.name == "snr--seed2" else last(run))
    snr = rows_of(collected)[2]
    assert (snr.runs, snr.diverged, snr.last.n, snr.last.mean) == (3, 1, 2, pytest.approx(68.5))
    page = markdown(collected)
    assert "better than plain: not shown (1 of 3 pairs diverged)" in page
    assert "1 of 3 runs diverged and are in no mean." in page and "| 3 (1 diverged) |" in page
    assert list(csv.DictReader(io.StringIO(csv_table(collected, rows_of(collected)))))[2]["diverged"] == "1"


def test_without_a_finished_baseline_nothing_is_compared_and_the_page_says_why(tmp_path):
    folder = tmp_path / "small"
    study = study_in(folder)
    fill(folder, study, last)
    for run in study.finals({}):
        if run.cell["method"] == "plain":
            (folder / RUNS_NAME / run.name / "results.json").unlink()
    page = markdown(collect(folder))
    assert "* plain, the baseline, has no finished run." in page
    assert "better than plain: not shown (not run)" in page and ": shown" not in page


def test_a_control_without_its_method_is_said_to_be_one(tmp_path):
    folder = tmp_path / "small"
    methods = {"plain": {}, "dealt": {"tempbalance": True, "control": "shuffled"}}
    fill(folder, study_in(folder, methods), lambda run: 50.0 + run.seed)
    assert "* dealt is a control (shuffled) of a method that is not in the study" in markdown(collect(folder))


def test_csv_has_the_same_numbers_without_rounding(tmp_path):
    collected = filled(tmp_path / "small")
    table = list(csv.DictReader(io.StringIO(csv_table(collected, rows_of(collected)))))
    assert [row["method"] for row in table] == ["plain", "tempbalance", "snr"]
    assert float(table[1]["difference_mean"]) == pytest.approx(2.0) and table[1]["paired_runs"] == "3"
    assert table[0]["difference_mean"] == "" and table[0]["against_baseline"] == "baseline"
    first, *_ = csv.DictReader(io.StringIO(csv_comparisons(collected, compare(collected))))
    assert (first["method"], first["kind"], first["compared_with"]) == ("tempbalance", "baseline", "plain")
    assert float(first["p"]) == pytest.approx(0.000832, abs=1e-5) and float(first["holm"]) == 2 * float(first["p"])
    assert float(first["detectable"]) == pytest.approx(0.3264, abs=1e-4) and first["seeds_needed"] == "2"


def test_damaged_failed_foreign_and_missing_runs_are_left_out_with_the_reason(tmp_path):
    folder = tmp_path / "small"
    study = study_in(folder)
    fill(folder, study, last)
    at = {run.name: folder / RUNS_NAME / run.name / "results.json" for run in study.finals({})}
    at["plain--seed1"].write_text('{"status": "finis')
    write_results(at["snr--seed2"].parent, results(2, 1.0, status="failed") | {"error": "OutOfMemoryError: no"})
    write_results(at["snr--seed3"].parent, results(9, 1.0))
    at["tempbalance--seed3"].unlink()
    write_results(
        at["tempbalance--seed2"].parent, {"status": "finished", "environment": {"seed": 2}, "epochs": [{"epoch": 1}]}
    )
    collected = collect(folder)
    reasons = collected.left_out
    assert "is damaged" in reasons["plain--seed1"]
    assert reasons["snr--seed2"] == "it has not finished (status: failed: OutOfMemoryError: no)"
    assert "its seed is 9 and not 3" in reasons["snr--seed3"]
    assert reasons["tempbalance--seed3"] == "it has not been run"
    assert "no evaluation on the test split" in reasons["tempbalance--seed2"]
    page = markdown(collected)
    assert all(f"* {name}: " in page for name in reasons)
    plain, tempbalance, snr = rows_of(collected)
    assert (plain.last.n, tempbalance.last.n, snr.last.n) == (2, 1, 1)
    assert tempbalance.against.difference.n == 0 and "| - | not shown (no seed that both have finished) |" in page


def tuned(folder: Path, values: list[float], best: float) -> Collected:
    """A study in which `best` is the best value for SGD on held-out images, the first for the others, and the worst
    on the test split.
    """
    study = study_in(folder, tune={"learning_rate": values, "seeds": [1]})

    def is_best(run: Run) -> bool:
        return run.tuned == (best if run.cell["method"] == "plain" else values[0])

    fill(folder, study, lambda run: 40.0 if is_best(run) else 90.0, lambda run: 70.0 if is_best(run) else 60.0)
    return collect(folder)


def test_the_tuned_value_is_the_best_on_held_out_images_and_not_on_the_test_split(tmp_path):
    collected = tuned(tmp_path / "small", [0.1, 0.2], 0.2)
    assert collected.chosen == {("plain",): 0.2, ("tempbalance",): 0.1, ("snr",): 0.1}
    assert [row.tuned for row in rows_of(collected)] == ["0.2", "0.1", "0.1"]
    assert "| plain | 60.00 | 70.00 (chosen) |" in markdown(collected)


def test_a_value_at_the_edge_of_the_grid_says_widen_the_grid_in_the_table_and_in_the_verdict(tmp_path):
    collected = tuned(tmp_path / "small", [0.1, 0.2, 0.4], 0.2)
    plain, tempbalance, _ = rows_of(collected)
    assert (plain.edge, tempbalance.edge, tempbalance.tuning_runs) == ("", "lowest", 3)
    page = markdown(collected)
    assert "learning_rate 0.1 is the lowest of the grid 0.1, 0.2, 0.4: widen the grid." in page
    assert "| tempbalance | 0.1 (lowest of the grid: widen the grid) | 3 | 3 |" in page
    assert "| plain | 60.00 | 70.00 (chosen) | 60.00 | 3 | inside |" in page
    assert "the baseline." in page  # of SGD nothing is to be said


def test_a_grid_of_one_value_tunes_nothing(tmp_path):
    page = markdown(tuned(tmp_path / "small", [0.1], 0.1))
    assert "The grid of learning_rate has one value: nothing was tuned" in page and "widen" not in page


def test_the_page_has_the_difference_to_the_baseline_at_every_tuned_value(tmp_path):
    page = markdown(tuned(tmp_path / "small", [0.1, 0.2], 0.2))
    gains = page[page.index("Difference to the baseline at the same learning_rate") :]
    assert "| snr | -50.00 (one pair) | +50.00 (one pair) |" in gains


def test_the_page_has_the_same_pairs_on_held_out_data_where_a_value_was_chosen_there(tmp_path):
    folder = tmp_path / "small"
    study = study_in(folder, tune={"learning_rate": [0.1, 0.2], "seeds": [101]})
    gains = {"plain": 0.0, "tempbalance": -1.0, "snr": 2.0}
    wanted = {1: 70.0, 2: 70.0, 3: 70.3, 101: 90.0}  # the trial's is in no pair
    fill(
        folder,
        study,
        lambda run: LAST[run.cell["method"]].get(run.seed, 1.0),
        lambda run: wanted[run.seed] + gains[run.cell["method"]] * run.seed,
    )
    collected = collect(folder)
    page = markdown(collected)
    section = page[page.index("## The same pairs on held-out data") : page.index("## learning_rate, chosen")]
    assert "Difference of accuracy on held-out images, in points, larger is better" in section
    assert "was chosen on these data over the seeds 101." in section
    assert "| tempbalance | plain | 3 | -2.00 +- 1.00 [-4.48, 0.48] |" in section
    assert "| snr | plain | 3 | +4.00 +- 2.00 [-0.97, 8.97] |" in section
    assert len(lines_of(section, "| ")) == 4  # none at a mean rate: those may be trials
    table = list(csv.DictReader(io.StringIO(csv_comparisons(collected, compare(collected)))))
    assert [float(table[0][f"held_out_{part}"]) for part in ("mean", "sd")] == pytest.approx([-2.0, 1.0])


def test_nothing_is_said_of_held_out_data_where_nothing_was_chosen_on_them(tmp_path):
    assert "held-out data\n\n" not in markdown(filled(tmp_path / "small"))


def test_a_value_of_which_a_trial_diverged_is_not_chosen(tmp_path):
    folder = tmp_path / "small"
    study = study_in(folder, tune={"learning_rate": [0.1, 0.2], "seeds": [1]})
    fill(folder, study, lambda run: 50.0, lambda run: math.nan if run.tuned == 0.1 else 20.0)
    assert set(collect(folder).chosen.values()) == {0.2}


def test_a_cell_whose_value_is_not_chosen_yet_is_left_out(tmp_path):
    folder = tmp_path / "small"
    study = study_in(folder, tune={"learning_rate": [0.1, 0.2], "seeds": [1]})
    write_results(folder / RUNS_NAME / study.trials()[0].name, results(1, 50.0))
    collected = collect(folder)
    assert collected.left_out["plain"] == "its learning_rate has not been chosen yet"
    left_out = markdown(collected).partition("## Left out\n\n")[2].splitlines()
    assert "* plain--learning_rate=0.2--seed1: it has not been run" in left_out
    assert "* snr--learning_rate=0.1--seed1, like 1 more of snr: it has not been run" in left_out
    assert len(left_out) == 6  # of each method the value and the runs


def test_what_is_published_has_no_path_of_the_machine_and_gives_the_same_tables_byte_for_byte(tmp_path):
    folder, kept = tmp_path / "small", tmp_path / "kept"
    fill(folder, study_in(folder), last)
    publish(folder, kept)
    texts = [path.read_text() for path in kept.rglob("*.json")]
    assert len(texts) == 10 and not any("/a/machine" in text for text in texts)
    assert (
        json.loads((kept / "runs" / "plain--seed1" / "results.json").read_text())["best_checkpoint"] == "checkpoint-3"
    )
    one, two = tmp_path / "one", tmp_path / "two"
    write_tables(collect(folder), one)
    write_tables(collect(kept), two)
    assert sorted(path.name for path in one.iterdir()) == ["comparisons.csv", "table.csv", "table.md", "table.tex"]
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes()


def test_another_study_is_not_published_over_it(tmp_path):
    folder, kept = tmp_path / "small", tmp_path / "kept"
    fill(folder, study_in(folder), last)
    publish(folder, kept)
    other = tmp_path / "other"
    fill(other, study_in(other, seeds=[1, 2]), last)
    with pytest.raises(ValueError, match="has another study"):
        publish(other, kept)


def test_a_study_is_published_over_its_own_smaller_grid(tmp_path):
    folder, kept = tmp_path / "small", tmp_path / "kept"
    fill(folder, study_in(folder, tune={"learning_rate": [0.1, 0.2], "seeds": [1]}), last)
    publish(folder, kept)
    wider = study_in(folder, tune={"learning_rate": [0.1, 0.2, 0.4], "seeds": [1]})
    fill(folder, wider, last)
    publish(folder, kept)
    assert read_study(kept).version == wider.version
    ours, copies = (sorted(path.name for path in (root / RUNS_NAME).iterdir()) for root in (folder, kept))
    assert copies == ours


def test_a_run_that_is_under_way_is_not_published(tmp_path):
    folder, kept = tmp_path / "small", tmp_path / "kept"
    study = study_in(folder)
    fill(folder, study, last)
    for run, status in zip(study.finals({}), ("running", "interrupted", "failed"), strict=False):
        write_results(folder / RUNS_NAME / run.name, results(run.seed, 50.0, status=status))
    publish(folder, kept)
    left = {run.name for run in study.finals({})} - {path.name for path in (kept / RUNS_NAME).iterdir()}
    assert left == {run.name for run in study.finals({})[:2]}


def test_a_study_is_not_published_over_itself(tmp_path):
    fill(tmp_path / "small", study_in(tmp_path / "small"), last)
    with pytest.raises(ValueError, match="is the study's own folder. Publish it into another one"):
        publish(tmp_path / "small", tmp_path / "small" / ".." / "small")


def test_a_folder_that_is_no_study_or_has_nothing_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no study.json"):
        collect(tmp_path)
    study_in(tmp_path / "small")
    with pytest.raises(ValueError, match="has no finished run yet"):
        collect(tmp_path / "small")
    (tmp_path / "small" / "study.json").write_text("{")
    with pytest.raises(ValueError, match=r"study.json is damaged"):
        collect(tmp_path / "small")


def test_latex_escapes_what_latex_would_read(tmp_path):
    folder = tmp_path / "small"
    fill(folder, study_in(folder), last)
    text = write_tables(collect(folder), tmp_path)[-1].read_text()
    assert r"$\pm$" in text and r"0.50 \%" in text and "$<$ 0.001" in text
    assert text.count(r"\begin{tabular}") == 2 and text.count(r"\\") == 4 + 4  # a heading and rows in both


def of_a_script(folder: Path, losses: dict[str, tuple[float, ...]], **keys) -> Collected:
    """A study of train.py, whose runs are judged by eval_loss; method -> its value for each seed."""
    folder.mkdir(parents=True)
    (folder.parent / "train.py").touch()
    keys = {"script": "train.py", "metric": "eval_loss", "axes": {"method": list(losses)}} | keys
    study = study_in(folder, {name: name for name in losses}, **keys)
    for run in study.finals(dict.fromkeys(((name,) for name in losses), 0.1)):  # the one value of a grid, if any
        value = results_of_script(run.seed, losses[run.cell["method"]][run.seed - 1])
        write_results(folder / RUNS_NAME / run.name, value)
    return collect(folder)


def test_a_smaller_loss_is_better_and_is_no_percentage(tmp_path):
    losses = {"none": (1.5, 1.7, 1.6), "tempbalance": (1.4, 1.601, 1.499), "llrd": (1.9, 2.101, 2.0)}
    collected = of_a_script(tmp_path / "lm", losses)
    page = markdown(collected)
    assert "eval_loss, smaller is better" in page and "percent" not in page.split("## Comparisons")[0]
    verdicts = lines_of(page, "* **")
    assert verdicts["tempbalance"].startswith("* **tempbalance**: better than none: shown; ")
    assert verdicts["llrd"].startswith("* **llrd**: worse than none: shown; ")
    # two digits of the spread of the differences, 0.001
    assert "| -0.1000 +- 0.0010 [-0.1025, -0.0975] | better: shown |" in page
    assert rows_of(collected)[0].best.mean == pytest.approx(1.6)  # the smallest of the curve


def test_a_script_is_compared_by_one_metric_and_tuned_by_another(tmp_path):
    metric = {"metric": {"choose": "eval_loss", "report": "test_loss"}}
    collected = of_a_script(tmp_path / "lm", {"none": (1.5, 1.7, 1.6), "tempbalance": (1.4, 1.6, 1.5)}, **metric)
    page = markdown(collected)
    assert "test_loss, smaller is better" in page and "with the best eval_loss" in page
    assert "better than none: not shown (all differences are the same: no interval)" in page


def test_one_metric_for_choice_and_report_is_not_reported_twice(tmp_path):
    losses = {"none": (1.5, 1.7, 1.6), "tempbalance": (1.4, 1.6, 1.4)}
    tune = {"learning_rate": [0.1], "seeds": [1]}
    page = markdown(of_a_script(tmp_path / "lm", losses, tune=tune))
    assert "## learning_rate, chosen on held-out data" in page and "## The same pairs" not in page
    metric = {"choose": "eval_loss", "report": "test_loss"}
    page = markdown(of_a_script(tmp_path / "other" / "lm", losses, tune=tune, metric=metric))
    assert "| tempbalance | none | 3 | -0.133 +- 0.058 [-0.277, 0.010] |" in page.split("## The same pairs")[1]


def test_controls_are_found_among_presets_with_changes_too(tmp_path):
    folder = tmp_path / "lm"
    folder.mkdir()
    (tmp_path / "train.py").touch()
    methods = {"none": "none", "llr": "llr", "dealt": {"preset": "llr", "control": "shuffled"}}
    keys = {"script": "train.py", "metric": "eval_loss", "axes": {"method": list(methods)}}
    study = study_in(folder, methods, **keys)
    assert controls(study, {"method": "llr"}) == [("plain", {"method": "none"}), ("shuffled", {"method": "dealt"})]


def test_what_the_alphas_of_a_script_are_drawn_from_is_published(tmp_path):
    folder, kept = tmp_path / "lm", tmp_path / "kept"
    of_a_script(folder, {"none": (1.5, 1.7, 1.6), "tempbalance": (1.4, 1.6, 1.5)})
    for seed in (1, 2):
        write_history(folder, f"tempbalance--seed{seed}", [0.5, 1.5])
    publish(folder, kept)
    layers, same = ([measured.layers for measured in collect(place).finals] for place in (folder, kept))
    assert layers == same and sum(map(bool, layers)) == 2
