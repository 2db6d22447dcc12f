"""Pictures: what they show, with one look or many, with 3 layers and with 200, with numbers missing."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from hf_tempbalance.runs import plots


def looks(layers: int, count: int, steps: int = 10) -> list[dict]:
    rng = np.random.default_rng(0)
    rules = ["first"] + [None] * (layers - 2) + ["last"]
    return [
        {
            "step": steps * number,
            "epoch": float(number),
            "seconds": 0.1,
            "layers": [
                {
                    "name": f"model.layers.{i // 7}.proj_{i % 7}",
                    "alpha": 2 + 2 * rng.random(),
                    "multiplier": 1.0 if rule else 0.5 + rng.random(),
                    "excluded_by": rule,
                }
                for i, rule in enumerate(rules)
            ],
        }
        for number in range(count)
    ]


def log(count: int, steps: int = 10) -> list[dict]:
    """One entry in the middle of each interval between looks."""
    return [
        {"step": steps * n + steps // 2, "epoch": n + 0.5, "learning_rate": 0.1 / (n + 1), "loss": 1 / (n + 1)}
        for n in range(count)
    ]


def drawn(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=50)
    return stream.getvalue()


@pytest.mark.parametrize("layers", [3, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("count", [1, 40])
def test_every_picture_of_a_run_is_drawn_and_stays_on_a_page(layers, count):
    history = looks(layers, count)
    figures = [
        plots.plot_history(history),
        plots.plot_layers(history, "alpha"),
        plots.plot_layers(history, "multiplier"),
        plots.plot_rates(history, log(count)),
        plots.plot_alphas(history[-1]["layers"]),
    ]
    for figure in figures:
        assert len(drawn(figure)) > 3000
        assert max(figure.get_size_inches()) < 25
        assert all(len(ax.get_yticklabels()) <= 45 for ax in figure.axes)


def test_the_rate_of_a_layer_is_the_schedule_times_the_multiplier_in_force():
    history = looks(4, 3)
    epochs, schedule, rates, names = plots.effective_rates(history, log(3))
    assert names == ["model.layers.0.proj_1", "model.layers.0.proj_2"]  # first and last have no rate of their own
    assert epochs.tolist() == [0.5, 1.5, 2.5] and schedule == pytest.approx([0.1, 0.05, 0.1 / 3])
    for row, layer in enumerate((1, 2)):
        expected = [schedule[n] * history[n]["layers"][layer]["multiplier"] for n in range(3)]
        assert rates[row] == pytest.approx(expected)


def test_a_look_holds_from_the_step_after_it():
    history = looks(3, 2)
    entries = [{"step": step, "epoch": step / 10, "learning_rate": 1.0} for step in (1, 10, 11)]
    _, _, rates, _ = plots.effective_rates(history, entries)
    before, after = (look["layers"][1]["multiplier"] for look in history)
    assert rates[0].tolist() == [before, before, after]


def test_several_runs_share_a_colour_scale():
    histories = [looks(6, 2), looks(6, 2)]
    histories[1][0]["layers"][2]["alpha"] = 9.0
    histories[1][0]["layers"][0]["multiplier"] = 99.0  # of an excluded layer: not shown, and not in the scale
    low, high = plots.limits(histories, "alpha")
    assert high == 9.0
    assert plots.limits(histories, "multiplier")[1] <= 1.5
    for history in histories:
        (ax, _) = plots.plot_layers(history, "alpha", scale=(low, high)).axes
        assert ax.images[0].get_clim() == (low, high)


def test_an_excluded_layer_does_not_take_the_colours_from_the_tuned_ones():
    history = looks(6, 2)
    for look in history:
        look["layers"][0]["alpha"] = 50.0
    figure = plots.plot_layers(history, "alpha")
    ax, bar = figure.axes
    assert ax.images[0].get_clim() == plots.limits([history], "alpha") and plots.limits([history], "alpha")[1] < 50
    assert bar._colorbar.extend == "max"  # the arrow
    for layer in (layer for look in history for layer in look["layers"]):
        layer["excluded_by"] = "first"
    assert plots.limits([history], "alpha")[1] == 50.0


def test_numbers_that_are_missing_leave_a_hatched_cell_and_no_error():
    history = looks(3, 3)
    for look in history:
        look["layers"][1] |= {"alpha": math.nan, "multiplier": 1.0}
    figure = plots.plot_layers(history, "alpha")
    assert figure.axes[0].images[0].get_array().mask[1].all()
    drawn(figure)
    for look in history:
        for layer in look["layers"]:
            layer["alpha"] = math.nan
    for figure in (plots.plot_history(history), plots.plot_alphas(history[-1]["layers"])):
        drawn(figure)


def test_pictures_are_drawn_on_an_axis_that_is_given():
    ax = Figure().add_subplot()
    assert plots.plot_layers(looks(3, 2), "alpha", ax) is ax.figure
    ax = Figure().add_subplot()
    assert plots.plot_rates(looks(3, 2), log(2), ax) is ax.figure
    assert [line.get_label() for line in ax.lines if line.get_linestyle() == "--"] == ["schedule"]


def test_a_picture_in_a_part_of_a_figure_returns_the_whole_figure_which_alone_can_be_saved():
    figure = Figure()
    part = figure.subfigures(1, 2)[0]
    assert plots.plot_alphas(looks(3, 1)[0]["layers"], part.add_subplot()) is figure


def test_curves_have_losses_on_one_side_and_metrics_on_the_other():
    entries = log(3) + [
        {"step": 10, "epoch": 1.0, "eval_loss": 0.5, "eval_test_accuracy": 0.7, "eval_runtime": 3.0},
        {"step": 20, "epoch": 2.0, "eval_loss": 0.4, "eval_test_accuracy": None, "eval_runtime": 3.0},
    ]
    losses, metrics = plots.plot_curves(entries).axes
    assert [line.get_label() for line in losses.lines] == ["training", "evaluation"]
    assert [line.get_label() for line in metrics.lines] == ["test_accuracy"]
    assert metrics.lines[0].get_xdata().tolist() == [1.0]


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0, 2.0], [0.0, 0.0, 1e-9, 1.0, 3.0]])
def test_a_spectrum_of_few_or_equal_eigenvalues_is_drawn(values):
    layer = {"name": "fc", "alpha": math.nan, "xmin": math.nan, "D": math.nan}
    drawn(plots.plot_spectrum(np.array(values), layer))
    drawn(plots.plot_spectrum(np.array(values), layer | {"alpha": 2.5, "xmin": values[-1], "D": 0.1}))
