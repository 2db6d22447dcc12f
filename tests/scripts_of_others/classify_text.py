"""A script of the shape of run_glue.py: a small BERT from its configuration, data in memory."""

import sys
from dataclasses import dataclass, field

import numpy as np
import torch
from datasets import Dataset
from neighbour import SENTENCES
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    EvalPrediction,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    set_seed,
)


@dataclass
class DataTrainingArguments:
    max_seq_length: int = field(default=12, metadata={"help": "Longer sentences are cut."})
    max_train_samples: int | None = field(default=None, metadata={"help": "For tests."})


@dataclass
class ModelArguments:
    hidden_size: int = field(default=32, metadata={"help": "Width of the network."})


def main():
    parser = HfArgumentParser((ModelArguments, DataTrainingArguments, TrainingArguments))
    model_args, data_args, training_args = parser.parse_args_into_dataclasses()
    set_seed(training_args.seed)
    words = sorted({word for sentence, _ in SENTENCES for word in sentence.split()})
    number = {word: position + 1 for position, word in enumerate(words)}

    def preprocess(example):
        ids = [number[word] for word in example["sentence"].split()][: data_args.max_seq_length]
        padding = [0] * (data_args.max_seq_length - len(ids))
        return {"input_ids": ids + padding, "attention_mask": [1] * len(ids) + padding}

    data = Dataset.from_list([{"sentence": sentence, "label": label} for sentence, label in SENTENCES])
    data = data.map(preprocess, remove_columns=["sentence"]).train_test_split(0.25, seed=0)
    train, test = data["train"], data["test"]
    if data_args.max_train_samples is not None:
        train = train.select(range(data_args.max_train_samples))
    config = BertConfig(
        vocab_size=len(words) + 1,
        hidden_size=model_args.hidden_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=2,
    )
    model = BertForSequenceClassification(config)

    def compute_metrics(p: EvalPrediction):
        return {"accuracy": float((np.argmax(p.predictions, axis=1) == p.label_ids).mean())}

    trainer = Trainer(
        model=model, args=training_args, train_dataset=train, eval_dataset=test, compute_metrics=compute_metrics
    )
    if training_args.do_train:
        checkpoint = training_args.resume_from_checkpoint
        train_result = trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()
        trainer.save_metrics("train", train_result.metrics)
        trainer.save_state()
    if training_args.do_eval:
        metrics = trainer.evaluate(eval_dataset=test)
        trainer.save_metrics("eval", metrics)
    if training_args.do_predict:
        trainer.predict(test, metric_key_prefix="predict")
    assert sys.modules["__main__"].DataTrainingArguments is DataTrainingArguments
    assert torch.is_grad_enabled()


if __name__ == "__main__":
    main()
