"""A study file becomes runs, or one sentence that says what is wrong in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from synthetic_study import fill, study_in

from hf_tempbalance.study.collect import collect
from hf_tempbalance.study.plan import matching
from hf_tempbalance.study.runner import is_finished
from hf_tempbalance.study.study_file import load_study, read_study


STUDIES = Path(__file__).resolve().parents[2] / "configs" / "studies"
STUDY = {
    "name": "a",
    "train": {"dataset": "digits", "num_train_epochs": 2, "optimizer_args": {"momentum": 0.9}},
    "axes": {"architecture": ["resnet18_cifar", "vgg16_cifar"], "method": ["sgd", "snr"]},
    "methods": {"sgd": {}, "snr": {"optimizer": "sgd_snr"}},
    "cells": [{"method": "snr", "architecture": ["vgg16_cifar"], "set": {"optimizer_args": {"nesterov": True}}}],
    "seeds": [1, 2],
    "baseline": {"method": "sgd"},
}
TUNE = {"learning_rate": [0.1, 0.2], "seeds": [1]}


def load(tmp_path, *changes, **keys):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY | keys))
    return load_study(path, changes)


def test_every_label_of_every_axis_with_every_seed_is_a_run(tmp_path):
    study = load(tmp_path)
    names = [run.name for run in study.finals({})]
    assert len(names) == 8 and len(set(names)) == 8
    assert names[0] == "resnet18_cifar--sgd--seed1" and names[-1] == "vgg16_cifar--snr--seed2"
    assert study.trials() == []


def test_options_are_those_of_the_study_then_the_axes_then_the_cell_and_mappings_are_merged(tmp_path):
    study = load(tmp_path)
    options = study.run({"architecture": "vgg16_cifar", "method": "snr"}, 2).options
    assert options == {
        "dataset": "digits",
        "num_train_epochs": 2,
        "optimizer_args": {"momentum": 0.9, "nesterov": True},
        "architecture": "vgg16_cifar",
        "optimizer": "sgd_snr",
        "seed": 2,
    }
    other = study.options_of({"architecture": "resnet18_cifar", "method": "snr"})
    assert other["optimizer_args"] == {"momentum": 0.9}


def test_a_tuned_study_runs_every_value_and_then_the_chosen_one(tmp_path):
    study = load(tmp_path, tune=TUNE)
    trials = [run.name for run in study.trials()]
    assert len(trials) == 8 and trials[1] == "resnet18_cifar--sgd--learning_rate=0.2--seed1"
    chosen = {("resnet18_cifar", "sgd"): 0.2}
    finals = study.finals(chosen)
    assert [run.name for run in finals] == [f"resnet18_cifar--sgd--learning_rate=0.2--seed{seed}" for seed in (1, 2)]
    assert finals[0].options["learning_rate"] == 0.2
    assert {run.name for run in (*study.trials(), *finals)} <= {run.name for run in study.possible_runs()}


def test_the_version_is_that_of_what_is_run_and_not_of_how_it_is_described(tmp_path):
    study = load(tmp_path)
    assert load(tmp_path, description="words").version == study.version
    for changed in (
        load(tmp_path, "num_train_epochs=3"),
        load(tmp_path, "seeds=[1]"),
        load(tmp_path, methods={"sgd": {"momentum": 0}, "snr": {}}),
        load(tmp_path, tune=TUNE),
    ):
        assert changed.version != study.version


def test_set_changes_an_option_or_the_seeds(tmp_path):
    study = load(tmp_path, "num_train_epochs=7", "seeds=[5]", "learning_rate=1.0e-2")
    assert study.seeds == (5,) and study.train["num_train_epochs"] == 7 and study.train["learning_rate"] == 0.01


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"axis": {}}, "unknown key 'axis'. Did you mean 'axes'?"),
        ({"seeds": []}, "seeds is missing"),
        ({"seeds": [1, 2, 1]}, "seeds has 1 twice"),
        ({"seeds": [1.5]}, "must be a list of whole numbers"),
        ({"axes": {"method": ["sgd", "sgd_snr"]}}, "method 'sgd_snr' does not exist. Did you mean 'snr'?"),
        ({"axes": {"method": ["sgd", "sgd"]}}, "axis 'method' has a value twice"),
        ({"axes": {"method": "sgd"}}, "axis 'method' must be a list of values or a mapping"),
        ({"axes": {"method": ["sgd"], "width": {"a/b": {}}}, "cells": []}, "'a/b' has a slash"),
        (
            {"axes": {"method": ["sgd", "snr"], "other": {"x": {"optimizer": "lars"}}}, "cells": []},
            "the axes 'method' and 'other' both set 'optimizer'",
        ),
        ({"baseline": {"methods": "sgd"}}, "baseline: axis 'methods' does not exist. Did you mean 'method'?"),
        ({"baseline": {"method": "sdg"}}, "axis 'method' has no 'sdg'. Did you mean 'sgd'?"),
        ({"baseline": {"method": "sgd", "architecture": "vgg16_cifar"}}, "baseline must name one axis"),
        ({"cells": [{"method": "sgd"}]}, "must have labels of axes and 'set'"),
        ({"cells": [{"method": "adam", "set": {}}]}, "cells: axis 'method' has no 'adam'"),
        ({"tune": {"learning_rate": [0.1]}}, "tune must have one option with a list of values, and seeds"),
        ({"tune": {"learning_rate": [0.1], "seeds": [3, 3]}}, "tune.seeds has 3 twice"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_what_is_allowed(tmp_path, keys, message):
    with pytest.raises(ValueError, match="study.yaml: ") as error:
        load(tmp_path, **keys)
    assert message in str(error.value)


def test_a_pattern_that_matches_nothing_is_a_mistake(tmp_path):
    runs = load(tmp_path).finals({})
    assert [run.name for run in matching(runs, "vgg16*--sgd*")] == [f"vgg16_cifar--sgd--seed{seed}" for seed in (1, 2)]
    with pytest.raises(ValueError, match=r"--only 'wrn\*' matches no run. Names look like resnet18_cifar--sgd--seed1"):
        matching(runs, "wrn*")


# cell -> rate of SGD; rate and coefficient of SNR; rate and ratios of TempBalance; rate and coefficient of both
PAPER = {
    "cifar100_resnet18": (0.1, (0.1, 0.01), (0.1, 0.5, 1.5), (0.1, 0.001)),
    "cifar100_resnet34": (0.05, (0.1, 0.015), (0.1, 0.5, 1.5), (0.1, 0.005)),
    "cifar100_vgg16": (0.05, (0.05, 0.005), (0.05, 0.5, 1.5), (0.05, 0.005)),
    "cifar100_vgg19": (0.05, (0.05, 0.01), (0.05, 0.5, 1.5), (0.05, 0.01)),
    "tinyimagenet_resnet18": (0.1, (0.1, 0.01), (0.1, 0.6, 1.4), (0.1, 0.001)),
    "tinyimagenet_resnet34": (0.1, (0.1, 0.01), (0.1, 0.6, 1.4), (0.1, 0.001)),
    "tinyimagenet_wrn16_8": (0.1, (0.1, 0.0001), (0.1, 0.6, 1.4), (0.1, 0.0001)),
    "tinyimagenet_wrn28_6": (0.05, (0.1, 0.0001), (0.1, 0.6, 1.4), (0.1, 0.0001)),
    "cifar10_resnet18": (0.1, (0.1, 0.001), (0.1, 0.5, 1.5), (0.1, 0.001)),
    "cifar10_vgg16": (0.1, (0.05, 0.005), (0.05, 0.5, 1.5), (0.05, 0.005)),
    "svhn_resnet18": (0.1, (0.1, 0.005), (0.1, 0.5, 1.5), (0.1, 0.015)),
    "svhn_vgg16": (0.05, (0.05, 0.01), (0.05, 0.5, 1.5), (0.05, 0.005)),
}


def test_the_main_study_has_each_cell_of_the_paper_with_its_own_settings():
    study = load_study(STUDIES / "paper_main.yaml")
    assert list(study.axes["cell"]) == list(PAPER) and study.seeds == (43, 37, 13, 51, 71)
    for cell, (sgd, snr, (rate, low, high), both) in PAPER.items():
        options = {method: study.options_of({"cell": cell, "method": method}) for method in study.axes["method"]}
        assert options["sgd"]["learning_rate"] == sgd and options["sgd"]["tempbalance"] is False
        tempbalance = options["tempbalance"]
        assert (tempbalance["learning_rate"], tempbalance["min_ratio"], tempbalance["max_ratio"]) == (
            rate,
            low,
            high,
        )
        for method, (rate, coefficient) in {"snr": snr, "tempbalance_snr": both}.items():
            arguments = {"momentum": 0.9, "spectral_norm_regularization": coefficient}
            assert (options[method]["learning_rate"], options[method]["optimizer_args"]) == (rate, arguments)
        assert (options["tempbalance_snr"]["min_ratio"], options["tempbalance_snr"]["max_ratio"]) == (0.6, 1.4)
        single = yaml.safe_load((STUDIES.parent / f"{cell}_tempbalance.yaml").read_text())
        assert {key: single[key] for key in ("dataset", "architecture")} == {
            key: options["sgd"][key] for key in ("dataset", "architecture")
        }


def test_the_ablations_vary_one_setting_at_a_time():
    study = load_study(STUDIES / "paper_ablations.yaml")
    for architecture, rate in {"resnet34_cifar": 0.1, "vgg19_cifar": 0.05}.items():
        plain = study.options_of({"architecture": architecture, "variant": "sgd"})
        assert plain["learning_rate"] == rate
        for variant in study.axes["variant"]:
            options = study.options_of({"architecture": architecture, "variant": variant})
            changed = {key for key in options if options[key] != plain.get(key)} - {"tempbalance"}
            assert len(changed) <= 1, variant


def test_a_folder_takes_a_study_that_has_grown_and_keeps_what_is_finished(tmp_path):
    folder, tune = tmp_path / "small", {"learning_rate": [0.1, 0.2], "seeds": [9]}
    fill(folder, study_in(folder, tune=tune), lambda run: 50.0, held_out=lambda run: 100 * run.tuned)
    wider = study_in(folder, tune=tune | {"learning_rate": [0.1, 0.2, 0.4]}, seeds=[1, 2, 3, 4])
    assert read_study(folder).version == wider.version
    missing = {run.name for run in wider.trials() if not is_finished(folder, run)}
    assert missing and all("learning_rate=0.4" in name for name in missing)
    assert collect(folder).study.tune.values == (0.1, 0.2, 0.4)


@pytest.mark.parametrize(
    "change", [{"seeds": [1, 2]}, {"train": {"num_train_epochs": 9}}, {"tune": {"learning_rate": [0.1], "seeds": [9]}}]
)
def test_a_folder_refuses_a_study_in_which_finished_runs_have_no_place(tmp_path, change):
    folder = tmp_path / "small"
    study_in(folder, tune={"learning_rate": [0.1, 0.2], "seeds": [9]})
    with pytest.raises(ValueError, match="they differ in .*, and not by more runs alone"):
        study_in(folder, **{"tune": {"learning_rate": [0.1, 0.2], "seeds": [9]}} | change)
