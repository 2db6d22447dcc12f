"""The model card of `TempBalanceTrainer`, for models from scratch, fine-tuned ones, and adapters."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
import torch
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from peft import LoraConfig, get_peft_model
from tiny import mlp
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from hf_tempbalance import TempBalanceCallback, TempBalanceConfig, TempBalanceTrainer, TempBalanceTrainingArguments
from hf_tempbalance.huggingface.card import write_card_of
from hf_tempbalance.huggingface.recorder_callback import RunRecorder
from hf_tempbalance.runs.card_text import named
from hf_tempbalance.runs.history import HISTORY_NAME
from hf_tempbalance.runs.modelcard import CURVES_NAME, LAYERS_NAME, write_model_card
from hf_tempbalance.runs.run import Run, read_run


SIZE = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
CONFIG = TempBalanceConfig(min_eigenvalues=1)
PLAIN = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "save_strategy": "no",
}
PLAIN |= {"eval_strategy": "epoch", "logging_strategy": "epoch", "warmup_steps": 0.1}


class Texts(Dataset):
    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = torch.randint(50, (8,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": tokens, "labels": tokens[0] % 2}


def accuracy(prediction) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def trained(folder: Path, model, tempbalance: TempBalanceConfig | None = CONFIG, **changes) -> TempBalanceTrainer:
    settings = {"num_train_epochs": 2, "per_device_train_batch_size": 16, "use_cpu": True, "eval_strategy": "epoch"}
    args = TempBalanceTrainingArguments(str(folder), **(settings | {"logging_strategy": "epoch"} | changes))
    data = {"train_dataset": Texts(), "eval_dataset": Texts(), "compute_metrics": accuracy}
    trainer = TempBalanceTrainer(model, args, **data, tempbalance=tempbalance)
    trainer.train()
    trainer.save_model()
    return trainer


def bert() -> BertForSequenceClassification:
    return BertForSequenceClassification(BertConfig(**SIZE))


def test_a_card_has_the_hub_s_metadata_results_settings_and_picture(tmp_path):
    trainer = trained(tmp_path, bert(), save_strategy="no")
    facts = {"dataset": "my reviews", "dataset_tags": "me/reviews", "license": "mit", "model_name": "net"}
    trainer.create_model_card(**facts, language="en", tags="sentiment")
    card = ModelCard.load(tmp_path / "README.md")
    data = card.data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "text-classification", "mit")
    assert (data.language, data.datasets, data.metrics) == ("en", ["me/reviews"], ["accuracy"])
    assert {"tempbalance", "generated_from_trainer", "sentiment"} <= set(data.tags)
    assert data.base_model is None
    (result,) = data.eval_results
    last = [entry["eval_accuracy"] for entry in trainer.state.log_history if "eval_accuracy" in entry][-1]
    assert (result.dataset_name, result.dataset_type, result.metric_value) == ("my reviews", "me/reviews", last)
    assert 'pipeline("text-classification", model="net")' in card.text
    assert "min_eigenvalues: 1" in card.text and f"]({LAYERS_NAME})" in card.text
    assert (tmp_path / LAYERS_NAME).read_bytes().startswith(b"\x89PNG")
    means = [look["multiplier_mean"] for look in read_run(tmp_path).looks]
    assert f"mean multiplier, by parameters, was {means[0]:.2f} at first and {means[-1]:.2f} at the end" in card.text
    assert "Each layer had its own learning rate" in card.text and "alpha_relative between" in card.text
    assert str(tmp_path) not in card.content
    # A second one, as at a second push, is the same, and keeps tags that somebody added on the Hub.
    path = tmp_path / "README.md"
    path.write_text(path.read_text().replace("- sentiment", "- sentiment\n- by-hand"))
    trainer.create_model_card(**facts)
    assert "by-hand" in ModelCard.load(path).data.tags


@pytest.mark.slow
def test_a_fine_tuned_model_names_its_base_and_a_folder_is_not_one(tmp_path):
    model = bert()
    model.config._name_or_path = "google/some-bert"
    trained(tmp_path / "one", model).create_model_card()
    assert ModelCard.load(tmp_path / "one" / "README.md").data.base_model == "google/some-bert"
    bert().save_pretrained(tmp_path / "base")
    model = BertForSequenceClassification.from_pretrained(tmp_path / "base")
    trained(tmp_path / "two", model).create_model_card()
    card = (tmp_path / "two" / "README.md").read_text()
    assert "base_model" not in card and str(tmp_path) not in card


def test_without_tempbalance_the_card_says_nothing_of_it(tmp_path):
    trained(tmp_path / "plain", bert(), tempbalance=None).create_model_card()
    assert "tempbalance" not in (tmp_path / "plain" / "README.md").read_text().lower().split("<details>")[0]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT reads it
def test_an_adapter_keeps_peft_s_card_and_gets_our_section(tmp_path):
    model = get_peft_model(bert(), LoraConfig(target_modules=["query", "value"], task_type="SEQ_CLS"))
    trainer = trained(tmp_path, model)
    for _ in range(2):
        trainer.create_model_card()
    text = (tmp_path / "README.md").read_text()
    assert ModelCard.load(tmp_path / "README.md").data.library_name == "peft"
    assert text.count("## TempBalance") == 1 and "min_eigenvalues: 1" in text


def rows(count: int = 32) -> list[dict]:
    return [
        {"input_ids": row["input_ids"].tolist(), "labels": int(row["labels"])}
        for row in (Texts()[i] for i in range(count))
    ]


def untrained(
    folder: Path, model=None, tempbalance: TempBalanceConfig | None = CONFIG, **options
) -> TempBalanceTrainer:
    args = TempBalanceTrainingArguments(str(folder), use_cpu=True, report_to="none")
    return TempBalanceTrainer(model or bert(), args, tempbalance=tempbalance, **options)


@pytest.mark.parametrize("tempbalance", [CONFIG, None])
def test_data_in_memory_has_no_name_and_the_card_none_of_it(tmp_path, tempbalance):
    data = datasets.Dataset.from_list(rows())
    untrained(tmp_path, tempbalance=tempbalance, train_dataset=data, eval_dataset=data).create_model_card()
    card = ModelCard.load(tmp_path / "README.md")
    assert "None" not in card.content and card.data.datasets is None
    assert card.text.strip().startswith(f"# {tmp_path.name}\n\nBertForSequenceClassification, 0 epochs.")
    assert ("## TempBalance" in card.text) == (tempbalance is not None)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_an_evaluation_before_any_training_is_in_the_card(tmp_path):
    trainer = untrained(tmp_path, eval_dataset=Texts(), compute_metrics=accuracy)
    found = trainer.evaluate()
    trainer.create_model_card(dataset="mine")
    assert ModelCard.load(tmp_path / "README.md").data.eval_results[0].metric_value == found["eval_accuracy"]


def test_a_model_without_a_configuration_has_a_card(tmp_path):
    untrained(tmp_path, mlp(64, 64, 64, 4)).create_model_card()
    assert "Sequential, 0 epochs." in (tmp_path / "README.md").read_text()


def test_trl_s_word_for_the_data_set_is_known_and_a_word_of_the_future_is_named(tmp_path):
    trainer = untrained(tmp_path)
    trainer.create_model_card(dataset_name="me/reviews", dataset_args="x")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.datasets == ["me/reviews"] and "trained on me/reviews" in card.text
    with pytest.warns(UserWarning, match="does not know and does not use colour, shape"):
        trainer.create_model_card(dataset_name=["one", "two"], colour="red", shape=None)
    assert "trained on one, two" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(("name", "content"), [("README.md", "---\n: [\n---\n"), (HISTORY_NAME, "rubbish\n")])
def test_a_card_that_can_not_be_written_is_a_warning_and_leaves_the_file_as_it_was(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    trainer = untrained(tmp_path)
    with pytest.warns(UserWarning, match="The model card could not be written; all else goes on. .*Error: .*") as seen:
        trainer.create_model_card()
    assert "\n" not in str(seen[0].message) and (tmp_path / name).read_text() == content


def squares(train: str = "train", evaluated: str = "validation") -> tuple[datasets.Dataset, datasets.Dataset]:
    """Data as `datasets` loads it from the Hub: name, configuration and splits are in it."""
    info = datasets.DatasetInfo(dataset_name="squares", config_name="coloured", builder_name="parquet")
    return tuple(
        datasets.Dataset.from_list(rows(), info=info.copy(), split=datasets.NamedSplit(split))
        for split in (train, evaluated)
    )


@pytest.mark.parametrize(
    ("splits", "split", "words"),
    [
        (("train", "validation"), "validation", "On the split validation of squares, where"),
        (("train", "train"), None, "On a part of the split train of squares, where"),
    ],
)
def test_data_set_configuration_and_split_are_what_datasets_knows(tmp_path, splits, split, words):
    train, evaluated = squares(*splits)
    trainer = untrained(tmp_path, train_dataset=train, eval_dataset=evaluated, compute_metrics=accuracy)
    trainer.evaluate()
    trainer.create_model_card()
    card = ModelCard.load(tmp_path / "README.md")
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.dataset_config, result.dataset_split) == ("squares", "coloured", split)
    assert words in card.text and "| training examples | 32 |" in card.text


def test_a_plain_trainer_with_the_callback_and_a_recorded_run_have_the_card_too(tmp_path):
    model = bert()
    model.config._name_or_path = "google/some-bert"
    train, evaluated = squares()
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", **PLAIN)
    records: list = []
    recorder = RunRecorder({"script_arguments": ["--dataset_name", "me/squares"]}, CONFIG, records)
    callbacks = [TempBalanceCallback(CONFIG), recorder]
    data = {"train_dataset": train, "eval_dataset": evaluated, "compute_metrics": accuracy}
    trainer = Trainer(model, args, **data, callbacks=callbacks)
    trainer.train()
    trainer.save_model()
    predicted = trainer.predict(evaluated).metrics["test_accuracy"]
    records[0].finish(None)
    write_model_card(read_run(tmp_path), repo_id="me/net")  # from the files alone, as scripts/push_to_hub.py does
    recorded = ModelCard.load(tmp_path / "README.md")
    assert recorded.data.datasets == ["me/squares"] and f"| test_accuracy | {predicted:.4g} | 2 |" in recorded.text
    assert {result.dataset_split for result in recorded.data.eval_results} == {"validation", "test"}
    (tmp_path / "results.json").unlink()
    write_card_of(trainer)
    plain = ModelCard.load(tmp_path / "README.md")
    for card in (recorded, plain):
        assert card.data.base_model == "google/some-bert" and "tempbalance" in card.data.tags
        assert "fine-tuned from [google/some-bert](https://huggingface.co/google/some-bert) on" in card.text
        assert "| learning rate | 5e-05 |" in card.text and "| epochs | 2 |" in card.text
        assert "| batch size | 16 (8 x 2 accumulated) |" in card.text and "| warmup | 10% of the steps |" in card.text
        for name in (LAYERS_NAME, CURVES_NAME):
            assert f"]({name})" in card.text and (tmp_path / name).is_file()
        assert "None" not in card.content and "@inproceedings{zhou2023temperature," in card.text


def card_of(folder: Path, **fields) -> str:
    """The card of a run with these fields, of a model that is not saved."""
    run = Run(folder, **({"log": [{"epoch": 1, "step": 1, "eval_accuracy": 0.5}]} | fields))
    return write_model_card(run, config={"architectures": ["BertForSequenceClassification"]}).read_text()


def test_settings_and_versions_are_folded_at_the_end_and_what_is_not_known_has_no_row(tmp_path):
    arguments = {"learning_rate": 0.1, "optim_args": None, "max_steps": 50, "num_train_epochs": 3.0, "bf16": True}
    text = card_of(tmp_path, settings=CONFIG.to_dict(), arguments=arguments)
    rows = text.split("| setting | value |\n| --- | --- |\n")[1].split("\n\n")[0].splitlines()
    assert rows == ["| learning rate | 0.1 |", "| steps | 50 |", "| mixed precision | bf16 |"]
    before, folded = text.split("<details>\n")
    assert folded.startswith("<summary>Settings of TempBalance, versions</summary>\n\n```yaml\n")
    assert folded.endswith("\n\n</details>\n") and "mapping: " in folded and "mapping: " not in before
    assert "None" not in text


def test_the_text_names_the_nearest_preset_and_what_differs_from_it(tmp_path):
    farms = TempBalanceConfig.preset("farms", window_rows=32).to_dict()
    assert "the preset `farms` (Hu et al., ICML 2025" in card_of(tmp_path, settings=farms)
    assert ", but for `window_rows: 32`." in card_of(tmp_path, settings=farms)
    assert "The settings are the paper's, but for `min_eigenvalues: 1`." in card_of(
        tmp_path, settings=CONFIG.to_dict()
    )
    depth = card_of(tmp_path, settings=TempBalanceConfig.preset("llrd").to_dict())
    assert (
        "that follows its depth. The settings are those of the preset `llrd`" in depth
        and "@inproceedings" not in depth
    )


def test_a_card_without_a_licence_says_so_until_there_is_one(tmp_path):
    assert "## Licence\n\nNot stated yet" in card_of(tmp_path)
    run = Run(tmp_path, log=[{"epoch": 1, "step": 1}])
    path = write_model_card(run, config={"architectures": ["Net"]}, data={"license": "mit"})
    assert "## Licence" not in path.read_text()


def test_the_package_is_a_link_once_it_has_an_address():
    assert named({}) == "`hf_tempbalance`"
    address = "https://example.org/hf_tempbalance"
    assert named({"project_url": [f"Source, {address}"]}) == f"[`hf_tempbalance`]({address})"
    assert named({"home_page": address}) == f"[`hf_tempbalance`]({address})"


HOSTILE = 'a|b\n---\n\n<script>alert("`")</script> ![x](javascript:y)\x1b]52;c;QQ\x07 "'


def test_names_come_out_as_text_and_the_metadata_is_read_back(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"architectures": ["a\n# b<i>ForCausalLM"], "auto_map": {"AutoModel": "x](http://a.b) `.c"}})
    )
    run = Run(tmp_path, log=[{"epoch": 1, "step": 1, f"eval_{HOSTILE}": 0.5}], settings={HOSTILE: "```\n# c"})
    run.arguments, run.environment = {"optim": HOSTILE}, {"versions": {HOSTILE: HOSTILE}}
    path = write_model_card(
        run, repo_id=f"me/{HOSTILE}", dataset=HOSTILE, data={"license": HOSTILE, "tags": [HOSTILE]}
    )
    card = ModelCard.load(path)
    assert card.data.license == HOSTILE and HOSTILE in card.data.tags and card.data.metrics == [HOSTILE]
    tokens = MarkdownIt("commonmark").enable("table").parse(card.text)
    parts = [part for token in tokens for part in token.children or [token]]
    kinds = {part.type for part in parts if not part.type.endswith(("_open", "_close"))}
    assert kinds == {"text", "code_inline", "fence", "softbreak", "html_block"}  # no image, no rule
    html = [part.content for part in parts if part.type == "html_block"]
    folded = "<details>\n<summary>Settings of TempBalance, versions</summary>\n"
    assert html == [folded, "</details>\n"]  # our own
    links = {part.attrs["href"] for part in parts if part.type == "link_open"}
    assert links == {"https://arxiv.org/abs/2312.00359", "x%5D%28http%3A//a.py"}
    headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings[1:] == ["How to use it", "Results", "Training", "TempBalance", "Citation"]


def test_metrics_are_those_of_the_best_checkpoint_where_its_weights_were_loaded(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["BertForSequenceClassification"]}))
    log = [{"epoch": n, "step": n, "eval_accuracy": value} for n, value in ((1, 0.9), (2, 0.4))]
    run = Run(tmp_path, log=log, arguments={"load_best_model_at_end": True}, best_step=1)
    write_model_card(run, dataset="x")
    assert ModelCard.load(tmp_path / "README.md").data.eval_results[0].metric_value == 0.9


def test_a_folder_without_a_model_says_what_to_call(tmp_path):
    with pytest.raises(ValueError, match=r"has no saved model \(config.json\). Call trainer.save_model\(\) first."):
        write_model_card(Run(tmp_path))
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(ValueError, match="config.json is damaged"):
        write_model_card(Run(tmp_path))
    with pytest.raises(ValueError, match="it is not the output folder of a run"):
        read_run(tmp_path)
