"""Train or fine-tune a text classifier of transformers: a plain Trainer, no TempBalance in it.

    python scripts/text_classification.py                             # half a minute on 2 cores, nothing is downloaded
    python scripts/text_classification.py --model_name_or_path google-bert/bert-base-uncased --dataset stanfordnlp/imdb
    python scripts/text_classification.py --dataset reviews.csv --text_column review --label_column stars
    hf-tempbalance run --preset model-balancing scripts/text_classification.py ...      # balanced and recorded
    ... --max_train_samples 64 --seed 7                  # 64 examples, as many of each class, other ones for each seed
    ... --resume_from_checkpoint last                    # after a kill or Ctrl-C
    ... --overwrite_output_dir true                      # again, in the place of the last
    ... --save_strategy no                               # numbers alone: neither checkpoints nor the model are kept

--dataset is a Hub id, a folder with files of each split, or one CSV, JSON lines or parquet file. What is measured:
eval_accuracy on the validation split (else a tenth that is held out) and, at the end, test_accuracy on the test split.
Options come from --config FILE.yaml; flags win.
"""

from __future__ import annotations

from transformers import TrainingArguments

from hf_tempbalance.huggingface.parser import ConfigArgumentParser, run
from hf_tempbalance.tasks.text_classification import FROM_SCRATCH, RECIPE, TextArguments, check, make_trainer
from hf_tempbalance.tasks.training import run_task


def main() -> None:
    parser = ConfigArgumentParser((TextArguments, TrainingArguments), description=__doc__)
    parser.set_defaults(**RECIPE)
    options, args = parser.parse()
    if options.model_name_or_path is None:
        parser.set_defaults(**FROM_SCRATCH)
        options, args = parser.parse()
    check(options)
    run_task(options, args, make_trainer)


if __name__ == "__main__":
    run(main)
