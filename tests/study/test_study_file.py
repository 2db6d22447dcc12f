"""A study file that is wrong in any way is one sentence; names stay in their folder, secrets are not kept."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest
import yaml
from synthetic_study import Quiet

from hf_tempbalance.files import masked
from hf_tempbalance.runs.results import RESULTS_NAME, write_results
from hf_tempbalance.study.command import make_job
from hf_tempbalance.study.executors.local import LocalExecutor
from hf_tempbalance.study.publish import publish, without_paths
from hf_tempbalance.study.runner import RUNS_NAME, Runner, claim
from hf_tempbalance.study.study_file import STUDY_NAME, load_study, read_study


STUDY = {
    "name": "a",
    "train": {"dataset": "digits", "num_train_epochs": 1},
    "axes": {"architecture": ["resnet18_cifar", "vgg16_cifar"], "method": ["sgd", "snr"]},
    "methods": {"sgd": {}, "snr": {"optimizer": "sgd_snr"}},
    "cells": [{"method": "snr", "set": {"width_factor": 0.5}}],
    "seeds": [1, 2],
    "tune": {"learning_rate": [0.1, 0.2], "seeds": [1]},
    "baseline": {"method": "sgd"},
}
TOKEN = "hf_aVerySecretToken"  # noqa: S105
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
TEXTS = {
    "empty": "",
    "a list": "- 1",
    "text": "words",
    "a number": "3",
    "a tab": "a:\n\t- b",
    "deep lists": "[" * 100_000,
    "deep mappings": "{a: " * 5_000,
    "python": "!!python/object/apply:os.system ['true']",
    "a date that is none": "name: 2024-99-99",
    "a date": "name: 2024-01-01",
    "a set": "seeds: !!set {1, 2}",
    "bytes": "name: !!binary aGVsbG8=",
    "a list as a key": "? [a]\n: 1",
    "an alias of itself": "a: &a [*a]",
    "a bomb": BOMB,
    "a half": '"\\ud800": 1',
    "control characters": "name: \x1b",
}
WRONG = [None, True, 0, 3, -1, 1.5, float("nan"), 10**400, "", "x", "..", "/", [], [None], [[1]], [{}], {}, {1: 2}]
FIELDS = ["name", "description", "train", "axes", "methods", "cells", "seeds", "tune", "baseline"]
NAMES = ["", " ", ".", "..", "/tmp/x", "../x", "a/b", "a\\b", "a\0b", "a\nb", "\x1b[2J", "\ud800", "\u202ea", "-x"]
NAMES += ["x" * 300, 3, None, True, ["a"], {"a": 1}]


def file_of(tmp_path: Path, content: dict, name: str = "study.yaml") -> Path:
    path = tmp_path / name
    path.write_text(yaml.safe_dump(content))
    return path


def refusal(path: Path, *changes: str) -> str:
    with pytest.raises(ValueError) as error:
        load_study(path, changes)
    return str(error.value)


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_what_is_no_study_is_one_sentence_with_the_file_s_name(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    assert str(path) in refusal(path)


def test_a_file_that_is_not_there_or_is_no_file_is_a_sentence(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    for path in (tmp_path / "gone.yaml", tmp_path, tmp_path / "binary.yaml"):
        assert str(path) in refusal(path)


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_of_another_kind_is_read_or_named(tmp_path, field):
    inner = [None, *STUDY[field]] if isinstance(STUDY.get(field), dict) else [None]
    for wrong in WRONG:
        for key in inner:
            value = wrong if key is None else STUDY[field] | {key: wrong}
            path = file_of(tmp_path, STUDY | {field: value})
            try:
                study = load_study(path)
            except ValueError as error:
                assert str(path) in str(error), (field, key, wrong)
            else:
                assert study.version and study.possible_runs()


@pytest.mark.parametrize("name", NAMES, ids=map(ascii, range(len(NAMES))))
def test_a_name_that_can_not_be_a_folder_s_is_refused(tmp_path, name):
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(STUDY | {"name": name}))  # JSON is YAML, and writes every character
    assert "name" in refusal(path) or "is not YAML" in refusal(path)


@pytest.mark.parametrize("label", ["", ".", "..", "a\\b", "a/b", "a\nb", "\x1b[2J", "x" * 300])
def test_a_label_that_can_not_be_a_folder_s_is_refused(tmp_path, label):
    axes = {"method": ["sgd"], "width": {label: {"width_factor": 1.0}}}
    assert "folder" in refusal(file_of(tmp_path, STUDY | {"axes": axes, "cells": []}))


def test_cells_that_would_share_a_folder_are_refused(tmp_path):
    axes = {"method": {"sgd": {}, "sgd--a": {}}, "width": {"b": {}, "a--b": {}}}
    assert "would share the folder" in refusal(file_of(tmp_path, STUDY | {"axes": axes, "cells": []}))


@pytest.mark.parametrize(
    "change", ["", "=", "seeds", "=3", "seeds=x", "seeds=[", "a: b=[", "seeds={}", "x=" + "[" * 9999]
)
def test_a_change_that_is_none_is_refused(tmp_path, change):
    assert refusal(file_of(tmp_path, STUDY), change)


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "{}", "[" * 100_000, '{"version": 3, "study": {}}'])
def test_a_damaged_study_json_is_one_sentence(tmp_path, text):
    (tmp_path / STUDY_NAME).write_text(text)
    with pytest.raises(ValueError, match=STUDY_NAME):
        read_study(tmp_path)
    with pytest.raises(ValueError, match=STUDY_NAME):
        claim(load_study(file_of(tmp_path, STUDY)), tmp_path)


def test_every_field_of_study_json_is_checked(tmp_path):
    claim(load_study(file_of(tmp_path, STUDY)), tmp_path / "out")
    path = tmp_path / "out" / STUDY_NAME
    kept = json.loads(path.read_text())
    for field in kept["study"]:
        for wrong in WRONG:
            path.write_text(json.dumps(kept | {"study": kept["study"] | {field: wrong}}))
            try:
                assert read_study(path.parent).possible_runs()
            except ValueError as error:
                assert STUDY_NAME in str(error), (field, wrong)


# ---- secrets and paths


@pytest.mark.parametrize("key", ["hub_token", "token", "WANDB_API_KEY", "apikey", "db_password", "aws_access_key"])
def test_what_a_key_calls_a_secret_is_masked_at_every_depth(key):
    assert TOKEN not in json.dumps(masked({"a": [{key: TOKEN}], key: {"x": TOKEN}}))
    assert masked({"seed": 1, key: None, "tokens": 3}) == {"seed": 1, key: None, "tokens": 3}


def test_a_token_reaches_the_run_and_no_file(tmp_path):
    """A script in the place of the training script tells what it got."""
    script = tmp_path / "train.py"
    script.write_text(
        "import json, os, pathlib, sys\n"
        "folder = pathlib.Path(sys.argv[sys.argv.index('--config') + 1]).parent\n"
        "result = {'status': 'finished', 'reached': os.environ.get('HF_TOKEN', '')[::-1]}\n"
        "result |= {'environment': {'seed': 1}, 'epochs': [{'epoch': 1, 'eval_accuracy': 0.5}]}\n"
        "(folder / 'results.json').write_text(json.dumps(result))\n"
    )
    content = STUDY | {"train": {"hub_token": TOKEN}, "axes": {"method": ["sgd"]}, "cells": [], "seeds": [1]}
    study = load_study(file_of(tmp_path, {key: value for key, value in content.items() if key != "tune"}))
    folder = tmp_path / "out"
    claim(study, folder)

    assert (
        Runner(study, folder, partial(make_job, study, train=str(script)), LocalExecutor(fresh=True))
        .run(Quiet())
        .finished
        == 1
    )
    result = json.loads((folder / RUNS_NAME / "sgd--seed1" / RESULTS_NAME).read_text())
    assert result["reached"][::-1] == TOKEN
    for path in folder.rglob("*"):
        assert not path.is_file() or TOKEN not in path.read_text(), path
    assert read_study(folder).version == study.version  # another token is the same study


def test_published_files_have_no_token_and_no_path_of_the_machine(tmp_path):
    home = str(tmp_path)
    train = {
        "hub_token": TOKEN,
        "dataset": f"{home}/my images",
        "model_args": json.dumps({"weights": f"{home}/w/x.pt"}),
    }
    content = {key: value for key, value in STUDY.items() if key not in ("tune", "cells")}
    study = load_study(file_of(tmp_path, content | {"train": train, "axes": {"method": ["sgd"]}, "seeds": [1]}))
    source, target = tmp_path / "out", tmp_path / "public"
    claim(study, source)
    machine = {"device": "cpu", "threads": 1, "commit": None, "dirty": None, "versions": {}, "seed": 1}
    results = {
        "status": "finished",
        "config": train | {"settings": {}},
        "arguments": {"output_dir": f"{home}/out", "hub_token": TOKEN, "logging_dir": "~/logs"},
        "environment": machine,
        "seconds": 1.0,
        "tempbalance_seconds": 0.0,
        "layers": [],
        "epochs": [{"epoch": 1.0, "step": 1, "eval_accuracy": 0.5}],
        "best_checkpoint": f"{home}/out/checkpoint-1",
        "last_checkpoint": f"{home}/out/checkpoint-1",
    }
    write_results(source / RUNS_NAME / "sgd--seed1", results)
    publish(source, target)
    publish(source, target)  # again: it is the same study
    files = [path for path in target.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {STUDY_NAME, RESULTS_NAME}
    for path in files:
        text = path.read_text()
        assert TOKEN not in text and home not in text and "~/" not in text and "/tmp" not in text, path
    assert read_study(target).version == study.version
    assert "checkpoint-1" in (target / RUNS_NAME / "sgd--seed1" / RESULTS_NAME).read_text()


@pytest.mark.parametrize(
    ("value", "public"),
    [
        ("/home/me/my images/", "my images"),
        ("~/images", "images"),
        ("C:\\Users\\me\\images", "images"),
        ("file:///home/me/x", "x"),
        ("see file:///home/me/x.png", "see x.png"),
        ("PYTHONPATH=/home/me/a:/home/me/b", "PYTHONPATH=a:b"),
        ("can't read /home/me/x.png: gone", "can't read x.png: gone"),
        ("owner/name", "owner/name"),
        ("https://huggingface.co/owner/name", "https://huggingface.co/owner/name"),
        ("runs/studies/a", "runs/studies/a"),
        (0.5, 0.5),
    ],
)
def test_a_path_is_cut_to_its_last_part_and_an_address_stays(value, public):
    assert without_paths({"a": [value]}) == {"a": [public]}


def test_a_run_that_was_interrupted_is_not_finished_and_its_value_is_not_chosen(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import json, pathlib, sys\n"
        "folder = pathlib.Path(sys.argv[sys.argv.index('--config') + 1]).parent\n"
        "(folder / 'results.json').write_text(json.dumps({'status': 'interrupted'}))\n"
        "sys.exit(130)\n"
    )
    content = STUDY | {"axes": {"method": ["sgd"]}, "cells": [], "seeds": [1, 2]}
    study = load_study(file_of(tmp_path, content))
    claim(study, tmp_path / "out")

    outcome = Runner(
        study, tmp_path / "out", partial(make_job, study, train=str(script)), LocalExecutor(2, fresh=True)
    ).run(Quiet())
    assert outcome.finished == 0 and set(outcome.failed.values()) == {"interrupted"}
    assert sorted(os.listdir(tmp_path / "out" / RUNS_NAME)) == [f"sgd--learning_rate={r}--seed1" for r in (0.1, 0.2)]
