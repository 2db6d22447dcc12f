"""``hf-tempbalance report`` on files that are damaged in every way: a page or one sentence with the file's name."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from hf_tempbalance.cli import main as cli
from hf_tempbalance.runs.checkpoints import last_complete_checkpoint
from hf_tempbalance.runs.history import HISTORY_NAME
from hf_tempbalance.runs.results import RESULTS_NAME
from hf_tempbalance.runs.run import STATE_NAME


LAYER = {
    "name": "fc",
    "kind": "linear",
    "excluded_by": None,
    "num_eigenvalues": 8,
    "alpha": 3.0,
    "multiplier": 1.0,
    "D": 0.1,
    "stable_rank": 2.0,
}
LOOK = {"step": 1, "epoch": 1.0, "seconds": 0.1, "layers": [LAYER, LAYER | {"name": "head", "excluded_by": "last"}]}
ENTRY = {"epoch": 1.0, "step": 1, "loss": 1.0, "learning_rate": 0.1, "eval_accuracy": 0.5}
RESULTS = {
    "status": "finished",
    "config": {"tempbalance": True, "dataset": "digits", "architecture": "resnet18_cifar", "settings": {}},
    "arguments": {"learning_rate": 0.1, "lr_scheduler_type": "cosine", "seed": 1, "load_best_model_at_end": True},
    "environment": {"machine": "x", "versions": {"torch": "2"}},
    "seconds": 12.0,
    "tempbalance_seconds": 1.0,
    "epochs": [ENTRY, ENTRY | {"epoch": 2.0, "step": 2}],
    "best_checkpoint": "out/checkpoint-2",
    "layers": [{"name": "fc", "excluded_by": None, "alpha_start": 3.0, "alpha_end": 3.0}],
}
CALLBACK = {"args": {"config": {"fit": "median"}}, "attributes": {}}
STATE = {
    "global_step": 2,
    "log_history": RESULTS["epochs"],
    "best_model_checkpoint": "out/checkpoint-2",
    "stateful_callbacks": {"TempBalanceCallback": CALLBACK},
}
WHOLE = {RESULTS_NAME: RESULTS, HISTORY_NAME: LOOK, STATE_NAME: STATE}
WRONG: list[Any] = [None, True, -1, 0.5, float("nan"), float("inf"), 10**400, 1 << 70, "", "x", [], [1], {}, {"a": 1}]
TEXTS = {
    "empty": b"",
    "cut": b'{"status": "fini',
    "binary": bytes(range(256)),
    "another encoding": '{"status": "Ä"}\n'.encode("utf-16"),
    "deep lists": b"[" * 100_000 + b"\n",
    "deep objects": b'{"a":' * 100_000 + b"\n",
    "deep and whole": b'{"a":' * 900 + b"1" + b"}" * 900 + b"\n",
    "a long number": b'{"status": ' + b"9" * 5000 + b"}\n",
    "a list": b"[]\n",
    "null": b"null\n",
    "a number": b"3\n",
    "text": b'"x"\n',
    "nothing in it": b"{}\n",
    "zeros": bytes(64),
}


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The path of every field and item in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in [(*path, key), *places(item, (*path, key))]]


def changed(value: Any, place: tuple, new: Any) -> Any:
    """A copy with another value at a place; without the field where ``new`` is Ellipsis."""
    value = copy.deepcopy(value)
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    if new is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = new
    return value


def write(folder: Path, files: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        data = content if isinstance(content, bytes) else json.dumps(content).encode() + b"\n"
        (folder / name).write_bytes(data)
    return folder


def outcome(folder: Path, capsys) -> tuple[int, str]:
    capsys.readouterr()
    code = cli.main(["report", str(folder)])
    return code, capsys.readouterr().err


@pytest.fixture
def without_pictures(monkeypatch):
    """Pictures are drawn and not written: a page of every damage would take minutes."""
    from hf_tempbalance.runs import report_pictures

    monkeypatch.setattr(report_pictures, "inline_svg", lambda figure, title: "<svg></svg>")


def test_whole_files_are_a_page(tmp_path, capsys):
    assert outcome(write(tmp_path, WHOLE), capsys) == (0, "")


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_what_is_no_such_file_is_one_line(tmp_path, name, text, capsys, without_pictures):
    code, err = outcome(write(tmp_path, {name: text}), capsys)
    assert code == 1 and err.count("\n") == 1 and "unexpected" not in err, err
    assert str(tmp_path) in err


@pytest.mark.slow  # 1,300 damages
@pytest.mark.parametrize("name", WHOLE)
def test_a_field_that_is_missing_or_of_another_kind_is_left_out_or_named(tmp_path, name, capsys, without_pictures):
    for place in places(WHOLE[name]):
        for number, new in enumerate([..., *WRONG]):
            if isinstance(place[-1], int) and new is ...:
                continue
            folder = write(tmp_path / f"{number}", {name: changed(WHOLE[name], place, new)})
            code, err = outcome(folder, capsys)
            assert code == 0 or (err.count("\n") == 1 and name in err and "unexpected" not in err), (place, new, err)


@pytest.mark.parametrize(
    ("name", "place", "new", "message"),
    [
        (RESULTS_NAME, ("epochs", 1, "epoch"), "x", "results.json is damaged: epochs[1].epoch is 'x'; a number"),
        (RESULTS_NAME, ("seconds",), "x", "seconds is 'x'; a number of seconds belongs there"),
        (RESULTS_NAME, ("arguments",), 3, "arguments is 3; an object belongs there"),
        (HISTORY_NAME, ("layers", 1, "alpha"), "x", "line 1: layers[1].alpha is 'x'; a number or null"),
        (HISTORY_NAME, ("multiplier_mean",), "x", "line 1: multiplier_mean is 'x'; a number from 0 up"),
        (HISTORY_NAME, ("layers", 0, "kind"), ..., "line 1: layers[0].kind is None; text belongs there"),
        (STATE_NAME, ("log_history",), 3, "log_history is 3; a list belongs there"),
        (STATE_NAME, ("stateful_callbacks", "TempBalanceCallback", "args"), [], "args.config is None; an object"),
    ],
)
def test_the_sentence_names_file_and_field(tmp_path, name, place, new, message, capsys):
    code, err = outcome(write(tmp_path, {name: changed(WHOLE[name], place, new)}), capsys)
    assert code == 1 and name in err and message in err


def test_metrics_that_are_no_numbers_are_left_out(tmp_path, capsys):
    state = changed(STATE, ("log_history", 0, "eval_accuracy"), {"cat": 0.5})
    assert outcome(write(tmp_path, {STATE_NAME: state}), capsys) == (0, "")


def test_looks_of_other_layers_are_one_line(tmp_path, capsys):
    other = LOOK | {"layers": [LAYER | {"name": "other"}]}
    text = "".join(json.dumps(look) + "\n" for look in (LOOK, other)).encode()
    code, err = outcome(write(tmp_path, {HISTORY_NAME: text}), capsys)
    assert code == 1 and "line 2 has other layers than line 1" in err


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_a_checkpoint_whose_state_is_damaged_is_not_complete(tmp_path, text):
    write(tmp_path / "checkpoint-2", {STATE_NAME: text})
    write(tmp_path / "checkpoint-1", {STATE_NAME: STATE})
    assert last_complete_checkpoint(tmp_path)[0] == tmp_path / "checkpoint-1"
