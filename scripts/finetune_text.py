"""Fine-tune a text classifier of transformers with TempBalance: every matrix of the network is a layer of its own.

    python scripts/finetune_text.py --model_name_or_path google-bert/bert-base-uncased --dataset stanfordnlp/imdb
    python scripts/finetune_text.py --dataset reviews.csv --text_column review --label_column stars
    ... --preset model-balancing                         # another method's settings: hf-tempbalance presets
    ... --resume_from_checkpoint last                    # after a kill or Ctrl-C
    ... --overwrite_output_dir true                      # again, in the place of the last

The task is that of scripts/text_classification.py, with `TempBalanceTrainer`. --dataset is a Hub id, a folder with
files of each split, or one CSV, JSON lines or parquet file. What is measured: eval_accuracy on the validation split
(else a tenth that is held out) and, at the end, test_accuracy on the test split. Options come from --config FILE.yaml;
flags win. The output folder gets checkpoints, the fine-tuned model with its tokenizer, ``results.json`` and
``tempbalance_history.jsonl``; with --push_to_hub true the Hub gets it with a model card.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace

from hf_tempbalance import TempBalanceConfig, TempBalanceTrainingArguments
from hf_tempbalance.files import masked
from hf_tempbalance.huggingface.parser import ConfigArgumentParser, run
from hf_tempbalance.tasks.text_classification import RECIPE, TextArguments, check, make_trainer
from hf_tempbalance.tasks.training import output_folder_for_us, train_and_measure


@dataclass
class FinetuneArguments(TextArguments):
    """Which model on which text, and whether it is balanced."""

    model_name_or_path: str | None = field(
        default="google-bert/bert-base-uncased", metadata={"help": "Model and tokenizer: Hub id or local folder."}
    )
    tempbalance: bool = field(default=True, metadata={"help": "Balance the layers; false is the plain optimizer."})


OURS = {"output_dir": "runs/finetune_text", "learning_rate": 2e-5, "per_device_train_batch_size": 32}


def main() -> None:
    from transformers import set_seed

    from hf_tempbalance import TempBalanceTrainer
    from hf_tempbalance.huggingface.results_callback import ResultsCallback
    from hf_tempbalance.huggingface.trained_on import base_model_of
    from hf_tempbalance.runs.card_facts import DataFacts

    parser = ConfigArgumentParser(
        (FinetuneArguments, TempBalanceConfig, TempBalanceTrainingArguments), description=__doc__
    )
    parser.set_defaults(**RECIPE | OURS)
    options, tempbalance, args = parser.parse()
    check(options)
    with output_folder_for_us(args, overwrite=options.overwrite_output_dir) as checkpoint:
        set_seed(args.seed)
        balance = tempbalance if options.tempbalance else None
        trainer, test = make_trainer(options, args, TempBalanceTrainer, tempbalance=balance)
        data = DataFacts.named(options.dataset, options.dataset_config, options.eval_split)
        data = data if data.split else replace(data, part_of="train")
        about = {"settings": tempbalance.to_dict(), "base_model": base_model_of(trainer.model)}
        about |= {"train_examples": len(trainer.train_dataset)}
        settings = {
            "config": asdict(options) | about | data.to_options(),
            "arguments": json.loads(args.to_json_string()),
        }
        results = ResultsCallback(masked(settings), is_resumed=checkpoint is not None)
        trainer.add_callback(results)
        with results.recording(trainer):
            train_and_measure(trainer, test, checkpoint, overwrite=options.overwrite_output_dir)
        if args.push_to_hub:
            trainer.push_to_hub(dataset=data.name, dataset_tags=data.id)


if __name__ == "__main__":
    run(main)
