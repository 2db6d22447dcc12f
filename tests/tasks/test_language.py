"""The task of language modelling: blocks and their cache, perplexity, rates, and the script as it is started."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import run_directly, run_script
from safetensors.torch import load_file
from transformers import TrainingArguments

from hf_tempbalance.tasks import language_data
from hf_tempbalance.tasks.language_data import END, load_blocks
from hf_tempbalance.tasks.language_modeling import LanguageArguments, check, make_trainer


pytestmark = pytest.mark.usefixtures("own_cache")
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "language_modeling.py"
TEXT = "The cache of a run holds what every other run of the same text would make again. "
TINY = {"block_size": 16, "vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SHORT = ["--use_cpu=true", "--disable_tqdm=true", "--max_steps=8", "--hidden_size=64", "--num_hidden_layers=1"]
SHORT += ["--num_attention_heads=2", "--intermediate_size=96", "--block_size=32", "--vocab_size=300"]
SHORT += ["--per_device_train_batch_size=2", "--max_eval_blocks=4", "--eval_strategy=no"]


def documents(count: int) -> list[str]:
    return [TEXT * 4 + f"Document {number} is about {number * number}." for number in range(count)]


def table(folder: Path, column: str = "text", **splits: list[str | None]) -> str:
    folder.mkdir(exist_ok=True)
    for split, texts in splits.items():
        lines = [json.dumps({column: text}) for text in texts]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return str(folder)


@pytest.fixture
def data(tmp_path) -> str:
    return table(tmp_path / "data", train=documents(20), validation=["Été. " + TEXT * 3], test=[TEXT * 3])


def test_the_blocks_are_the_documents_end_to_end_with_an_end_behind_each(data):
    made = load_blocks(data, block_size=16, vocab_size=300)
    tokens = np.concatenate([block["input_ids"].numpy() for block in made.train])
    text = made.tokenizer.decode(tokens)
    assert (END.join(documents(20)) + END).startswith(text) and len(text) > 5000
    assert all(torch.equal(block["labels"], block["input_ids"]) and len(block["labels"]) == 16 for block in made.train)
    assert made.tokenizer.decode(np.concatenate([b["input_ids"].numpy() for b in made.validation])).startswith("Été. ")
    assert len(made.tokenizer) == 300


def test_a_second_run_takes_what_the_first_has_made_and_another_text_or_size_makes_its_own(
    data, tmp_path, monkeypatch
):
    first = load_blocks(data, block_size=16, vocab_size=300)
    folders = set((tmp_path / "home" / "hf_tempbalance").iterdir())
    assert len(folders) == 1
    load_blocks(data, block_size=16, vocab_size=310)
    load_blocks(table(tmp_path / "other", train=documents(21)), block_size=16, vocab_size=300)
    assert len(set((tmp_path / "home" / "hf_tempbalance").iterdir())) == 3
    monkeypatch.setattr(language_data, "make_tokenizer", lambda *_: pytest.fail("made again"))
    second = load_blocks(data, block_size=16, vocab_size=300)
    assert np.array_equal(first.train.tokens, second.train.tokens)
    assert first.tokenizer.get_vocab() == second.tokenizer.get_vocab()


def test_the_same_tokenizer_with_another_end_token_has_tokens_of_its_own(data):
    tokenizer = load_blocks(data, block_size=16, vocab_size=300).tokenizer
    one = load_blocks(data, block_size=16, tokenizer=tokenizer).train.tokens
    tokenizer.eos_token = "a"
    two = load_blocks(data, block_size=16, tokenizer=tokenizer).train.tokens
    assert not np.array_equal(one, two) and two[-1] == tokenizer.eos_token_id


@pytest.mark.slow
def test_processes_that_make_the_cache_at_once_all_end_with_the_same(data, tmp_path):
    code = (
        "import sys, hashlib; from hf_tempbalance.tasks.language_data import load_blocks; "
        "made = load_blocks(sys.argv[1], vocab_size=300, block_size=16); "
        "print(hashlib.sha256(made.train.tokens.tobytes()).hexdigest())"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path / "shared"), "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", code, data]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(3)]
    ends = [process.communicate()[0] for process in running]
    assert {process.returncode for process in running} == {0}
    assert len(set(ends)) == 1 and len(ends[0].strip()) == 64
    assert len(list((tmp_path / "shared" / "hf_tempbalance").iterdir())) == 1  # nothing half made is left


def test_without_a_validation_split_every_tenth_document_is_held_out(tmp_path):
    made = load_blocks(table(tmp_path / "data", train=documents(20)), block_size=16, vocab_size=300)
    held_out = made.tokenizer.decode(made.validation.tokens.astype(np.int64))
    assert held_out == documents(20)[9] + END + documents(20)[19] + END
    assert made.test is None and "Document 9 " not in made.tokenizer.decode(made.train.tokens.astype(np.int64))


@pytest.mark.parametrize(
    ("splits", "options", "message"),
    [
        ({"train": documents(20)}, {"column": "body"}, "has no column 'body'; it has text."),
        ({"train": documents(20), "validation": [""]}, {}, "the validation split of .* has no text in column 'text'"),
        ({"train": documents(9)}, {}, "has 9 documents and no validation split: too few to hold out a tenth"),
        (
            {"train": documents(20), "test": ["Short."]},
            {"block_size": 64},
            "the test split .* less than one block: blo",
        ),
        (
            {"train": documents(20)},
            {"vocab_size": 9000},
            "vocab_size=9000 is more than the training text gives, which",
        ),
    ],
)
def test_what_a_text_does_not_give_is_one_sentence(tmp_path, splits, options, message):
    folder = table(tmp_path / "data", **splits)
    with pytest.raises(ValueError, match=message):
        load_blocks(folder, **({"block_size": 16, "vocab_size": 300} | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 200}, "vocab_size=200 is not allowed: it must be 257"),
        ({"dataset": "/no/folder"}, "dataset='/no/folder' does not exist"),
        ({"config_name": "./none"}, "config_name='./none' does not exist"),
        ({"hidden_size": 100, "num_attention_heads": 8}, "hidden_size=100 with num_attention_heads=8 is not allowed"),
        ({"embedding_lr_factor": 0.0}, "embedding_lr_factor=0.0 is not allowed: it must be above 0"),
        ({"block_size": 0}, "block_size=0 is not allowed"),
    ],
)
def test_what_can_t_work_is_refused_before_anything_is_loaded(options, message):
    with pytest.raises(ValueError, match=message):
        check(LanguageArguments(**options))


def trainer(data: str, folder: Path, **options):
    args = TrainingArguments(str(folder), use_cpu=True, report_to="none", weight_decay=0.1, prediction_loss_only=True)
    return make_trainer(LanguageArguments(data, **TINY, **options), args)


def test_perplexity_is_the_exponential_of_the_loss_in_evaluation_test_and_log(data, tmp_path):
    made, test = trainer(data, tmp_path)
    evaluation, tested = made.evaluate(), made.predict(test).metrics
    assert evaluation["eval_perplexity"] == math.exp(evaluation["eval_loss"]) == pytest.approx(300, rel=0.2)
    assert tested["test_perplexity"] == math.exp(tested["test_loss"])
    assert made.state.log_history[-1]["eval_perplexity"] == evaluation["eval_perplexity"]


@pytest.mark.parametrize("is_tied", [False, True])
def test_embedding_and_head_alone_train_at_their_own_rate_and_the_schedule_goes_on_from_it(data, tmp_path, is_tied):
    made, _ = trainer(data, tmp_path, embedding_lr_factor=3.0, tie_word_embeddings=is_tied)
    made.create_optimizer_and_scheduler(10)
    names = {id(parameter): name for name, parameter in made.model.named_parameters()}
    rates, decays = {}, {}
    for _ in range(2):
        for group in made.optimizer.param_groups:
            for parameter in group["params"]:
                rates.setdefault(names[id(parameter)], []).append(group["lr"])
                decays[names[id(parameter)]] = group["weight_decay"]
        made.optimizer.step()
        made.lr_scheduler.step()
    assert rates.keys() == set(names.values())
    fast = {"model.embed_tokens.weight"} | (set() if is_tied else {"lm_head.weight"})
    assert {name for name, rate in rates.items() if rate == pytest.approx([1.5e-4, 1.35e-4])} == fast
    assert {name for name, rate in rates.items() if rate == pytest.approx([5e-5, 4.5e-5])} == rates.keys() - fast
    assert decays["lm_head.weight" if not is_tied else "model.embed_tokens.weight"] == 0.1


def test_the_script_measures_perplexity_and_a_method_sees_the_blocks_of_plain_training(tmp_path):
    plain = run_script(tmp_path, "--preset", "none", str(SCRIPT), *SHORT, "--save_strategy=no", "--output_dir=plain")
    balanced = run_script(
        tmp_path, "--preset", "llr", str(SCRIPT), *SHORT, "--save_strategy=no", "--output_dir=balanced"
    )
    assert (plain.code, balanced.code) == (0, 0), plain.err + balanced.err
    found = {name: json.loads((tmp_path / name / "results.json").read_text()) for name in ("plain", "balanced")}
    for results in found.values():
        assert results["epochs"][-1]["eval_perplexity"] == math.exp(results["epochs"][-1]["eval_loss"]) < 400
        assert results["predictions"][0].keys() >= {"test_perplexity", "test_loss"}
    assert found["balanced"]["looks"] == 1 and found["plain"]["looks"] == 0
    assert found["balanced"]["predictions"][0]["test_loss"] != found["plain"]["predictions"][0]["test_loss"]


@pytest.mark.slow
def test_a_run_that_goes_on_ends_as_one_that_was_not_stopped(tmp_path):
    flags = [*SHORT, "--save_strategy=steps", "--save_steps=3", "--embedding_lr_factor=3", "--output_dir=whole"]
    ended = run_directly(tmp_path, SCRIPT, *flags)
    assert ended.code == 0, ended.err
    again = run_directly(tmp_path, SCRIPT, *flags)
    assert again.code == 1 and "--resume_from_checkpoint last" in again.err
    whole = {name: weight.clone() for name, weight in load_file(tmp_path / "whole" / "model.safetensors").items()}
    measured = json.loads((tmp_path / "whole" / "test_results.json").read_text())["test_loss"]
    for path in (tmp_path / "whole" / "checkpoint-8").iterdir():
        path.unlink()
    resumed = run_directly(tmp_path, SCRIPT, *flags, "--resume_from_checkpoint=last")
    assert resumed.code == 0, resumed.err
    end = load_file(tmp_path / "whole" / "model.safetensors")
    assert all(torch.equal(weight, end[name]) for name, weight in whole.items())
    assert json.loads((tmp_path / "whole" / "test_results.json").read_text())["test_loss"] == measured


@pytest.mark.slow
def test_another_architecture_from_scratch_and_going_on_with_a_model(tmp_path):
    from transformers import GPT2Config

    GPT2Config(n_embd=32, n_layer=1, n_head=2, n_positions=64).save_pretrained(tmp_path / "gpt2")
    flags = [*SHORT, "--save_strategy=epoch"]
    made = run_directly(tmp_path, SCRIPT, *flags, "--config_name=./gpt2", "--output_dir=first")
    assert made.code == 0, made.err
    more = run_directly(tmp_path, SCRIPT, *flags, "--model_name_or_path=./first", "--output_dir=second")
    assert more.code == 0, more.err
    loss = [
        json.loads((tmp_path / name / "test_results.json").read_text())["test_loss"] for name in ("first", "second")
    ]
    assert loss[1] < loss[0]
    long = run_directly(tmp_path, SCRIPT, *flags, "--config_name=./gpt2", "--block_size=65", "--output_dir=third")
    assert long.code == 1 and "block_size=65 is longer than the model takes, which is 64." in long.err
