"""Pictures: what they show, with one look or many, with 3 layers and with 200, with numbers missing."""

from __future__ import annotations

import io
import math
from functools import partial

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from page import Page

from hf_tempbalance.runs import plots
from hf_tempbalance.runs.bands import plot_bands, plot_lines, rates_of, series_of
from hf_tempbalance.runs.numbers import three_digits
from hf_tempbalance.runs.svg import inline_svg
from hf_tempbalance.spectra.powerlaw import fit_power_law
from hf_tempbalance.spectra.relative import marchenko_pastur_density


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
    rates = rates_of(history, log(3))
    assert rates.names == ["model.layers.0.proj_1", "model.layers.0.proj_2"]  # first and last have no own rate
    assert rates.epochs.tolist() == [0.5, 1.5, 2.5] and rates.schedule == pytest.approx([0.1, 0.05, 0.1 / 3])
    for row, layer in enumerate((1, 2)):
        expected = [rates.schedule[n] * history[n]["layers"][layer]["multiplier"] for n in range(3)]
        assert rates.values[row] == pytest.approx(expected)


def test_a_look_holds_from_the_step_after_it():
    history = looks(3, 2)
    entries = [{"step": step, "epoch": step / 10, "learning_rate": 1.0} for step in (1, 10, 11)]
    before, after = (look["layers"][1]["multiplier"] for look in history)
    assert rates_of(history, entries).values[0].tolist() == [before, before, after]


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


def test_the_colours_are_those_of_the_tuned_layers_and_the_others_are_hatched():
    history = looks(6, 2)
    for look in history:
        look["layers"][0]["alpha"] = 50.0
    figure = plots.plot_layers(history, "alpha")
    ax = figure.axes[0]
    assert ax.images[0].get_clim() == plots.limits([history], "alpha") and plots.limits([history], "alpha")[1] < 50
    assert ax.images[0].get_array().mask.all(axis=1).tolist() == [True, False, False, False, False, True]
    assert "50.00" in [text.get_text() for text in ax.texts]  # which has its number all the same
    for layer in (layer for look in history for layer in look["layers"]):
        layer["excluded_by"] = "first"
    assert plots.limits([history], "alpha")[1] == 50.0
    assert not plots.plot_layers(history, "alpha").axes[0].images[0].get_array().mask.any()  # where none is tuned


@pytest.mark.parametrize(("count", "step"), [(40, 1), (41, 2), (79, 2), (300, 8)])
def test_every_layer_up_to_40_has_a_label_and_every_kth_of_more(count, step):
    (ax, *_) = plots.plot_layers(looks(count, 2), "alpha").axes
    assert ax.get_yticks().tolist() == list(range(0, count, step)) and len(ax.get_yticks()) <= 40


def test_many_layers_are_bands_by_role_and_few_are_lines():
    names = [f"h.{block}.{part}" for block in range(8) for part in ("attn.q_proj", "attn.k_proj", "mlp.fc1")]
    history = looks(26, 5)
    for look in history:
        for layer, name in zip(look["layers"], ["wte", *names, "lm_head"], strict=True):
            layer |= {"name": name, "kind": "linear"}
    series = series_of(history, "multiplier")
    panels = plot_bands(series).axes
    assert [ax.get_title() for ax in panels] == ["attention q: 8 layers", "attention k: 8 layers", "MLP up: 8 layers"]
    values = np.array([[layer["multiplier"] for layer in look["layers"][1:-1:3]] for look in history])
    (median,) = panels[0].lines
    assert median.get_ydata() == pytest.approx(np.median(values, axis=1)) and len(panels[0].collections) == 2
    assert [len(ax.lines) for ax in plot_lines(series).axes] == [8, 8, 8]
    assert plots.plot_rates(history, log(5)).axes[0].get_title() == "attention q: 8 layers"
    assert len(plots.plot_rates(looks(12, 5), log(5)).axes) == 1


def test_weightwatchers_limits_stand_beside_the_exponents_of_its_fit_alone():
    layers = looks(5, 1)[0]["layers"]
    lines = {fit: len(plots.plot_alphas(layers, fit=fit).axes[0].lines) for fit in ("median", "goodness-of-fit", "")}
    assert lines == {"median": 0, "goodness-of-fit": 2, "": 0}


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


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0, 2.0], [0.0, 0.0, 1e-9, 1.0, 3.0], [0.0]])
def test_a_spectrum_of_few_or_equal_eigenvalues_is_drawn(values):
    is_one = len(values) == 1
    numbers = {"alpha": math.nan, "xmin": math.nan, "D": math.nan} if is_one else {"alpha": 2, "xmin": 2.0, "D": 0.1}
    drawn(plots.plot_spectrum(np.array(values), {"name": "fc"} | numbers, fit="median"))


@pytest.mark.parametrize("fit", ["median", "goodness-of-fit"])
def test_a_spectrum_s_picture_has_alpha_and_d_of_every_tail_as_the_fits_define_them(fit):
    values = torch.from_numpy(np.sort(np.random.default_rng(0).pareto(2, 100) + 0.1))
    found = fit_power_law(values, fit=fit)
    layer = {"name": "fc", "alpha": found.alpha.item(), "xmin": found.xmin.item(), "D": found.D.item()}
    figure = plots.plot_spectrum(values.numpy(), layer, fit=fit)
    _, tail, alphas, distances = figure.axes[:4]
    for ax, name in ((alphas, "alpha"), (distances, "D")):
        line, chosen = ax.lines[:2]
        at = dict(zip(*line.get_data(), strict=True))
        assert at[layer["xmin"]] == pytest.approx(layer[name]) and chosen.get_ydata() == [layer[name]]
    told = {"median": "tail (median: a summary of the tail, not a fit)", "goodness-of-fit": "tail (goodness-of-fit)"}
    assert tail.get_title() == told[fit]
    eigenvalues = f"{100 - found.index.item()} of 100 eigenvalues"
    assert eigenvalues in tail.get_legend().get_texts()[1].get_text()


def test_a_random_matrix_lies_under_its_thin_line():
    rng = np.random.default_rng(0)
    values = np.linalg.svd(rng.normal(size=(300, 600)), compute_uv=False)[::-1] ** 2
    density = partial(marchenko_pastur_density, aspect=0.5, mean=values.mean())
    layer = {"name": "fc", "alpha": math.nan, "xmin": math.nan, "D": math.nan}
    histogram = plots.plot_spectrum(values, layer, random=density).axes[0]
    (line,) = histogram.lines
    edges = np.array([(bar.get_x(), bar.get_width()) for bar in histogram.patches])
    expected = np.interp(edges[:, 0] + edges[:, 1] / 2, *line.get_data())
    heights = np.array([bar.get_height() for bar in histogram.patches])
    assert abs(expected - heights).sum() < 0.25 * len(values) and expected.sum() == pytest.approx(300, rel=0.05)


def test_svg_takes_the_page_s_colours_has_titles_and_no_markup_of_names():
    history = looks(4, 3)
    for look in history:
        look["layers"][1]["name"] = '<b>"$x$'
    text = inline_svg(plots.plot_history(history), "a <title>")
    page = Page(text)
    assert page.pictures == ["a <title>"] and page.links == []
    assert "#000000" not in text and "var(--ink)" in text and "<b>" not in text
    low, high = (three_digits(history[n]["layers"][1]["alpha"]) for n in (0, -1))
    assert f'<b>"$x$: {low} to {high}' in page.titles
