"""A study of any Trainer script: its file, the command of each run, which value is chosen, what is published."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import yaml
from synthetic_study import Quiet

from hf_tempbalance.runs.checkpoints import STATE_NAME
from hf_tempbalance.runs.results import RESULTS_NAME, read_results, write_results
from hf_tempbalance.study.collect import collect
from hf_tempbalance.study.command import SETTINGS_NAME, make_job
from hf_tempbalance.study.cost import from_finished
from hf_tempbalance.study.executors.local import LocalExecutor
from hf_tempbalance.study.plan import METHOD, Study
from hf_tempbalance.study.publish import publish
from hf_tempbalance.study.runner import RUNS_NAME, Runner, choose, claim, epochs_of, has_ended, is_finished, record_end
from hf_tempbalance.study.script_study import check_methods
from hf_tempbalance.study.study_file import load_study, read_study
from hf_tempbalance.study.values import why_not_counted


STUDY = {
    "name": "mine",
    "script": "mine.py",
    "metric": {"choose": "eval_loss", "report": "test_accuracy"},
    "train": {"fp16": False, "betas": [0.9, 0.99], "extra": {"a": 1}, "shift": -1, "note": None},
    "axes": {"width": [8, 16], "method": ["none", "shuffled", "embedding"]},
    "methods": {
        "shuffled": {"preset": "llr", "control": "shuffled"},
        "embedding": {"preset": "none", "flags": {"embedding_rate": 3}},
    },
    "cells": [{"method": "shuffled", "width": 8, "set": {"decay": 0.1, "method": {"max_ratio": 2.5}}}],
    "seeds": [1, 2],
    "baseline": {"method": "none"},
}
TUNE = {"learning_rate": ["1e-3", 0.01], "seeds": [1]}  # YAML has 1e-3 as text
RESUMING = "args.resume_from_checkpoint"


def load(folder: Path, text: str = RESUMING, **keys) -> Study:
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(text)
    content = {key: value for key, value in (STUDY | keys).items() if value is not None}
    (folder / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    study = load_study(folder / "study.yaml")
    check_methods(study)
    return study


def job(study: Study, name: str, target: Path):
    run = {run.name: run for run in study.possible_runs()}[name]
    return make_job(study, run, target, train="train.py")


def test_a_run_is_the_script_under_hf_tempbalance_run_with_its_flags_seed_and_folder(tmp_path):
    made = job(load(tmp_path), "16--none--seed2", tmp_path / "out")
    assert made.arguments == [
        *("-m", "hf_tempbalance.run", "--preset", "none", str(tmp_path / "mine.py")),
        *("--fp16", "false", "--betas", "0.9", "0.99", "--extra", '{"a": 1}', "--shift=-1", "--width", "16"),
        *("--seed", "2", "--output_dir", str(tmp_path / "out")),
    ]
    assert made.environment == {} and list((tmp_path / "out").iterdir()) == []


def test_settings_of_a_method_go_into_a_file_and_a_cell_changes_flags_and_settings(tmp_path):
    made = job(load(tmp_path), "8--shuffled--seed1", tmp_path / "out")
    file = tmp_path / "out" / SETTINGS_NAME
    assert made.arguments[2:7] == ["--preset", "llr", "--config", str(file), str(tmp_path / "mine.py")]
    assert yaml.safe_load(file.read_text()) == {"control": "shuffled", "max_ratio": 2.5}
    assert made.arguments[made.arguments.index("--decay") + 1] == "0.1"
    other = job(load(tmp_path), "16--shuffled--seed1", tmp_path / "other")
    assert "--decay" not in other.arguments
    assert yaml.safe_load((tmp_path / "other" / SETTINGS_NAME).read_text()) == {"control": "shuffled"}


def test_plain_training_can_have_flags_of_its_own(tmp_path):
    made = job(load(tmp_path), "8--embedding--seed1", tmp_path / "out")
    assert made.arguments[3] == "none" and made.arguments[made.arguments.index("--embedding_rate") + 1] == "3"


def test_a_token_is_a_variable_and_stands_on_no_command_line_and_in_no_file(tmp_path):
    study = load(tmp_path, train={"hub_token": "hf_secret", "wandb_api_key": "key_secret"})
    claim(study, tmp_path / "folder")
    made = job(study, "8--none--seed1", tmp_path / "folder" / "run")
    assert made.environment == {"HF_TOKEN": "hf_secret", "WANDB_API_KEY": "key_secret"}
    assert not any("_secret" in argument or "hub_token" in argument for argument in made.arguments)
    files = [path for path in (tmp_path / "folder").rglob("*") if path.is_file()]
    assert files and not any("secret" in path.read_text() for path in files)


def shuffled(**settings) -> dict:
    return {"methods": STUDY["methods"] | {"shuffled": settings}}


def left_by_a_kill(target: Path) -> None:
    (target / "checkpoint-5").mkdir(parents=True)
    (target / "checkpoint-5" / STATE_NAME).write_text(json.dumps({"global_step": 5, "log_history": []}))
    (target / "log.txt").write_text("what it said")
    write_results(target, {"status": "failed", "error": "old", "seconds": 5.0})


def test_a_run_that_was_cut_off_goes_on_from_its_checkpoint(tmp_path):
    left_by_a_kill(tmp_path / "out")
    made = job(load(tmp_path), "8--none--seed1", tmp_path / "out")
    assert made.arguments[-2:] == ["--resume_from_checkpoint", str(tmp_path / "out" / "checkpoint-5")]
    assert read_results(tmp_path / "out") == {"status": "running", "seconds": 5.0, "epochs": []}


def test_a_script_that_can_not_resume_starts_again_in_a_folder_without_remains(tmp_path):
    left_by_a_kill(tmp_path / "out")
    made = job(load(tmp_path, text="Trainer().train()"), "8--none--seed1", tmp_path / "out")
    assert "--resume_from_checkpoint" not in made.arguments
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["log.txt"]


def test_the_study_is_the_same_when_it_is_read_from_its_folder(tmp_path):
    study = load(tmp_path, tune=TUNE)
    claim(study, tmp_path / "out")
    claim(load(tmp_path, tune=TUNE), tmp_path / "out")  # again
    kept = read_study(tmp_path / "out")
    assert kept.version == study.version and kept.metric == study.metric
    assert [run.name for run in kept.possible_runs()] == [run.name for run in study.possible_runs()]
    assert str(tmp_path) not in (tmp_path / "out" / "study.json").read_text()
    with pytest.raises(ValueError, match="differ in metric"):
        claim(load(tmp_path, tune=TUNE, metric="eval_loss"), tmp_path / "out")


def test_methods_need_no_list_where_they_are_presets(tmp_path):
    study = load(tmp_path, axes={"method": ["none", "farms"]}, methods=None, cells=None)
    assert study.options_of({"method": "farms"})[METHOD] == {"preset": "farms"}
    axes = {"method": {"plain": "none", "ours": "llr"}}
    named = load(tmp_path, axes=axes, methods=None, cells=None, baseline={"method": "plain"})
    assert [named.options_of(cell)[METHOD]["preset"] for cell in named.combinations()] == ["none", "llr"]


@pytest.mark.parametrize(
    ("keys", "is_larger_better"),
    [
        ({"metric": "eval_accuracy"}, (True, True)),
        ({"metric": {"choose": "eval_loss", "report": "test_f1"}}, (False, True)),
        ({"metric": "eval_rouge", "maximize": True}, (True, True)),
        ({"metric": {"choose": "eval_loss", "report": "x"}, "maximize": {"report": False}}, (False, False)),
        (
            {"metric": "eval_x", "train": {"metric_for_best_model": "x", "greater_is_better": True}},
            (True, True),
        ),
    ],
)
def test_the_direction_is_said_or_in_the_name_or_in_the_flags(tmp_path, keys, is_larger_better):
    metric = load(tmp_path, **keys).metric
    assert (metric.maximize_choose, metric.maximize_report) == is_larger_better


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"script": "nowhere.py"}, "script: nowhere.py is neither beside the study file nor in the working directory"),
        ({"metric": None}, "metric is missing"),
        ({"metric": {"report": "eval_loss"}}, "must be a name such as eval_accuracy, or {choose: eval_accuracy"),
        ({"metric": "eval_rouge"}, "whether a larger eval_rouge is better is not in its name. Say maximize: true or"),
        ({"metric": "eval_power"}, "whether a larger eval_power is better is not in its name"),
        ({"maximize": True}, "maximize: true can't hold for both eval_loss and test_accuracy"),
        ({"metric": "eval_x", "maximize": "yes!"}, "maximize: 'yes!' must be true, false, or both"),
        ({"script": None}, "metric belongs to a study that names a script"),
        ({"train": {"seed": 3}}, "seed is set by the study itself. Seeds stand under seeds."),
        ({"tune": {"output_dir": [1, 2], "seeds": [1]}}, "output_dir is set by the study itself"),
        ({"train": {"--lr": 3}}, "'--lr' is no name of a flag"),
        ({"train": {"options": {"api_key": "x"}}}, "options has a secret inside"),
        ({"train": {"method": 3}}, "train: method: 3 must be none, the name of a preset, or a mapping"),
        (
            {"axes": {"method": ["none", "lrr"]}, "cells": None},
            "method 'lrr' is neither in methods nor a preset. Did you mean 'llr'?",
        ),
        (shuffled(preset="lrr"), "unknown preset 'lrr'. Did you mean 'llr'?"),
        (shuffled(max_rato=2), "8--shuffled: unknown option 'max_rato'. Did you mean 'max_ratio'?"),
        (shuffled(max_ratio="much") | {"cells": None}, "max_ratio='much' is not allowed"),
        (
            shuffled(preset="none", fit="median") | {"cells": None},
            "8--shuffled: --preset none is plain training and has no settings",
        ),
        (
            {"axes": {"width": [8, 16]}, "baseline": {"width": 8}, "cells": None},
            "8 has no method. Add an axis method, such as method: [none, tempbalance]",
        ),
        (
            {"axes": STUDY["axes"] | {"ratio": {"a": {"method": {"control": "frozen"}}, "b": {}}}},
            "both set 'method.control'",
        ),
    ],
)
def test_a_mistake_in_the_file_is_named_with_what_is_allowed(tmp_path, keys, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011  the message is compared as text
        load(tmp_path, **keys)
    assert message in str(error.value)


def results(seed: int, *, loss: float, accuracy: float | None = 0.5, **keys) -> dict:
    epochs = [
        {"epoch": 1.0, "step": 5, "eval_loss": 1.0, "eval_runtime": 0.1},
        {"epoch": 2.0, "step": 10, "eval_loss": loss},
    ]
    machine = {"device": "cpu", "threads": 1, "versions": {"torch": "2"}, "commit": None, "dirty": None, "seed": seed}
    arguments = {"learning_rate": 0.1, "adam_beta1": 0.9, "max_steps": 3, "output_dir": "/home/me/x"}
    return {
        "status": "finished",
        "config": {"script": "/home/me/mine.py", "settings": None},
        "arguments": arguments | {"seed": seed},
        "environment": machine,
        "seconds": 60.0,
        "tempbalance_seconds": 1.0,
        "epochs": epochs,
        "predictions": [] if accuracy is None else [{"test_accuracy": accuracy, "test_runtime": 0.2}],
    } | keys


def tuned_in(folder: Path) -> Study:
    """A study with trials: the smaller rate has the smaller loss on held-out data, the larger one the better test."""
    study = load(folder, tune=TUNE, axes={"method": ["none", "tempbalance"]}, cells=None)
    claim(study, folder / "out")
    for run in study.trials():
        is_small = run.tuned == 0.001
        found = results(run.seed, loss=0.2 if is_small else 0.4, accuracy=0.6 if is_small else 0.9)
        write_results(folder / "out" / RUNS_NAME / run.name, found)
    return study


def test_the_value_is_chosen_on_one_metric_and_another_is_reported(tmp_path):
    study = tuned_in(tmp_path)
    folder = tmp_path / "out"
    assert choose(study, folder, has_ended=lambda run: has_ended(folder, run)) == {
        ("none",): 0.001,
        ("tempbalance",): 0.001,
    }
    found = collect(folder)
    assert [(m.last, m.held_out) for m in found.of({"method": "none"})] == [(0.6, 0.2)]


def test_a_trial_that_diverged_does_not_win(tmp_path):
    study = tuned_in(tmp_path)
    folder = tmp_path / "out"
    write_results(folder / RUNS_NAME / study.trials()[0].name, results(1, loss=float("nan")))
    assert choose(study, folder, has_ended=lambda run: has_ended(folder, run))[("none",)] == 0.01


def test_of_the_best_checkpoint_the_value_of_its_evaluation_counts(tmp_path):
    study = load(tmp_path, metric="eval_loss", axes={"method": ["none"]}, cells=None)
    claim(study, tmp_path / "out")
    kept = results(1, loss=3.0, best_checkpoint="/x/checkpoint-5")
    kept["arguments"]["load_best_model_at_end"] = True
    write_results(tmp_path / "out" / RUNS_NAME / "none--seed1", kept)
    (found,) = collect(tmp_path / "out").finals
    assert (found.last, found.best, found.curve) == (1.0, 1.0, [(1.0, 1.0), (2.0, 3.0)])


@pytest.mark.parametrize(
    ("kept", "reason"),
    [
        (results(1, loss=1.0), None),
        (results(2, loss=1.0), "its seed is 2 and not 1. Does mine.py take --seed?"),
        (results(1, loss=1.0, accuracy=None), "it has no test_accuracy; it has eval_loss"),
        (results(1, loss=1.0, accuracy=None, epochs=[]), "it has no test_accuracy, and no evaluation at all"),
    ],
)
def test_results_that_can_not_count_say_why(tmp_path, kept, reason):
    study = load(tmp_path, axes={"method": ["none"]}, cells=None)
    found = why_not_counted(study, study.finals({})[0], kept)
    assert found == reason or reason in found


def test_a_run_that_ended_without_results_is_recorded_with_the_last_line_of_its_log(tmp_path):
    study = load(tmp_path, axes={"method": ["none"]}, cells=None, seeds=[1, 2, 3])
    runs = run, other, left = study.finals({})
    write_results(tmp_path / RUNS_NAME / left.name, {"status": "running"})
    for code, one in zip((0, 2, 0), runs, strict=True):
        target = tmp_path / RUNS_NAME / one.name
        target.mkdir(parents=True, exist_ok=True)
        (target / "log.txt").write_text("mine.py: error: no such flag\nhf-tempbalance run: mine.py made no Trainer\n")
        record_end(tmp_path, one, code, "")
    errors = [read_results(tmp_path / RUNS_NAME / one.name)["error"] for one in runs]
    assert errors == [
        "it ended without results.json in its folder: hf-tempbalance run: mine.py made no Trainer",
        "exit code 2: mine.py: error: no such flag",
        "exit code 0 before its script was over: hf-tempbalance run: mine.py made no Trainer",
    ]


def test_minutes_are_those_of_finished_runs_of_the_cell_and_progress_counts_runs_without_epochs(tmp_path):
    study = tuned_in(tmp_path)
    (tmp_path / "out" / RUNS_NAME / study.trials()[2].name / RESULTS_NAME).unlink()
    (tmp_path / "out" / RUNS_NAME / study.trials()[3].name / RESULTS_NAME).unlink()
    assert from_finished(study.possible_runs(), tmp_path / "out") == {("none",): 60.0}
    assert epochs_of(study) is None
    assert set(epochs_of(load(tmp_path, train={"num_train_epochs": 3})).values()) == {3.0}
    assert epochs_of(load(tmp_path, train={"num_train_epochs": 3, "max_steps": 7})) is None


def test_what_is_published_is_small_counts_as_finished_and_has_the_same_results(tmp_path):
    study = tuned_in(tmp_path)
    log = [{"epoch": n / 100, "step": n, "loss": 1.0} for n in range(1000)]
    for run in study.trials():
        path = tmp_path / "out" / RUNS_NAME / run.name
        found = read_results(path)
        write_results(path, found | {"epochs": log + found["epochs"]})
    publish(tmp_path / "out", tmp_path / "kept")
    files = sorted((tmp_path / "kept" / RUNS_NAME).rglob(RESULTS_NAME))
    assert len(files) == 4 and max(path.stat().st_size for path in files) < 4000
    text = files[0].read_text()
    assert "/home/me" not in text and "_runtime" not in text and "adam_beta1" not in text and "max_steps" in text
    assert all(is_finished(tmp_path / "kept", run) for run in study.trials())
    kept, whole = collect(tmp_path / "kept"), collect(tmp_path / "out")
    assert kept.chosen == whole.chosen
    assert [(m.last, m.held_out, m.curve, m.seconds) for m in kept.trials] == [
        (m.last, m.held_out, m.curve, m.seconds) for m in whole.trials
    ]


def test_a_trial_that_failed_is_published_as_well_so_that_its_cell_has_its_value(tmp_path):
    study = tuned_in(tmp_path)
    bad = study.trials()[0].name
    failed = {"status": "failed", "error": "RuntimeError: can't read /home/me/data"}
    write_results(tmp_path / "out" / RUNS_NAME / bad, failed)
    publish(tmp_path / "out", tmp_path / "kept")
    kept, whole = collect(tmp_path / "kept"), collect(tmp_path / "out")
    assert kept.chosen == whole.chosen and kept.chosen[("none",)] == 0.01
    assert kept.left_out[bad] == "it has not finished (status: failed: RuntimeError: can't read data)"
    assert kept.left_out.keys() == whole.left_out.keys()
    write_results(tmp_path / "out" / RUNS_NAME / study.trials()[1].name, failed)
    reason = collect(tmp_path / "out").left_out["none"]
    assert reason == "its learning_rate can't be chosen: no value has only trials that finished"


def test_a_script_that_takes_no_seed_stops_the_study_at_its_first_run(tmp_path):
    (tmp_path / "mine.py").write_text("import argparse\nargparse.ArgumentParser().parse_args()\n")
    content = STUDY | {"train": {}, "axes": {"method": ["none"]}, "methods": {}, "cells": []}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    study, folder = load_study(tmp_path / "mine.yaml"), tmp_path / "out"
    claim(study, folder)

    runner = Runner(study, folder, partial(make_job, study, train="train.py"), LocalExecutor(fresh=True))
    with pytest.raises(ValueError, match=r"refused its flags: .*--seed 1.* must take --seed, --output_dir"):
        runner.run(Quiet())
    assert [path.name for path in (folder / RUNS_NAME).iterdir()] == ["none--seed1"]
