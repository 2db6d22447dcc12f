"""Classifiers of text, as scripts/text_classification.py trains them: options, data, network, plain Trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .byte_bpe import train_bpe
from .text_data import EMBEDDED, check_dataset, check_model
from .text_splits import Split, load_text


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments


@dataclass
class TextArguments:
    """Which model on which text."""

    dataset: str = field(
        default=EMBEDDED,
        metadata={
            "help": "Hub id, local folder, or one csv, tsv, json, jsonl or parquet file; python-docs tells chapters "
            "of the Python documentation apart and needs no download."
        },
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Model and tokenizer: Hub id or local folder; else a small BERT with random weights whose "
            "tokenizer is made from the training split."
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Name of the data set's configuration."})
    text_column: str = field(default="text", metadata={"help": "Column of the text."})
    text_pair_column: str | None = field(default=None, metadata={"help": "Column of a second text."})
    label_column: str | None = field(
        default=None, metadata={"help": "Column of the class, a number or a name; else label."}
    )
    eval_split: str | None = field(
        default=None, metadata={"help": "Split to evaluate on; else validation, or a held-out tenth of train."}
    )
    test_split: str | None = field(
        default=None, metadata={"help": "Split for the test at the end; else test, if there is one."}
    )
    max_length: int = field(default=128, metadata={"help": "Tokens of a text that are used."})
    max_train_samples: int | None = field(
        default=None,
        metadata={"help": "Train on so many texts, equally many of each class, drawn by --data_seed (else --seed)."},
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate and test on so many texts, the same for every seed."}
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Delete the run that the output folder has, and start again."}
    )


RECIPE: dict[str, Any] = {
    "output_dir": "runs/text_classification",
    "learning_rate": 5e-5,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 64,
    "weight_decay": 0.01,
    "warmup_steps": 0.06,
    "eval_strategy": "epoch",
    "logging_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "seed": 43,
}
# A network without training behind it wants a larger rate and more of it.
FROM_SCRATCH: dict[str, Any] = RECIPE | {"learning_rate": 1e-3, "num_train_epochs": 5}
SMALL_BERT: dict[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 512,
}
SMALL_VOCABULARY = 2000


def check(options: TextArguments) -> None:
    """Refuse what can be known to fail before anything is loaded.

    Raises:
        ValueError: no such data set or model folder, or a number below 1.
    """
    check_dataset(options.dataset)
    for name in ("max_length", "max_train_samples", "max_eval_samples"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} is not allowed: it must be 1 or larger.")
    check_model("model_name_or_path", options.model_name_or_path)


def make_model(
    options: TextArguments, class_names: Sequence[str], texts: Sequence[str]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a run. texts: those that the tokenizer is made from where no model is named."""
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        BertConfig,
        BertForSequenceClassification,
    )

    classes: dict[str, Any] = {
        "id2label": dict(enumerate(class_names)),
        "label2id": {name: number for number, name in enumerate(class_names)},
    }
    if options.model_name_or_path is None:
        tokenizer = small_tokenizer(texts, options.max_length)
        size = SMALL_BERT | {"vocab_size": len(tokenizer), "max_position_embeddings": max(options.max_length, 128)}
        return BertForSequenceClassification(BertConfig(**size, **classes)), tokenizer
    try:
        tokenizer = AutoTokenizer.from_pretrained(options.model_name_or_path)
        model = AutoModelForSequenceClassification.from_pretrained(
            options.model_name_or_path, num_labels=len(class_names), ignore_mismatched_sizes=True, **classes
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"model_name_or_path={options.model_name_or_path!r} can't be read: {error}") from error
    return model, tokenizer


def small_tokenizer(texts: Sequence[str], max_length: int) -> PreTrainedTokenizerBase:
    """A lower-case byte-level BPE of at most `SMALL_VOCABULARY` tokens, with BERT's marks around a text.

    The same texts give the same one; training a WordPiece orders its vocabulary differently each time.
    """
    from tokenizers import normalizers, processors
    from transformers import PreTrainedTokenizerFast

    marks, lower = ["[PAD]", "[CLS]", "[SEP]"], normalizers.Lowercase()
    tokenizer = train_bpe(texts, SMALL_VOCABULARY, marks, add_prefix_space=True, normalizer=lower)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **names)


def tokenized(
    split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int, *, by_length: bool = False
) -> list[dict[str, Any]]:
    """What Trainer takes, one dict a text. by_length: the longest first, so that a batch has little padding."""
    encoded = tokenizer(split.texts, split.pairs, truncation=True, max_length=max_length)
    rows = [
        {name: values[i] for name, values in encoded.items()} | {"labels": int(label)}
        for i, label in enumerate(split.labels)
    ]
    return sorted(rows, key=lambda row: -len(row["input_ids"])) if by_length else rows


def make_trainer(
    options: TextArguments, args: TrainingArguments, kind: type[Trainer] | None = None, **more: Any
) -> tuple[Trainer, list[dict[str, Any]] | None]:
    """A Trainer with network, data and metric, and the test split, which it is not given.

    Args:
        kind: a subclass of Trainer.
        more: what that subclass takes besides.
    """
    from transformers import DataCollatorWithPadding, Trainer

    from .metrics import compute_accuracy, predicted_class

    data = load_text(options, args.seed if args.data_seed is None else args.data_seed)
    options.eval_split = data.eval_split  # the one that was found, for whoever writes down what was done
    model, tokenizer = make_model(options, data.class_names, data.all_texts)
    train = tokenized(data.train, tokenizer, options.max_length)
    validation = tokenized(data.validation, tokenizer, options.max_length, by_length=True)
    test = None if data.test is None else tokenized(data.test, tokenizer, options.max_length, by_length=True)
    args.dataloader_pin_memory &= args.device.type != "cpu"
    trainer = (kind or Trainer)(
        model,
        args,
        train_dataset=train,
        eval_dataset=validation,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=compute_accuracy,
        preprocess_logits_for_metrics=predicted_class,
        **more,
    )
    return trainer, test
