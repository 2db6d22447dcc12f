"""The pictures of a study: what is in them, read from the figures."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from synthetic_study import fill, results, results_of_script, study_in

from hf_tempbalance.runs.results import write_results
from hf_tempbalance.study.collect import Collected, collect
from hf_tempbalance.study.pictures import plot_alphas, plot_curves, plot_gains, plot_seeds, write_pictures
from hf_tempbalance.study.runner import RUNS_NAME


NINE = {name: {"optimizer": name} for name in "abcdefghi"}
TUNE = {"learning_rate": [0.1, 0.2, 0.4], "seeds": [1, 2, 3]}


def study(folder: Path, last=lambda run: 50.0 + run.seed, held_out=lambda run: 50.0, **keys) -> Collected:
    fill(folder, study_in(folder, **keys), last, held_out)
    return collect(folder)


def test_pictures_are_written_for_what_there_is(tmp_path):
    collected = study(tmp_path / "small")
    paths = write_pictures(collected, tmp_path / "small", tmp_path / "pictures")
    assert [path.name for path in paths] == ["curves.png", "seeds.png", "alphas.png"]
    assert all(path.stat().st_size > 5000 for path in paths)


def test_each_method_has_alphas_of_its_own_fit_before_training_and_at_its_last_look(tmp_path):
    """farms fits windows, so the same weights have another alpha; nothing is known of a method without layers."""
    folder = tmp_path / "small"
    made = study_in(folder, methods={"plain": {"optimizer": "sgd"}, "snr": {"optimizer": "sgd_snr"}, "farms": {}})
    for run in made.finals({}):
        found, method = results(run.seed, 50.0), run.cell["method"]
        start, end = {"plain": (None, None), "snr": (3.0, 2.5), "farms": (1.5, 1.4)}[method]
        found["layers"] = [found["layers"][1] | {"alpha_start": start, "alpha_end": end}]
        write_results(folder / RUNS_NAME / run.name, found)
    figure = plot_alphas(collect(folder))
    (ax,) = figure.axes
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["snr", "farms"]
    medians = [float(bar.get_segments()[0][0, 1]) for bar in ax.collections]
    assert medians == [3.0, 1.5, 2.5, 1.4]  # before training first
    places = [float(bar.get_segments()[0][:, 0].mean()) for bar in ax.collections]
    assert [round(place) for place in places] == [0, 1, 0, 1] and places[0] < places[2] < places[1] < places[3]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.texts] == ["before training", "at the last look"]


def test_one_evaluation_at_the_end_makes_no_curve(tmp_path):
    folder = tmp_path / "small"
    made = study_in(folder)
    for run in made.finals({}):
        found = results(run.seed, 50.0 + run.seed)
        write_results(folder / RUNS_NAME / run.name, found | {"epochs": found["epochs"][-1:]})
    assert plot_curves(collect(folder)) is None


@pytest.mark.parametrize(("seeds", "bands"), [([1, 2], 0), ([1, 2, 3], 3)])
def test_bands_are_drawn_of_three_runs_or_more(tmp_path, seeds, bands):
    collected = study(tmp_path / "small", seeds=seeds)
    (curves,) = plot_curves(collected).axes
    assert len(curves.collections) == bands and len(curves.lines) == 3
    (dots,) = plot_seeds(collected).axes
    errors = [bar[2][0].get_segments()[0][:, 1] for bar in dots.containers]
    lengths = [high - low for low, high in errors]
    assert all((length > 0) == (bands > 0) for length in lengths) and len(lengths) == 3


@pytest.mark.parametrize("value", [99.0, 1.0])
def test_axes_of_accuracies_end_at_0_and_100(tmp_path, value):
    """The interval of three runs with a spread of 0.5 points reaches beyond."""
    collected = study(tmp_path / "small", lambda run: value + run.seed / 2 - 1)
    for figure in (plot_curves(collected), plot_seeds(collected)):
        for ax in figure.axes:
            low, high = ax.get_ylim()
            assert low >= 0 and high <= 100 and (low == 0 or high == 100)


def test_nine_methods_differ_in_line_marker_or_colour_and_are_named_once_below_the_panels(tmp_path):
    figure = plot_curves(study(tmp_path / "small", methods=NINE, seeds=[1, 2, 3]))
    (ax,) = figure.axes
    assert len({(line.get_linestyle(), line.get_color()) for line in ax.lines}) == 9
    (legend,) = figure.legends
    assert ax.get_legend() is None and [text.get_text() for text in legend.texts][:2] == ["a (3 runs)", "b (3 runs)"]
    assert len(legend.texts) == 9


def test_gains_are_paired_differences_at_every_tuned_value_with_the_baselines_choice_marked(tmp_path):
    gain = {0.1: -1.0, 0.2: 0.0, 0.4: 3.0}

    def last(run) -> float:
        spread = 0.1 * run.seed  # of the difference
        return 50.0 + 5 * run.seed + (gain[run.tuned] + spread) * (run.cell["method"] == "snr")

    collected = study(tmp_path / "small", last, lambda run: 60.0 if run.tuned == 0.2 else 50.0, tune=TUNE,
                      methods={"plain": {}, "snr": {"optimizer": "sgd_snr"}})  # fmt: skip
    (ax,) = plot_gains(collected).axes
    (bars,) = ax.containers
    assert list(bars[0].get_ydata()) == pytest.approx([-0.8, 0.2, 3.2])
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert bars[2][0].get_segments()[0][:, 1] == pytest.approx([-0.8 - half, -0.8 + half])
    marked = [line for line in ax.lines if str(line.get_label()).endswith("chosen for plain")]
    assert [line.get_xdata()[0] for line in marked] == [1]


def test_up_is_better_also_where_a_smaller_value_is(tmp_path):
    folder = tmp_path / "lm"
    (tmp_path / "train.py").touch()
    keys = {"script": "train.py", "metric": "eval_loss", "axes": {"method": ["none", "llr"]}}
    made = study_in(folder, {"none": "none", "llr": "llr"}, tune=TUNE, **keys)
    for run in made.trials():
        loss = 2.0 - 0.5 * (run.cell["method"] == "llr")
        write_results(folder / RUNS_NAME / run.name, results_of_script(run.seed, loss))
    (ax,) = plot_gains(collect(folder)).axes
    assert list(ax.containers[0][0].get_ydata()) == pytest.approx([0.5, 0.5, 0.5])


def test_a_study_without_tuning_has_no_picture_of_gains(tmp_path):
    assert plot_gains(study(tmp_path / "small")) is None


def test_a_run_that_diverged_is_said_in_both_pictures(tmp_path):
    collected = study(tmp_path / "small", lambda run: math.nan if run.name == "snr--seed2" else 50.0 + run.seed)
    assert "snr (3 runs, 1 diverged)" in [text.get_text() for text in plot_curves(collected).legends[0].texts]
    (ax,) = plot_seeds(collected).axes
    assert [text.get_text() for text in ax.get_xticklabels()][2] == "snr\n(1 of 3 diverged)"
