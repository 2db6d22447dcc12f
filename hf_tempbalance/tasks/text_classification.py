"""Classifiers of text, as scripts/text_classification.py trains them: options, data, network, plain Trainer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .text_data import EMBEDDED, VALIDATION, check_column, check_dataset, open_text, python_paragraphs


if TYPE_CHECKING:
    from datasets import Dataset
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


@dataclass(frozen=True)
class Split:
    """Texts (N), second texts or None, and class indices (N), int64."""

    texts: list[str]
    pairs: list[str] | None
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: np.ndarray) -> Split:
        """Those of some positions, in the order given."""
        pairs = None if self.pairs is None else [self.pairs[i] for i in indices]
        return Split([self.texts[i] for i in indices], pairs, self.labels[indices])


@dataclass(frozen=True)
class TextSplits:
    """The parts of a data set.

    Attributes:
        all_texts: of the whole training split, also of what is not trained on.
        eval_split: what the validation part is called there; None for a part of the training split.
    """

    train: Split
    validation: Split
    test: Split | None
    class_names: list[str]
    all_texts: list[str]
    eval_split: str | None


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


def check_model(name: str, value: str | None) -> None:
    """Raise ValueError for a path that is no folder; whether a Hub id is one, the Hub must say."""
    if value is None or os.path.isdir(value):
        return
    if value.startswith((".", "/", "~")) or value.count("/") > 1:
        raise ValueError(f"{name}={value!r} does not exist: it must be a local folder or a Hub id.")


def load_text(options: TextArguments, seed: int) -> TextSplits:
    """The texts of a run. seed: of the held-out tenth and of the examples to train on.

    Raises:
        ValueError: as `open_text`; a column or split is missing or empty, a text or label is, or a class has fewer
            examples than ``max_train_samples`` wants of it.
    """
    name, label_column = options.dataset, options.label_column
    if name == EMBEDDED:
        found, label_column = python_paragraphs(), label_column or "chapter"
    else:
        found, label_column = open_text(name, options.dataset_config), label_column or "label"
    columns = [options.text_column, label_column, options.text_pair_column]
    for column in filter(None, columns):
        check_column(name, column, found["train"].column_names)
    for split in filter(None, (options.eval_split, options.test_split)):
        if split not in found:
            raise ValueError(f"{name} has no split {split!r}; it has {', '.join(found)}.")
    class_names, numbers = _classes(found["train"], label_column)

    def read(split: str) -> Split:
        where = f"split {split!r} of {name}"
        rows = found[split]
        if not len(rows):
            raise ValueError(f"{where} is empty.")
        for column in filter(None, columns):
            check_column(where, column, rows.column_names)
        unknown = sorted({str(label) for label in rows[label_column] if label not in numbers})
        if unknown:
            shown = ", ".join(unknown[:5])
            raise ValueError(
                f"{where} has labels that the training split has not, in column {label_column!r}: {shown}."
            )
        texts = [_all_text(rows, column, where) for column in columns[::2] if column]
        labels = np.array([numbers[label] for label in rows[label_column]], dtype=np.int64)
        return Split(texts[0], texts[1] if len(texts) > 1 else None, labels)

    train = read("train")
    all_texts = train.texts
    eval_split = options.eval_split or next((split for split in VALIDATION if split in found), None)
    if eval_split is None:
        held_out = _share(train.labels, 0.1, seed)
        validation, train = train.select(held_out), train.select(np.setdiff1d(np.arange(len(train)), held_out))
        if not len(validation):
            raise ValueError(f"split 'train' of {name} has {len(train)} texts: too few to hold out a tenth.")
    else:
        validation = read(eval_split)
    test_split = options.test_split or (
        "test" if "test" in found and not _is_hidden(found["test"], label_column) else None
    )
    test = None if test_split is None else read(test_split)
    if options.max_train_samples is not None:
        train = train.select(_equal_parts(train.labels, class_names, options.max_train_samples, seed))
    if options.max_eval_samples is not None:
        validation = _some(validation, options.max_eval_samples)
        test = None if test is None else _some(test, options.max_eval_samples)
    return TextSplits(train, validation, test, class_names, all_texts, eval_split)


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
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    marks = ["[PAD]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SMALL_VOCABULARY,
        special_tokens=marks,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
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


def _classes(rows: Dataset, column: str) -> tuple[list[str], dict[Any, int]]:
    """Names of the classes, and the index of each value of the column."""
    from datasets import ClassLabel

    feature = rows.features[column]
    if isinstance(feature, ClassLabel):
        return list(feature.names), {number: number for number in range(feature.num_classes)}
    values = rows.unique(column)
    if any(value is None for value in values):
        raise ValueError(f"column {column!r} has rows without a label.")
    if len(values) < 2 or not all(isinstance(value, (str, int)) for value in values):
        kinds = " and ".join(sorted({type(value).__name__ for value in values})) or "nothing"
        raise ValueError(
            f"column {column!r} has {len(values)} different values ({kinds}): labels must be two or more names or "
            "whole numbers."
        )
    ordered = sorted(values, key=lambda value: (isinstance(value, str), value))
    return [str(value) for value in ordered], {value: number for number, value in enumerate(ordered)}


def _all_text(rows: Dataset, column: str, where: str) -> list[str]:
    values = list(rows[column])
    wrong = next((i for i, value in enumerate(values) if not isinstance(value, str)), None)
    if wrong is not None:
        raise ValueError(f"row {wrong} of {where} has no text in column {column!r}: {values[wrong]!r}.")
    return values


def _is_hidden(rows: Dataset, column: str) -> bool:
    """Test labels of a competition are kept back: all of them are -1, or the column is not there."""
    return column not in rows.column_names or set(rows.unique(column)) == {-1}


def _some(split: Split, count: int) -> Split:
    return split.select(np.random.default_rng(0).permutation(len(split))[:count])


def _share(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Positions of a share of each class, sorted."""
    order = _by_class(labels, seed)
    return np.sort(np.concatenate([part[: round(share * len(part))] for part in order.values()]))


def _equal_parts(labels: np.ndarray, class_names: Sequence[str], count: int, seed: int) -> np.ndarray:
    """Positions of ``count`` examples, equally many of each class, the first classes having one more; sorted.

    A larger count of the same seed has the smaller one's examples, too.
    """
    order = _by_class(labels, seed)
    each, more = divmod(count, len(class_names))
    for number, name in enumerate(class_names):
        wanted, there = each + (number < more), len(order.get(number, ()))
        if there < wanted:
            raise ValueError(
                f"max_train_samples={count} wants {wanted} examples of each of {len(class_names)} classes, and class "
                f"{name!r} has {there}. At most {there * len(class_names)} can be asked for."
            )
    return np.sort(np.concatenate([part[: each + (number < more)] for number, part in order.items()]))


def _by_class(labels: np.ndarray, seed: int) -> dict[int, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {int(label): generator.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)}
