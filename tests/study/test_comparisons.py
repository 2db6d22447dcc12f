"""Each method against the baseline and against its controls, and what may be said of the differences."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from synthetic_study import fill, study_in, write_history

from hf_tempbalance.study.collect import collect
from hf_tempbalance.study.comparisons import Comparison, compare
from hf_tempbalance.study.controls import controls, without_method
from hf_tempbalance.study.statistics import holm


ON = {"tempbalance": True}
CONTROLLED = {
    "plain": {"tempbalance": False},
    "frozen": ON | {"control": "frozen"},
    "tempbalance": ON,
    "spelled_out": ON | {"min_ratio": 0.5, "control": "by_type"},  # 0.5 is the default
    "shuffled": ON | {"control": "shuffled"},
    "farms": ON | {"preset": "farms"},
    "farms_shuffled": ON | {"preset": "farms", "control": "shuffled"},
    "normalized": ON | {"normalize": True},
}
RATE = {"train": {"learning_rate": 0.1}}


def comparisons(folder: Path, methods, last, **keys) -> dict[tuple[str, str], Comparison]:
    """(method, what it is compared with) -> comparison. last: method -> test accuracy of seeds 1, 2, ..."""
    fill(folder, study_in(folder, methods, **keys), lambda run: last[run.cell["method"]][run.seed - 1])
    return {(one.cell["method"], one.name): one for one in compare(collect(folder))}


def test_a_control_is_found_by_its_settings_whatever_it_is_called(tmp_path):
    study = study_in(tmp_path / "small", CONTROLLED)
    found = {cell["method"]: [(kind, other["method"]) for kind, other in controls(study, cell)]
             for cell in study.combinations()}  # fmt: skip
    assert found["tempbalance"] == [
        ("plain", "plain"),
        ("normalized", "normalized"),
        ("shuffled", "shuffled"),
        ("by_type", "spelled_out"),
        ("frozen", "frozen"),
    ]
    assert found["farms"] == [("plain", "plain"), ("shuffled", "farms_shuffled")]
    assert found["normalized"] == [("plain", "plain")]
    assert found["plain"] == found["shuffled"] == []


def test_a_study_file_can_name_a_control_also_after_its_runs(tmp_path):
    methods = {"plain": {}, "tempbalance": ON, "larger": {"optimizer": "sgdp"}}
    folder, last = tmp_path / "small", dict.fromkeys(methods, (1.0, 2.0, 4.0))
    assert ("tempbalance", "larger") not in comparisons(folder, methods, last)
    before = (folder / "study.json").read_text()
    found = comparisons(folder, methods, last, controls={"tempbalance": "larger"})
    assert found["tempbalance", "larger"].kind == "named"
    assert json.loads((folder / "study.json").read_text()) == json.loads(before) | {
        "controls": {"tempbalance": ["larger"]}
    }


@pytest.mark.parametrize(
    ("controls", "told"),
    [
        ({"tempbalanc": "plain"}, "controls: axis 'method' has no 'tempbalanc'"),
        ({"tempbalance": ["plan"]}, "controls: axis 'method' has no 'plan'"),
        ({"tempbalance": "tempbalance"}, "can't be compared with itself"),
        ("shuffled", "controls: 'shuffled' must be a mapping"),
    ],
)
def test_a_control_that_can_not_be_named_is_one_sentence(tmp_path, controls, told):
    with pytest.raises(ValueError, match=told):
        study_in(tmp_path / "small", {"plain": {}, "tempbalance": ON}, controls=controls)


def test_what_trains_differently_beside_the_method_is_no_control(tmp_path):
    methods = {"plain": {}, "tempbalance": ON, "other": ON | {"control": "shuffled", "optimizer": "sgd_snr"}}
    study = study_in(tmp_path / "small", methods)
    assert controls(study, {"method": "tempbalance"}) == [("plain", {"method": "plain"})]
    assert without_method(study) == [("shuffled", {"method": "other"})]


def test_every_cell_is_compared_with_the_baseline_and_a_method_with_its_controls_in_a_fixed_order(tmp_path):
    found = comparisons(tmp_path / "small", CONTROLLED, dict.fromkeys(CONTROLLED, (1.0, 2.0, 4.0)))
    assert [(one.kind, one.name) for one in found.values() if one.cell["method"] == "tempbalance"] == [
        ("baseline", "plain"),
        ("at_rate", "plain at its mean rate"),
        ("normalized", "normalized"),
        ("shuffled", "shuffled"),
        ("by_type", "by_type"),
        ("frozen", "frozen"),
    ]
    assert {method for method, name in found if name == "plain"} == CONTROLLED.keys() - {"plain"}


def test_a_method_on_another_optimizer_is_compared_with_that_optimizer_alone_too(tmp_path):
    methods = {"sgd": {}, "snr": {"optimizer": "sgd_snr"}, "both": ON | {"optimizer": "sgd_snr"}}
    found = comparisons(tmp_path / "small", methods, dict.fromkeys(methods, (1.0, 2.0)), seeds=[1, 2])
    assert ("both", "sgd") in found and found["both", "snr"].kind == "plain"


def test_the_differences_are_paired_by_seed_and_corrected_together(tmp_path):
    last = {"plain": (60.0, 64.0, 70.0), "tempbalance": (62.0, 66.1, 71.9), "snr": (66.0, 60.0, 71.0)}
    methods = {"plain": {}, "tempbalance": ON, "snr": {"optimizer": "sgd_snr"}}
    found = comparisons(tmp_path / "small", methods, last)
    gain = found["tempbalance", "plain"]
    assert (gain.difference.mean, gain.difference.sd) == (pytest.approx(2.0), pytest.approx(0.1))
    assert gain.p == pytest.approx(0.000832, abs=1e-5)  # t = 2.0 sqrt(3) / 0.1 with 2 degrees of freedom
    tested = [one for one in found.values() if not math.isnan(one.p)]
    assert [one.holm for one in tested] == holm([one.p for one in tested]) and len(tested) == 2


def test_shown_is_what_holds_after_the_correction_and_alone_what_does_not(tmp_path):
    methods = {"plain": {}} | {name: {"optimizer": name} for name in ("clear", "near", "worse", "noise")}
    base = (50.0, 60.0, 70.0)
    last = {
        "plain": base,
        "clear": (52.0, 62.01, 71.99),
        "near": (52.0, 63.2, 71.5),
        "worse": (48.0, 57.99, 68.01),
        "noise": (52.0, 55.0, 71.0),
    }
    found = comparisons(tmp_path / "small", methods, last)
    assert found["clear", "plain"].sentence == "better than plain: shown"
    assert found["near", "plain"].p < 0.05 < found["near", "plain"].holm
    assert found["near", "plain"].sentence == "better than plain: shown alone, not after Holm's correction"
    assert found["worse", "plain"].sentence == "worse than plain: shown"
    assert found["noise", "plain"].sentence == "better than plain: not shown"
    assert [one.verdict.partition(":")[0] for one in found.values()] == ["better", "better", "worse", "not shown"]


@pytest.mark.parametrize(
    ("seeds", "gains", "reason"),
    [
        ([1], (2.0,), "one pair: no interval"),
        ([1, 2, 3], (2.0, 2.0, 2.0), "all differences are the same: no interval"),
        ([1, 2, 3], (2.0, math.nan, 2.1), "1 of 3 pairs diverged"),
    ],
)
def test_what_can_show_nothing_says_why(tmp_path, seeds, gains, reason):
    base = (60.0, 64.0, 70.0)
    last = {"plain": base, "snr": [value + gain for value, gain in zip(base, gains, strict=False)]}
    methods = {"plain": {}, "snr": {"optimizer": "sgd_snr"}}
    found = comparisons(tmp_path / "small", methods, last, seeds=seeds)
    assert found["snr", "plain"].sentence == f"better than plain: not shown ({reason})"


def test_a_method_that_was_not_run_with_the_baselines_seeds_has_no_difference(tmp_path):
    folder = tmp_path / "small"
    study = study_in(folder, {"plain": {}, "snr": {"optimizer": "sgd_snr"}})
    fill(folder, study, lambda run: 50.0 + run.seed)
    for run in study.finals({}):
        if (run.cell["method"] == "plain") == (run.seed == 1):
            (folder / "runs" / run.name / "results.json").unlink()
    (one,) = compare(collect(folder))
    assert one.sentence == "better than plain: not shown (no seed that both have finished)"


def tuned(folder: Path, multiplier: float, *, seeds=(1, 2, 3)) -> list[Comparison]:
    """A study over three rates in which both methods are best at 0.1, and its comparisons."""
    methods = {"plain": {}, "tempbalance": ON}
    study = study_in(folder, methods, tune={"learning_rate": [0.05, 0.1, 0.2], "seeds": list(seeds)})
    shift = {0.05: 4.0, 0.1: 0.0, 0.2: 1.0}

    def last(run) -> float:
        return 60 + run.seed**2 + shift[run.tuned] * (run.cell["method"] == "plain")

    fill(folder, study, last, lambda run: 60.0 if run.tuned == 0.1 else 50.0)
    write_history(folder, "tempbalance--learning_rate=0.1--seed1", [multiplier - 0.2, multiplier + 0.2])
    return compare(collect(folder))


def test_a_method_is_compared_with_plain_training_at_its_mean_rate(tmp_path):
    """Mean multiplier 0.52: a rate of 0.052, and plain training was tried with 0.05, which was not its best."""
    baseline, at_rate = tuned(tmp_path / "small", 0.52)
    assert (baseline.name, at_rate.name) == ("plain", "plain at learning_rate 0.05")
    assert baseline.difference.mean == 0.0 and at_rate.difference.mean == pytest.approx(-4.0)
    assert at_rate.difference.n == 3
    said = 'Its learning_rate x mean multiplier is 0.052; the nearest runs of "plain" have 0.05, a factor of 1.04.'
    assert at_rate.note == said


def test_seeds_without_a_run_at_the_mean_rate_are_counted(tmp_path):
    _, at_rate = tuned(tmp_path / "small", 0.52, seeds=[2])
    assert at_rate.sentence == "better than plain at learning_rate 0.05: not shown (one pair: no interval)"
    assert at_rate.note.endswith("Of the study's 3 seeds, 2 have not been run there.")


def test_where_the_mean_rate_is_the_baselines_own_no_comparison_counts_twice(tmp_path):
    (baseline,) = tuned(tmp_path / "small", 0.95)
    assert 'the nearest runs of "plain" have 0.1, a factor of 1.05' in baseline.note


def test_the_run_that_is_missing_at_the_mean_rate_is_named(tmp_path):
    _, at_rate = tuned(tmp_path / "small", 0.72)
    assert at_rate.sentence == "better than plain at learning_rate 0.072: not shown (not run)"
    assert "has not been run (nearest: 0.1, a factor of 1.39)" in at_rate.note


def test_a_rate_that_was_tried_further_than_a_quarter_away_stands_for_none(tmp_path):
    """0.068 is nearer to 0.05, of which there are trials alone, than to 0.1, and too far from both."""
    _, at_rate = tuned(tmp_path / "small", 0.68)
    assert at_rate.sentence == "better than plain at learning_rate 0.068: not shown (not run)"
    assert "has not been run (nearest: 0.05, a factor of 1.36)" in at_rate.note


def test_plain_training_at_a_rate_of_its_own_cell_counts_as_well(tmp_path):
    folder = tmp_path / "small"
    methods = {"plain": {"learning_rate": 0.1}, "slow": {"learning_rate": 0.05}, "tempbalance": ON}
    cells = [{"method": "tempbalance", "set": {"learning_rate": 0.1}}]
    fill(folder, study_in(folder, methods, cells=cells), lambda run: 50.0 + run.seed)
    write_history(folder, "tempbalance--seed1", [0.5])
    names = [one.name for one in compare(collect(folder)) if one.cell["method"] == "tempbalance"]
    assert names == ["plain", "plain at learning_rate 0.05"]


def test_the_mean_decay_of_a_method_is_compared_with_plain_training_at_its_tuned_rate(tmp_path):
    folder = tmp_path / "small"
    methods = {"plain": {}, "decay": ON | {"target": "weight_decay"}, "less": {"weight_decay": 0.05}}
    cells = [{"method": ["plain", "decay"], "set": {"weight_decay": 0.1}}]
    made = study_in(folder, methods, cells=cells, tune={"learning_rate": [0.1, 0.2], "seeds": [1, 2, 3]})

    def last(run) -> float:
        return 50 + run.seed**2 + 10 * (run.cell["method"] == "less" and run.tuned == 0.2)

    fill(folder, made, last, lambda run: 60.0 if run.tuned == 0.1 else 50.0)
    write_history(folder, "decay--learning_rate=0.1--seed1", [0.5])
    at_rate = next(one for one in compare(collect(folder)) if one.kind == "at_rate")
    assert (at_rate.name, at_rate.difference.mean) == ("plain at weight_decay 0.05", 0.0)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [({}, "Its learning_rate is not in the study file"), (RATE, "Its runs have no history")],
)
def test_an_unknown_mean_rate_is_said_to_be_unknown(tmp_path, keys, reason):
    last = {"plain": (1.0, 2.0, 4.0), "tempbalance": (1.5, 2.0, 4.0)}
    found = comparisons(tmp_path / "small", {"plain": {}, "tempbalance": ON}, last, **keys)
    assert reason in found["tempbalance", "plain at its mean rate"].note
