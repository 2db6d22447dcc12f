"""Fine-tune a text classifier of transformers with TempBalance: every matrix of the network is a layer of its own.

    python scripts/finetune_text.py --model_name_or_path google-bert/bert-base-uncased --dataset stanfordnlp/imdb
    python scripts/finetune_text.py --dataset reviews.csv --text_column review --label_column stars
    ... --preset model-balancing                         # another method's settings: hf-tempbalance presets
    ... --resume_from_checkpoint last                    # after a kill or Ctrl-C
    ... --overwrite_output_dir true                      # again, in the place of the last

--dataset is a Hub id, a folder with files of each split, or one CSV, JSON lines or parquet file, of which a tenth is
held out. Options come from --config FILE.yaml; flags win. The output folder gets checkpoints, the fine-tuned model
with its tokenizer, and ``tempbalance_history.jsonl``.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_tempbalance import TempBalanceConfig, TempBalanceTrainingArguments
from hf_tempbalance.huggingface.parser import ConfigArgumentParser, run
from hf_tempbalance.runs.output import checkpoint_to_resume, how_to_go_on, locked, remove_run


FORMATS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


@dataclass
class TextArguments:
    """Which model on which text."""

    dataset: str = field(metadata={"help": "Hub id, local folder, or one csv, tsv, json, jsonl or parquet file."})
    model_name_or_path: str = field(
        default="google-bert/bert-base-uncased", metadata={"help": "Model and tokenizer: Hub id or local folder."}
    )
    tempbalance: bool = field(default=True, metadata={"help": "Balance the layers; false is the plain optimizer."})
    dataset_config: str | None = field(default=None, metadata={"help": "Name of the data set's configuration."})
    text_column: str = field(default="text", metadata={"help": "Column of the text."})
    text_pair_column: str | None = field(default=None, metadata={"help": "Column of a second text."})
    label_column: str = field(default="label", metadata={"help": "Column of the class: a number or a name."})
    eval_split: str | None = field(
        default=None, metadata={"help": "Split to evaluate on; else validation, test, or a held-out tenth."}
    )
    max_length: int = field(default=128, metadata={"help": "Tokens of a text that are used."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on so many texts."})
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Delete the run that the output folder has, and start again."}
    )


RECIPE: dict[str, Any] = {
    "output_dir": "runs/finetune_text",
    "learning_rate": 2e-5,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 32,
    "weight_decay": 0.01,
    "warmup_steps": 0.06,
    "eval_strategy": "epoch",
    "logging_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "seed": 43,
}


def main() -> None:
    parser = ConfigArgumentParser(
        (TextArguments, TempBalanceConfig, TempBalanceTrainingArguments), description=__doc__
    )
    parser.set_defaults(**RECIPE)
    options, tempbalance, args = parser.parse()
    # Of several processes of one run, the first speaks for all: the launcher ends the others with it.
    with locked(args.output_dir) if args.process_index == 0 else nullcontext():
        train(options, tempbalance, args)


def train(options: TextArguments, tempbalance: TempBalanceConfig, args: TempBalanceTrainingArguments) -> None:
    """Train in an output folder that no other process is in."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, set_seed

    from hf_tempbalance import TempBalanceTrainer
    from hf_tempbalance.tasks.metrics import compute_accuracy, predicted_class

    is_first = args.process_index == 0
    overwrite = options.overwrite_output_dir or (not is_first and args.resume_from_checkpoint is None)
    checkpoint = checkpoint_to_resume(args.output_dir, args.resume_from_checkpoint, overwrite=overwrite)
    args.dataloader_pin_memory &= args.device.type != "cpu"
    set_seed(args.seed)
    splits, class_names = load_text(options, args.seed)
    tokenizer = AutoTokenizer.from_pretrained(options.model_name_or_path)
    labels = {"id2label": dict(enumerate(class_names)), "label2id": {name: i for i, name in enumerate(class_names)}}
    model = AutoModelForSequenceClassification.from_pretrained(
        options.model_name_or_path, num_labels=len(class_names), **labels
    )

    def encode(batch: dict[str, list]) -> dict[str, list]:
        pair = batch[options.text_pair_column] if options.text_pair_column else None
        encoded = tokenizer(batch[options.text_column], pair, truncation=True, max_length=options.max_length)
        return encoded | {"labels": batch[options.label_column]}

    encoded = [part.map(encode, batched=True, remove_columns=part.column_names) for part in splits]
    trainer = TempBalanceTrainer(
        model,
        args,
        train_dataset=encoded[0],
        eval_dataset=encoded[1],
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=compute_accuracy,
        preprocess_logits_for_metrics=predicted_class,
        tempbalance=tempbalance if options.tempbalance else None,
    )
    if options.overwrite_output_dir and is_first:
        remove_run(args.output_dir)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(how_to_go_on(args.output_dir)) from error
    trainer.save_model()
    trainer.save_metrics("eval", trainer.evaluate(), combined=False)


def load_text(options: TextArguments, seed: int) -> tuple[tuple[Any, Any], list[str]]:
    """(training, evaluation) with class indices as labels, and the names of the classes."""
    from datasets import ClassLabel, load_dataset

    path = Path(options.dataset)
    if path.is_file():
        if path.suffix not in FORMATS:
            raise ValueError(f"dataset={options.dataset!r} has none of the endings {', '.join(FORMATS)}.")
        separator = {"sep": "\t"} if path.suffix == ".tsv" else {}
        found = load_dataset(FORMATS[path.suffix], data_files={"train": str(path)}, **separator)
    else:
        found = load_dataset(options.dataset, options.dataset_config)
    train = found["train"]
    wanted = [options.text_column, options.label_column, options.text_pair_column]
    for column in filter(None, wanted):
        if column not in train.column_names:
            raise ValueError(f"{options.dataset} has no column {column!r}; it has {', '.join(train.column_names)}.")
    if not isinstance(train.features[options.label_column], ClassLabel):
        found = found.class_encode_column(options.label_column)
        train = found["train"]
    label = train.features[options.label_column]
    split = options.eval_split or next((name for name in ("validation", "test") if name in found), None)
    if split is not None and split not in found:
        raise ValueError(f"{options.dataset} has no split {split!r}; it has {', '.join(found)}.")
    if split is None:
        parts = train.train_test_split(0.1, seed=seed, stratify_by_column=options.label_column)
        train, test = parts["train"], parts["test"]
    else:
        test = found[split].cast_column(options.label_column, label)
    if options.max_train_samples is not None and options.max_train_samples < len(train):
        train = train.shuffle(seed=seed).select(range(options.max_train_samples))
    return (train, test), label.names


if __name__ == "__main__":
    run(main)
