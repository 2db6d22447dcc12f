"""``hf-tempbalance report``: one page of a run, from a real Trainer or from scripts/train.py's files, offline."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from page import Page
from tiny import ConvNet, Digits
from transformers import Trainer, TrainingArguments

from hf_tempbalance import TempBalanceCallback, TempBalanceConfig
from hf_tempbalance.cli import main as cli
from hf_tempbalance.runs.history import HISTORY_NAME, read_history
from hf_tempbalance.runs.numbers import three_digits
from hf_tempbalance.runs.report import REPORT_NAME, layers_to_show, write_report
from hf_tempbalance.runs.results import write_results
from hf_tempbalance.runs.run import read_run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A plain Trainer with the callback, as a user has it, whose model is saved."""
    folder = tmp_path_factory.mktemp("run") / "out <1>"
    args = TrainingArguments(
        str(folder),
        num_train_epochs=3,
        per_device_train_batch_size=32,
        logging_strategy="epoch",
        save_strategy="epoch",
        eval_strategy="epoch",
        use_cpu=True,
    )
    callback = TempBalanceCallback(TempBalanceConfig(min_eigenvalues=1))
    trainer = Trainer(ConvNet(), args, train_dataset=Digits(128), eval_dataset=Digits(64), callbacks=[callback])
    trainer.train()
    trainer.save_model()
    return folder


def report(capsys, *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main(["report", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_page_of_a_plain_trainer_with_the_callback(run, capsys):
    code, out, _ = report(capsys, str(run))
    assert code == 0 and out.strip() == str(run / REPORT_NAME)
    page = Page((run / REPORT_NAME).read_text(encoding="utf-8"))
    assert page.links == []  # opens offline
    assert page.pictures == [
        "Training: losses and metrics over epochs",
        "alpha and multiplier of each layer",
        "Multipliers",
        "Learning rates",
        "alpha at the end",
        *(f"Spectrum {number}" for number in (1, 2, 3)),
    ]
    looks = read_history(run / HISTORY_NAME)
    for layer in looks[-1]["layers"]:
        assert layer["name"] in page.text
        assert three_digits(layer["alpha"]) in page.text and three_digits(layer["alpha_relative"]) in page.text
    end, start = (three_digits(looks[n]["multiplier_mean"]) for n in (-1, 0))
    assert f"{end}at the start {start}" in page.text
    assert "out <1>" in page.text and "layers with their own learning rate" in page.text
    assert '"min_ratio": 0.5' in page.text
    assert "tail (median: a summary of the tail, not a fit)" in page.text
    assert "TempBalance, alpha (median fit), linear mapping to 0.5 ... 1.5, of the learning rate" in page.text
    assert "color-scheme: light dark" in page.text and "var(--ink)" in (run / REPORT_NAME).read_text()


def test_a_page_goes_where_it_is_wanted(tmp_path, capsys):
    target = tmp_path / "pages" / "one.html"
    code, out, _ = report(capsys, str(plain_run(tmp_path / "run", 0.9)), "--output", str(target))
    assert code == 0 and out.strip() == str(target) and target.is_file()


def test_the_layers_that_are_shown_have_the_smallest_the_middle_and_the_largest_alpha(run):
    found = read_run(run)
    tuned = {s["name"]: s["alpha"] for s in found.looks[-1]["layers"] if s["excluded_by"] is None}
    ranked = sorted(tuned, key=tuned.get)
    assert layers_to_show(found) == [ranked[0], ranked[len(ranked) // 2], ranked[-1]]


def test_a_run_is_read_from_its_newest_checkpoint_while_it_trains(run):
    found = read_run(run)
    assert [look["epoch"] for look in found.looks] == [0.0, 1.0, 2.0, 3.0]
    assert found.settings["min_eigenvalues"] == 1
    assert {"eval_loss"} <= found.last_metrics.keys()
    assert not [key for key in found.last_metrics if "per_second" in key or "runtime" in key]


def test_results_json_has_the_metrics_of_the_best_checkpoint_where_its_weights_were_loaded(tmp_path):
    epochs = [
        {"epoch": n, "step": 10 * n, "eval_accuracy": value, "loss": 1.0}
        for n, value in ((1, 0.5), (2, 0.9), (3, 0.7))
    ]
    results = {"status": "finished", "config": {"dataset": "digits"}, "epochs": epochs, "seconds": 12.0}
    results |= {"arguments": {"load_best_model_at_end": False}, "best_checkpoint": "somewhere/checkpoint-20"}
    write_results(tmp_path, results)
    assert read_run(tmp_path).last_metrics == {"eval_accuracy": 0.7}
    results["arguments"]["load_best_model_at_end"] = True
    write_results(tmp_path, results)
    assert read_run(tmp_path).last_metrics == {"eval_accuracy": 0.9}


def test_a_run_without_tempbalance_says_so(tmp_path, capsys):
    epochs = [{"epoch": n, "step": n, "eval_accuracy": 0.5, "loss": 1.0, "learning_rate": 0.1} for n in (1, 2)]
    write_results(tmp_path, {"status": "finished", "config": {"tempbalance": False, "settings": {}}, "epochs": epochs})
    code, _, _ = report(capsys, str(tmp_path))
    page = Page((tmp_path / REPORT_NAME).read_text(encoding="utf-8"))
    assert code == 0 and page.pictures == ["Training: losses and metrics over epochs"]
    assert "This run has no TempBalance: every layer had the schedule's rate." in page.text


def test_layers_without_a_number_are_named(run, tmp_path, capsys):
    looks = read_history(run / HISTORY_NAME)
    for look in looks:
        look["layers"][2] |= {"alpha": None, "multiplier": 1.0}
    text = "".join(json.dumps(look) + "\n" for look in looks)
    (tmp_path / HISTORY_NAME).write_text(text.replace("NaN", "null"))
    code, _, _ = report(capsys, str(tmp_path))
    page = Page((tmp_path / REPORT_NAME).read_text(encoding="utf-8"))
    assert (
        code == 0 and "No alpha could be computed at the end, so these keep the schedule's rate: conv3." in page.text
    )


def changed_history(run: Path, folder: Path, change) -> Page:
    """The page of a history, of 3 layers of which 2 are tuned, after `change(looks)`."""
    folder.mkdir(exist_ok=True)
    looks = read_history(run / HISTORY_NAME)
    looks = change(looks) or looks
    text = "".join(json.dumps(look) + "\n" for look in looks)
    (folder / HISTORY_NAME).write_text(text.replace("NaN", "null"))
    write_report(read_run(folder))
    return Page((folder / REPORT_NAME).read_text(encoding="utf-8"))


def each_layer(**values):
    def change(looks):
        for layer in (layer for look in looks for layer in look["layers"]):
            layer |= values

    return change


def only_one_is_tuned(looks):
    for layer in (layer for look in looks for layer in look["layers"][2:]):
        layer |= {"excluded_by": "last", "multiplier": 1.0}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda looks: looks[:1], "There is one look at the weights: nothing is shown of how the layers change."),
        (each_layer(alpha=None, multiplier=1.0), "No layer has an alpha at any look"),
        (only_one_is_tuned, "Only conv2 is tuned, and there is no other layer to balance it with."),
        (each_layer(excluded_by="first", multiplier=1.0), "No layer is tuned: the settings exclude them all"),
    ],
    ids=["one look", "no number", "one tuned layer", "none tuned"],
)
def test_a_run_with_little_in_it_is_a_page_that_says_so(run, tmp_path, change, sentence):
    page = changed_history(run, tmp_path, change)
    assert sentence in page.text and "alpha and multiplier of each layer" in page.pictures
    assert "nan" not in page.text.lower().replace("(its weights are zero, nan,", "")


def test_a_history_without_a_look_is_a_page_of_the_rest(tmp_path):
    (tmp_path / HISTORY_NAME).write_text("")
    config = {"tempbalance": True, "settings": {"metric": "alpha"}}
    epochs = [{"epoch": 1, "step": 1, "loss": 1.0, "learning_rate": 0.1}]
    write_results(tmp_path, {"status": "failed", "config": config, "epochs": epochs})
    write_report(read_run(tmp_path))
    page = Page((tmp_path / REPORT_NAME).read_text(encoding="utf-8"))
    assert "There is no look at the weights in these files" in page.text
    assert "This run is failed: what follows is not that of a whole run." in page.text


def test_names_of_300_characters_are_whole_in_the_table_and_short_in_pictures(run, tmp_path):
    names = [
        f"{'a_module.' * 40}conv{number}"[-300:]
        for number in range(len(read_history(run / HISTORY_NAME)[0]["layers"]))
    ]

    def rename(looks):
        for look in looks:
            for layer, name in zip(look["layers"], names, strict=True):
                layer["name"] = name

    page = changed_history(run, tmp_path, rename)
    assert all(name in page.text for name in names)
    text = (tmp_path / REPORT_NAME).read_text()
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", text)
    assert max(map(len, labels)) < 100


def plain_run(folder: Path, accuracy: float, **config) -> Path:
    epochs = [
        {"epoch": n, "step": n, "eval_accuracy": accuracy * n / 2, "eval_loss": 1.0 / n, "loss": 1.0} for n in (1, 2)
    ]
    results = {"status": "finished", "epochs": epochs, "seconds": 12.0, "arguments": {"seed": 1, "learning_rate": 0.1}}
    write_results(folder, results | {"config": {"tempbalance": bool(config), "settings": config}})
    return folder


def test_beside_a_baseline_the_page_says_what_differed_and_that_one_pair_shows_nothing(tmp_path, capsys):
    ours = plain_run(tmp_path / "ours", 0.9, metric="alpha")
    base = plain_run(tmp_path / "base", 0.88)
    code, _, _ = report(capsys, str(ours), "--baseline", str(base))
    page = Page((ours / REPORT_NAME).read_text(encoding="utf-8"))
    verdict = "accuracy 0.900 with TempBalance, 0.880 with plain: +0.0200, better. One run of each shows no effect"
    assert code == 0 and verdict in page.text and "accuracy, last0.9000.880+0.0200" in page.text
    assert "One pair: there is no interval, and no verdict." in page.text and "evaluation, baseline" in page.text


def test_a_baseline_that_is_none_is_one_line(tmp_path, capsys):
    ours = plain_run(tmp_path / "ours", 0.9)
    for baseline, message in ((ours, "is the run itself. Give another one"), (tmp_path / "gone", "is no folder")):
        code, out, err = report(capsys, str(ours), "--baseline", str(baseline))
        assert (code, out) == (1, "") and message in err and err.count("\n") == 1
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "trainer_state.json").write_text('{"log_history": [{"epoch": 1, "step": 1, "loss": 1.0}]}')
    report(capsys, str(ours), "--baseline", str(tmp_path / "other"))
    assert "have no evaluation in common" in Page((ours / REPORT_NAME).read_text(encoding="utf-8")).text


def test_a_history_of_before_has_no_relative_exponents_and_the_mean_over_layers(tmp_path, capsys):
    history = (Path(__file__).parents[1] / "fixtures" / "version1" / "whole_history.jsonl").read_text()
    assert "multiplier_mean" not in history and "alpha_relative" not in history
    (tmp_path / HISTORY_NAME).write_text(history)
    code, _, _ = report(capsys, str(tmp_path))
    page = Page((tmp_path / REPORT_NAME).read_text(encoding="utf-8"))
    layers = read_history(tmp_path / HISTORY_NAME)[-1]["layers"]
    tuned = [layer["multiplier"] for layer in layers if layer["excluded_by"] is None]
    assert code == 0 and f"mean multiplier at the end{three_digits(sum(tuned) / len(tuned))}" in page.text


def test_a_method_without_exponents_and_one_without_rates_have_no_pictures_and_no_complaints_of_them(
    run, tmp_path, capsys
):
    looks = read_history(run / HISTORY_NAME)
    for layer in (layer for look in looks for layer in look["layers"]):
        layer |= {"alpha": None, "alpha_relative": None}
    (tmp_path / HISTORY_NAME).write_text("".join(json.dumps(look) + "\n" for look in looks).replace("NaN", "null"))
    config = {"tempbalance": True, "settings": {"metric": "depth", "target": "weight_decay"}}
    epochs = [{"epoch": n, "step": n, "loss": 1.0, "learning_rate": 0.1} for n in (1, 2)]
    write_results(tmp_path, {"status": "finished", "config": config, "epochs": epochs})
    code, _, _ = report(capsys, str(tmp_path))
    page = Page((tmp_path / REPORT_NAME).read_text(encoding="utf-8"))
    assert code == 0 and page.pictures[1:] == ["alpha and multiplier of each layer", "Multipliers"]
    assert "layers with their own weight decay" in page.text and "No alpha could be computed" not in page.text


def test_what_is_no_run_is_one_line(run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "trainer_state.json").write_text('{"log_history": 3}')
    (tmp_path / "history").mkdir()
    (tmp_path / "history" / HISTORY_NAME).write_text("not json\n")
    (tmp_path / "file").write_text("")
    cases = {
        (str(tmp_path / "gone"),): "is no folder. Give the output folder of a training run.",
        (str(tmp_path / "file"),): "is no folder",
        (str(tmp_path / "empty"),): "it is not the output folder of a run",
        (str(tmp_path / "broken"),): "trainer_state.json is damaged",
        (str(tmp_path / "history"),): "line 1 is not a look",
        (str(run), "--output", str(tmp_path / "file" / "page.html")): "file",
    }
    for arguments, message in cases.items():
        code, out, err = report(capsys, *arguments)
        last = err.strip().splitlines()[-1]
        assert (code, out) == (1, "") and message in last and last.startswith("hf-tempbalance: "), (arguments, err)
        assert "Traceback" not in err


def test_a_folder_of_runs_may_have_its_baseline_among_them(tmp_path, capsys):
    ours = plain_run(tmp_path / "ours", 0.9, metric="alpha")
    base = plain_run(tmp_path / "base", 0.88)
    code, _, err = report(capsys, str(tmp_path), "--baseline", str(base))
    pages = [Page((folder / REPORT_NAME).read_text(encoding="utf-8")).text for folder in (ours, base)]
    assert (code, err) == (0, "") and ["Beside the baseline" in page for page in pages] == [True, False]
