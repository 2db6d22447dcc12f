"""``hf-tempbalance compare-runs`` on the records of runs, written as Trainer and the recorder write them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from page import Page
from scipy.stats import ttest_1samp

from hf_tempbalance import TempBalanceConfig
from hf_tempbalance.cli import main as cli
from hf_tempbalance.runs.compare import compare_runs
from hf_tempbalance.runs.history import append_look
from hf_tempbalance.runs.results import write_results


def a_run(
    folder: Path,
    values: list[float],
    seed: int | None = 0,
    metric: str = "eval_accuracy",
    tempbalance: TempBalanceConfig | None = None,
    status: str = "finished",
    loss: float = 1.0,
    predictions: list[dict] = (),
    **arguments,
) -> str:
    """Write a run with one evaluation an epoch of 10 steps; without a seed, trainer_state.json alone."""
    log = []
    for epoch, value in enumerate(values, start=1):
        log.append({"epoch": epoch, "step": 10 * epoch, "loss": loss / epoch + (seed or 0) / 100})
        log.append({"epoch": epoch, "step": 10 * epoch, metric: value, "eval_runtime": 0.5})
    log.append({"epoch": len(values), "step": 10 * len(values), "train_runtime": 30.0})
    folder.mkdir(parents=True)
    if seed is None:
        (folder / "checkpoint-7").mkdir()
        state = {"global_step": 7, "log_history": log, "best_model_checkpoint": None}
        (folder / "checkpoint-7" / "trainer_state.json").write_text(json.dumps(state))
        return str(folder)
    config = {"tempbalance": tempbalance is not None, "preset": "none" if tempbalance is None else "tempbalance"}
    config["settings"] = None if tempbalance is None else tempbalance.to_dict()
    arguments = {"seed": seed, "output_dir": str(folder), "learning_rate": 0.1} | arguments
    environment = {"versions": {"torch": "2.14"}, "threads": 1, "seed": seed}
    results = {"status": status, "config": config, "arguments": arguments, "environment": environment}
    write_results(folder, results | {"seconds": 31.0, "epochs": log, "predictions": list(predictions)})
    if tempbalance is not None:
        for step, multiplier in ((0, 0.5), (10, 1.5)):
            numbers = {"kind": "linear", "num_eigenvalues": 64, "alpha": 2.5, "D": 0.1, "stable_rank": 9.0}
            layers = [numbers | {"name": "fc", "excluded_by": None, "multiplier": multiplier}]
            layers += [numbers | {"name": "head", "excluded_by": "last", "multiplier": 1.0}]
            append_look(
                folder / "tempbalance_history.jsonl",
                {"step": step, "epoch": step / 10, "seconds": 0.25, "layers": layers},
            )
    return str(folder)


BASE, OTHER = [0.80, 0.82, 0.81, 0.79], [0.83, 0.84, 0.85, 0.82]


@pytest.fixture
def two_sides(tmp_path) -> tuple[list[str], list[str]]:
    base = [a_run(tmp_path / f"plain-{s}", [0.5, value], s) for s, value in enumerate(BASE)]
    config = TempBalanceConfig()
    other = [a_run(tmp_path / f"tb-{s}", [0.5, value], s, tempbalance=config) for s, value in enumerate(OTHER)]
    return base, other


def command(capsys, *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main(["compare-runs", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_interval_is_student_s_of_the_paired_differences(two_sides):
    base, other = two_sides
    comparison = compare_runs(base, other)
    gains = np.subtract(OTHER, BASE)
    low, high = ttest_1samp(gains, 0).confidence_interval(0.95)
    found = comparison.difference
    assert (found.n, found.mean, found.sd) == pytest.approx((4, gains.mean(), gains.std(ddof=1)))
    assert (found.low, found.high) == pytest.approx((low, high)) and found.verdict == "above"
    assert comparison.base.mean == pytest.approx(np.mean(BASE)) and comparison.base.sd == pytest.approx(
        np.std(BASE, ddof=1)
    )
    assert compare_runs(other, base).difference.verdict == "below"
    assert comparison.warnings == []


def test_seeds_make_the_pairs_whatever_the_order(two_sides):
    base, other = two_sides
    shuffled = compare_runs(base[::-1], [other[2], other[0], other[3], other[1]])
    assert shuffled.paired_by == "seed" and shuffled.difference.mean == pytest.approx(
        compare_runs(base, other).difference.mean
    )
    assert shuffled.difference.sd == pytest.approx(compare_runs(base, other).difference.sd)


def test_a_seed_without_partner_is_named_and_not_in_the_difference(two_sides):
    base, other = two_sides
    comparison = compare_runs(base, other[1:])
    assert comparison.difference.n == 3 and any(base[0] in warning for warning in comparison.warnings)


@pytest.mark.parametrize(
    ("seeds", "reason"),
    [
        (([None, None], [None, None]), "not every run has a results.json with its seed"),
        (([1, 1], [1, 2]), "a side has two runs with one seed"),
        (([1, 2], [3, 4]), "the two sides have no seed in common"),
    ],
)
def test_without_seeds_to_pair_by_the_order_counts_and_that_is_said(tmp_path, seeds, reason):
    sides = [
        [a_run(tmp_path / f"{side}{n}", [0.1 * side + 0.01 * n * n], seed) for n, seed in enumerate(seeds[side])]
        for side in (0, 1)
    ]
    comparison = compare_runs(*sides)
    assert comparison.paired_by == "order" and comparison.pairs == [(0, 0), (1, 1)]
    assert f"Paired in the order given: {reason}." in comparison.warnings


def test_names_come_from_the_runs_and_not_from_their_places(two_sides):
    base, other = two_sides
    assert [side.name for side in (compare_runs(base, other).base, compare_runs(base, other).other)] == [
        "plain",
        "TempBalance",
    ]
    assert [side.name for side in (compare_runs(other, base).base, compare_runs(other, base).other)] == [
        "TempBalance",
        "plain",
    ]


def test_two_settings_of_one_method_are_named_by_what_differs(tmp_path):
    slow, fast = (a_run(tmp_path / name, [0.5], 1, learning_rate=rate) for name, rate in (("a", 0.1), ("b", 0.2)))
    comparison = compare_runs([slow], [fast])
    assert [comparison.base.name, comparison.other.name] == ["learning_rate 0.1", "learning_rate 0.2"]
    assert not any("More than the method" in warning for warning in comparison.warnings)


def test_more_than_the_method_is_a_warning(two_sides, tmp_path):
    base, _ = two_sides
    other = [
        a_run(tmp_path / f"x{s}", [v], s, tempbalance=TempBalanceConfig(), learning_rate=0.3)
        for s, v in enumerate(OTHER)
    ]
    warnings = compare_runs(base, other).warnings
    assert any(w.startswith("More than the method differs between the sides: steps, learning_rate") for w in warnings)


def test_runs_of_one_side_that_differ_are_a_warning(two_sides, tmp_path):
    base, other = two_sides
    odd = a_run(tmp_path / "odd", [0.5, 0.9], 9, learning_rate=0.3)
    assert (
        "Runs of one side differ in more than the seed: learning_rate." in compare_runs([*base, odd], other).warnings
    )


def test_one_run_on_a_side_has_no_interval(tmp_path, capsys):
    one, two = a_run(tmp_path / "a", [0.5], 1), a_run(tmp_path / "b", [0.9], 1, tempbalance=TempBalanceConfig())
    difference = compare_runs([one], [two]).difference
    assert math.isnan(difference.low) and difference.verdict == "not shown"
    _, out, _ = command(capsys, one, "--with", two)
    assert (
        "no interval. TempBalance above or\nbelow plain: not shown." in out
        and "! One pair: there is no interval" in out
    )


def test_a_loss_says_which_direction_is_better(tmp_path, capsys):
    config = TempBalanceConfig()
    base = [a_run(tmp_path / f"a{s}", [v], s, "eval_loss") for s, v in enumerate((1.0, 1.1, 1.2))]
    other = [a_run(tmp_path / f"b{s}", [v], s, "eval_loss", config) for s, v in enumerate((0.5, 0.61, 0.69))]
    _, out, _ = command(capsys, *base, "--with", *other, "--metric", "eval_loss")
    assert "lower is better" in out and "TempBalance is below plain, which is better." in " ".join(out.split())


def test_unfinished_and_diverged_runs_are_warned_of(two_sides, tmp_path):
    base, other = two_sides
    short = a_run(tmp_path / "short", [0.4], 7, status="running")
    nan = a_run(tmp_path / "nan", [0.4, math.nan], 8)
    warnings = " ".join(compare_runs([*base, short, nan], other).warnings)
    assert f"{short} is running: its values are not those of a whole run." in warnings
    assert f"Different numbers of evaluations (2 in most runs, {short} 1)" in warnings
    assert f"{nan} ends with eval_accuracy = nan: there is no mean." in warnings


def test_the_same_values_to_the_last_digit_are_pointed_out(tmp_path):
    one, two = a_run(tmp_path / "a", [0.5], 1), a_run(tmp_path / "b", [0.5], 1, tempbalance=TempBalanceConfig())
    assert any("the same values to the last digit" in warning for warning in compare_runs([one], [two]).warnings)


def test_the_best_checkpoint_s_value_counts_where_its_weights_were_loaded(tmp_path):
    folder = a_run(tmp_path / "a", [0.9, 0.5], 1, load_best_model_at_end=True)
    results = json.loads((tmp_path / "a" / "results.json").read_text())
    write_results(folder, results | {"best_checkpoint": "a/checkpoint-10"})
    other = a_run(tmp_path / "b", [0.6, 0.7], 1)
    comparison = compare_runs([folder], [other])
    assert (comparison.base.values, comparison.other.values) == ([0.9], [0.7])


def test_a_metric_of_predict_is_one_too(tmp_path):
    sides = [[a_run(tmp_path / f"{n}", [0.5], 1, predictions=[{"test_f1": 0.25 * (n + 1)}])] for n in (0, 1)]
    assert compare_runs(*sides, "test_f1").difference.mean == 0.25


def test_cost_and_mean_multiplier(two_sides):
    _, other = two_sides
    run = compare_runs(*two_sides).other.runs[0]
    assert (run.stood_still, run.mean_multiplier, run.seconds) == (0.5, 1.0, 31.0)  # 0.5 for 10 steps, 1.5 for 10


def test_bad_input_is_one_line(tmp_path, capsys, two_sides):
    (one, two, *_), other = two_sides
    loss = a_run(tmp_path / "loss", [1.0], 1, "eval_loss", predictions=[{"test_f1": 0.5, "test_runtime": 1.0}])
    nothing = a_run(tmp_path / "nothing", [], 1)
    damaged, cut, odd = (tmp_path / name for name in ("damaged", "cut", "odd"))
    for folder, name, text in (
        (damaged, "results.json", "{"),
        (cut, "trainer_state.json", '{"log_history": [{"eval_accuracy": 0.5, "epoch": "one"}]}'),
        (odd, "trainer_state.json", '{"log_history": [7]}'),
    ):
        folder.mkdir()
        (folder / name).write_text(text)
    (tmp_path / "empty").mkdir()
    for arguments, said in (
        ([one, "--with", loss], "has no eval_accuracy. It has eval_loss, test_f1: choose one with --metric."),
        ([one, "--with", nothing], "It has no evaluation at all."),
        ([one, "--with", f"{one}/../plain-0"], "plain-0 is on both sides. Give each run once."),
        ([one, one, "--with", two], "plain-0 is given twice."),
        ([one, "--with", tmp_path / "gone"], "gone is no folder"),
        ([one, "--with", tmp_path / "empty"], "it is not the output folder of a run"),
        ([one, "--with", damaged], "results.json is damaged"),
        ([one, "--with", cut], "log_history[0].epoch is 'one'"),
        ([one, "--with", odd], "log_history[0] is 7"),
    ):
        code, out, err = command(capsys, *arguments)
        assert (code, out) == (1, "") and said in err and err.count("\n") == 1, (arguments, err)


def test_80_columns_hold_every_line_and_tables_are_whole(two_sides, capsys):
    code, out, err = command(capsys, *two_sides[0], "--with", *two_sides[1])
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    rows = [line.split() for line in out.splitlines()]
    assert ["plain", "4", "0.8050", "0.0129", "0.8050", "0.5150", "31.0", "-"] in rows
    assert ["TempBalance", "4", "0.8350", "0.0129", "0.8350", "0.5150", "31.0", "0.50"] in rows
    assert ["2", "0.8100", "0.8500", "+0.04"] in rows


def test_json_has_all_of_it(two_sides, capsys):
    code, out, _ = command(capsys, *two_sides[0], "--with", *two_sides[1], "--json")
    found = json.loads(out)
    assert code == 0 and found["difference"]["verdict"] == "above" and found["paired_by"] == "seed"
    assert [side["name"] for side in found["sides"]] == ["plain", "TempBalance"]
    assert found["sides"][1]["runs"][0]["mean_multiplier"] == 1.0
    assert {setting["name"] for setting in found["settings"]} == {"preset", "tempbalance"}


def test_the_page_opens_offline_and_has_runs_curves_and_verdict(two_sides, tmp_path, capsys):
    base, other = two_sides
    code, out, _ = command(capsys, *base, "--with", *other, "--output", tmp_path / "pages" / "<a>.html")
    assert code == 0 and out.splitlines()[-1] == f"Page: {tmp_path}/pages/<a>.html"
    page = Page((tmp_path / "pages" / "<a>.html").read_text())
    assert page.links == [] and len(page.pictures) == 3
    assert "TempBalance is above plain, which is better." in page.text and other[3] in page.text
    assert all("band of one standard deviation" in text for text in page.pictures)
    command(capsys, *base[:2], "--with", *other[:2], "--output", tmp_path / "two.html")
    assert all("band" not in text for text in Page((tmp_path / "two.html").read_text()).pictures)


def test_accuracies_are_drawn_between_0_and_1(tmp_path):
    from hf_tempbalance.runs.compare_page import plot_curves_of

    sides = [[a_run(tmp_path / side, [0.0, 1.0], 0)] for side in "ab"]
    comparison = compare_runs(*sides)
    figure = plot_curves_of((comparison.base, comparison.other), lambda run: run.curve, "eval_accuracy")
    assert figure.axes[0].get_ylim() == (0, 1)
