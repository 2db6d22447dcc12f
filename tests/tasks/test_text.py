"""The task of text classification: which examples a run sees, what is refused, and the script as it is started."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from forked import run_directly, run_script
from safetensors.torch import load_file

from hf_tempbalance.tasks import text_splits
from hf_tempbalance.tasks.text_classification import (
    TextArguments,
    check,
    small_tokenizer,
    tokenized,
)
from hf_tempbalance.tasks.text_data import python_pages, python_paragraphs
from hf_tempbalance.tasks.text_splits import load_text


pytestmark = pytest.mark.usefixtures("own_cache")
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "text_classification.py"
SHORT = ["--use_cpu=true", "--disable_tqdm=true", "--max_train_samples=30", "--max_eval_samples=20", "--max_length=24"]


def table(folder: Path, **splits: list[tuple[str, object]]) -> str:
    """A folder with a JSON lines file for each split."""
    for split, rows in splits.items():
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return str(folder)


def rows(count: int, start: int = 0) -> list[tuple[str, object]]:
    """Texts of growing length, three of four "good"."""
    return [
        (f"text {number}" + " more" * number, "bad" if number % 4 == 0 else "good") for number in range(start, count)
    ]


def load(folder: Path, seed: int = 0, **options):
    (folder / "data").mkdir(exist_ok=True)
    data = table(folder / "data", train=rows(40), validation=rows(50, 40), test=rows(70, 50))
    return load_text(TextArguments(data, **options), seed)


def test_few_examples_are_as_many_of_each_class_others_for_each_seed_and_grow_by_more(tmp_path):
    drawn = {
        (count, seed): load(tmp_path, seed, max_train_samples=count).train for count in (8, 16) for seed in (0, 1)
    }
    assert drawn[8, 0].labels.tolist().count(0) == 4 and len(drawn[8, 0]) == 8
    assert drawn[8, 0].texts == load(tmp_path, 0, max_train_samples=8).train.texts != drawn[8, 1].texts
    assert set(drawn[8, 0].texts) < set(drawn[16, 0].texts)


def test_validation_and_test_are_the_data_set_s_own_and_their_part_is_that_of_every_seed(tmp_path):
    whole, some = load(tmp_path), [load(tmp_path, seed, max_eval_samples=5) for seed in (0, 1)]
    assert (len(whole.validation), len(whole.test), whole.class_names) == (10, 20, ["bad", "good"])
    assert whole.validation.texts[0].startswith("text 40 ")
    assert some[0].validation.texts == some[1].validation.texts and len(some[0].test) == 5


def test_without_a_validation_split_a_tenth_of_each_class_is_held_out_and_never_trained_on(tmp_path):
    data = load_text(TextArguments(table(tmp_path, train=rows(80))), seed=0)
    assert data.validation.labels.tolist().count(0) == 2 and len(data.validation) == 8
    assert not set(data.validation.texts) & set(data.train.texts) and data.test is None


@pytest.mark.parametrize("hidden", [-1, None])
def test_a_test_split_whose_labels_are_kept_back_is_not_tested_on(tmp_path, hidden):
    numbers = [(text, int(label == "good")) for text, label in rows(40)]
    data = table(tmp_path, train=numbers, validation=numbers, test=[(text, hidden) for text, _ in numbers])
    assert load_text(TextArguments(data), seed=0).test is None


def test_a_row_of_the_training_split_without_a_class_is_named(monkeypatch):
    """As in SNLI: -1 where the annotators did not agree."""
    label = ClassLabel(names=["bad", "good"])
    data = Dataset.from_dict(
        {"text": ["a", "b", "c"], "label": [0, -1, 1]}, Features(text=Value("string"), label=label)
    )
    monkeypatch.setattr(text_splits, "open_text", lambda *_: DatasetDict(train=data))
    with pytest.raises(ValueError, match="row 1 of split 'train' of owner/nli has no label in column 'label': -1"):
        load_text(TextArguments("owner/nli"), seed=0)


def test_the_same_texts_give_the_same_tokenizer():
    texts = python_paragraphs()["train"]["text"][:200]
    made = [small_tokenizer(texts, 64) for _ in range(3)]
    assert made[0].get_vocab() == made[1].get_vocab() == made[2].get_vocab()
    tokens = made[0].convert_ids_to_tokens(made[0]("An assignment", "a name")["input_ids"])
    assert tokens[0] == "[CLS]" and tokens[-1] == "[SEP]" and tokens.count("[SEP]") == 2


def test_for_evaluation_the_longest_come_first(tmp_path):
    data = load(tmp_path)
    tokenizer = small_tokenizer(data.all_texts, 64)
    lengths = [len(row["input_ids"]) for row in tokenized(data.test, tokenizer, 64, by_length=True)]
    assert lengths == sorted(lengths, reverse=True) and len(set(lengths)) > 5
    trained = tokenized(data.train, tokenizer, 8)
    assert [row["labels"] for row in trained] == data.train.labels.tolist()
    assert max(len(row["input_ids"]) for row in trained) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_column": "review"}, "has no column 'review'; it has text, label."),
        ({"label_column": "stars"}, "has no column 'stars'; it has text, label."),
        ({"eval_split": "dev"}, "has no split 'dev'; it has train, validation, test."),
        ({"max_train_samples": 30}, "wants 15 examples of each of 2 classes, and class 'bad' has 10. At most 20"),
    ],
)
def test_what_a_data_set_has_not_is_one_sentence(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, **options)


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ([("a", "ugly"), ("b", "good")], "'validation' of .* has labels that the training split has not.*: ugly"),
        ([("a", "good"), ("b", None)], "row 1 of split 'validation' of .* has no label in column 'label': None. Take"),
        ([(None, "good"), ("b", "bad")], "row 0 of split 'validation' of .* has no text in column 'text': None"),
    ],
)
def test_a_row_that_can_t_be_used_is_named(tmp_path, validation, message):
    with pytest.raises(ValueError, match=message):
        load_text(TextArguments(table(tmp_path, train=rows(40), validation=validation)), seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "./nowhere"}, "dataset='./nowhere' does not exist"),
        ({"dataset": "reviews.csv"}, "dataset='reviews.csv' does not exist"),
        ({"model_name_or_path": "/no/model"}, "model_name_or_path='/no/model' does not exist"),
        ({"max_length": 0}, "max_length=0 is not allowed"),
    ],
)
def test_what_can_t_work_is_refused_before_anything_is_loaded(options, message):
    with pytest.raises(ValueError, match=message):
        check(TextArguments(**options))


def test_a_hub_id_may_have_a_dot():
    check(TextArguments("owner/reviews-v1.0", model_name_or_path="owner/bert-v1.5"))


def test_a_python_without_its_documentation_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ValueError, match="this Python comes without it. Give another --dataset"):
        load_text(TextArguments(), seed=0)


def test_the_documentation_of_python_is_three_chapters_in_three_parts_without_a_common_paragraph():
    parts = python_paragraphs()
    assert set(parts["train"].unique("chapter")) == {"data model", "statements", "text"}
    texts = {name: set(part["text"]) for name, part in parts.items()}
    assert len(texts["train"]) > 600 and len(texts["validation"]) == len(parts["validation"]) > 80
    assert not texts["train"] & texts["test"] and not texts["train"] & texts["validation"]
    paragraphs = {
        name: {p for page in part["text"] for p in page.split("\n\n")} for name, part in python_pages().items()
    }
    assert not paragraphs["train"] & paragraphs["validation"] and not paragraphs["train"] & paragraphs["test"]


def test_the_script_measures_validation_and_test_and_a_method_sees_what_plain_training_sees(tmp_path):
    flags = [*SHORT, "--num_train_epochs=1", "--save_strategy=no"]
    plain = run_script(tmp_path, "--preset", "none", str(SCRIPT), *flags, "--output_dir=plain")
    balanced = run_script(tmp_path, "--min_eigenvalues", "8", str(SCRIPT), *flags, "--output_dir=balanced")
    assert (plain.code, balanced.code) == (0, 0), plain.err + balanced.err
    found = {name: json.loads((tmp_path / name / "results.json").read_text()) for name in ("plain", "balanced")}
    for results in found.values():
        assert 0 <= results["epochs"][-1]["eval_accuracy"] <= 1
        assert results["predictions"][0].keys() >= {"test_accuracy", "test_loss"}
        assert results["config"]["train_examples"] == 30
    assert found["balanced"]["looks"] == 2 and found["plain"]["looks"] == 0
    assert not list(tmp_path.rglob("*.safetensors"))  # nothing was to be kept


@pytest.mark.slow
def test_a_run_that_goes_on_ends_as_one_that_was_not_stopped(tmp_path):
    flags = [*SHORT, "--per_device_train_batch_size=8"]
    ended = run_directly(tmp_path, SCRIPT, *flags, "--num_train_epochs=2", "--output_dir=whole")
    assert ended.code == 0, ended.err
    stopped = [*flags, "--num_train_epochs=2", "--output_dir=whole"]
    again = run_directly(tmp_path, SCRIPT, *stopped)
    assert again.code == 1 and "--resume_from_checkpoint last" in again.err
    whole = {name: weight.clone() for name, weight in load_file(tmp_path / "whole" / "model.safetensors").items()}
    accuracy = json.loads((tmp_path / "whole" / "test_results.json").read_text())
    for path in (tmp_path / "whole" / "checkpoint-8").iterdir():
        path.unlink()
    resumed = run_directly(tmp_path, SCRIPT, *stopped, "--resume_from_checkpoint=last")
    assert resumed.code == 0, resumed.err
    end = load_file(tmp_path / "whole" / "model.safetensors")
    assert all(np.array_equal(weight.numpy(), end[name].numpy()) for name, weight in whole.items())
    again = json.loads((tmp_path / "whole" / "test_results.json").read_text())
    assert again["test_loss"] == accuracy["test_loss"]


@pytest.mark.slow
def test_as_it_is_it_learns_without_a_download(tmp_path):
    ended = run_directly(tmp_path, SCRIPT, "--use_cpu=true", "--disable_tqdm=true")
    assert ended.code == 0, ended.err
    results = json.loads((tmp_path / "runs" / "text_classification" / "test_results.json").read_text())
    assert results["test_accuracy"] > 0.7  # the largest class has 0.4
