"""The model card of `TempBalanceTrainer`, for models from scratch, fine-tuned ones, and adapters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, get_peft_model
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification

from hf_tempbalance import TempBalanceConfig, TempBalanceTrainer, TempBalanceTrainingArguments
from hf_tempbalance.runs.modelcard import PICTURE_NAME, write_model_card
from hf_tempbalance.runs.run import Run, read_run


SIZE = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
CONFIG = TempBalanceConfig(min_eigenvalues=1)


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
    assert "min_eigenvalues: 1" in card.text and f"]({PICTURE_NAME})" in card.text
    assert (tmp_path / PICTURE_NAME).read_bytes().startswith(b"\x89PNG")
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
    assert "tempbalance" not in (tmp_path / "plain" / "README.md").read_text().lower().split("## versions")[0]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT reads it
def test_an_adapter_keeps_peft_s_card_and_gets_our_section(tmp_path):
    model = get_peft_model(bert(), LoraConfig(target_modules=["query", "value"], task_type="SEQ_CLS"))
    trainer = trained(tmp_path, model)
    for _ in range(2):
        trainer.create_model_card()
    text = (tmp_path / "README.md").read_text()
    assert ModelCard.load(tmp_path / "README.md").data.library_name == "peft"
    assert text.count("## TempBalance") == 1 and "min_eigenvalues: 1" in text


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
