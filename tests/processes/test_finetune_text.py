"""scripts/finetune_text.py on real text: docstrings of two packages, told apart by a small BERT."""

from __future__ import annotations

import csv
import inspect
import json
from pathlib import Path

import pytest
from forked import Ended, run_directly

from hf_tempbalance.runs.history import HISTORY_NAME, read_history
from hf_tempbalance.runs.results import read_results


pytestmark = pytest.mark.usefixtures("own_cache")
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "finetune_text.py"


def docstrings(package) -> list[str]:
    """First paragraphs of the documentation of a package's public functions and classes."""
    members = [value for name, value in inspect.getmembers(package) if not name.startswith("_")]
    texts = {(inspect.getdoc(member) or "").split("\n\n")[0].replace("\n", " ") for member in members}
    return sorted(text for text in texts if len(text) > 30)


@pytest.fixture(scope="module")
def texts() -> list[tuple[str, str]]:
    import sklearn.metrics
    import torch.nn

    found = {"metrics": docstrings(sklearn.metrics)[:60], "networks": docstrings(torch.nn)[:60]}
    assert min(map(len, found.values())) == 60
    return [(text, label) for label, part in found.items() for text in part]


@pytest.fixture(scope="module")
def bert(texts, tmp_path_factory) -> Path:
    """A BERT of two layers and a WordPiece tokenizer made from the same text."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    tokenizer = BertWordPieceTokenizer()
    tokenizer.train_from_iterator([text for text, _ in texts], vocab_size=600, show_progress=False)
    tokenizer.save_model(str(folder))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    BertForSequenceClassification(BertConfig(vocab_size=600, **size)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def table(texts, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "docstrings.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("sentence", "package"), *texts])
    return path


def finetune(folder: Path, *flags: str) -> Ended:
    return run_directly(folder, SCRIPT, "--use_cpu=true", "--report_to=none", *flags)


def test_it_learns_saves_a_pipeline_and_looks_at_every_matrix(bert, table, tmp_path):
    columns = ["--text_column=sentence", "--label_column=package"]
    flags = [f"--dataset={table}", f"--model_name_or_path={bert}", f"--output_dir={tmp_path / 'run'}", *columns]
    recipe = ["--learning_rate=3e-3", "--num_train_epochs=6", "--per_device_train_batch_size=16", "--layernorm=true"]
    done = finetune(tmp_path, *flags, *recipe)
    assert done.code == 0, done.err
    results = json.loads((tmp_path / "run" / "eval_results.json").read_text())
    assert results["eval_accuracy"] > 0.7  # half of them by guessing
    recorded = read_results(tmp_path / "run")
    assert recorded["status"] == "finished" and recorded["looks"] == 7 and len(recorded["epochs"]) == 6
    assert recorded["epochs"][-1]["eval_accuracy"] == results["eval_accuracy"]
    assert recorded["config"]["dataset_name"] == "docstrings.csv" and recorded["config"]["dataset_part_of"] == "train"
    assert recorded["config"]["base_model"] is None and recorded["config"]["train_examples"] == 108
    assert [layer for layer in recorded["layers"] if layer["alpha_end"] != layer["alpha_start"]]
    looks = read_history(tmp_path / "run" / HISTORY_NAME)
    assert len(looks) == 7
    tuned = [layer for layer in looks[-1]["layers"] if layer["excluded_by"] is None]
    assert len(tuned) == 12 and {layer["multiplier"] for layer in tuned} >= {0.5, 1.5}
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(tmp_path / "run"), device="cpu")
    assert {answer["label"] for answer in classify(["A convolution over an input.", "Compute the score."])} <= {
        "metrics",
        "networks",
    }


@pytest.mark.slow
def test_splits_of_a_folder_are_used_and_a_resume_goes_on(bert, texts, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for split, part in {"train": texts[::2], "test": texts[1::2]}.items():
        rows = [json.dumps({"text": text, "label": label}) for text, label in part]
        (data / f"{split}.jsonl").write_text("\n".join(rows))
    flags = [f"--dataset={data}", f"--model_name_or_path={bert}", f"--output_dir={tmp_path / 'run'}"]
    assert finetune(tmp_path, *flags, "--num_train_epochs=1").code == 0
    again = finetune(tmp_path, *flags, "--num_train_epochs=2")
    assert again.code == 1 and "--overwrite_output_dir true" in again.err.splitlines()[-1]
    done = finetune(tmp_path, *flags, "--num_train_epochs=2", "--resume_from_checkpoint=last")
    assert done.code == 0, done.err
    assert [look["epoch"] for look in read_history(tmp_path / "run" / HISTORY_NAME)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "has no column 'text'; it has sentence, package."),
        pytest.param(
            ["--text_column=sentence", "--label_column=stars"],
            "has no column 'stars'; it has sentence, package.",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--text_column=sentence", "--label_column=package", "--eval_split=dev"],
            "has no split 'dev'; it has train.",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_mistake_is_one_line(table, tmp_path, flags, message):
    done = finetune(tmp_path, f"--dataset={table}", *flags, f"--output_dir={tmp_path}")
    assert done.code == 1
    assert done.err.strip().splitlines()[-1] == f"finetune_text.py: {table} {message}"
