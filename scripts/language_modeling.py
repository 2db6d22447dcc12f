"""Train a causal language model from scratch: a Trainer with perplexity beside the loss, no TempBalance in it.

    python scripts/language_modeling.py                                # a minute on 2 cores, nothing is downloaded
    python scripts/language_modeling.py --dataset Salesforce/wikitext --dataset_config wikitext-2-raw-v1
    python scripts/language_modeling.py --dataset notes.jsonl --hidden_size 256 --num_hidden_layers 6 --bf16 true
    hf-tempbalance run --preset llr scripts/language_modeling.py ...   # balanced and recorded
    ... --embedding_lr_factor 3                       # embedding and output head alone train at 3 times the rate
    ... --resume_from_checkpoint last                 # after a kill or Ctrl-C
    ... --overwrite_output_dir true                   # again, in the place of the last
    ... --save_strategy no                            # numbers alone: neither checkpoints nor the model are kept

--dataset is a Hub id, a folder with files of each split, or one CSV, JSON lines or parquet file. The tokenizer is a
byte-level BPE made from the training split; documents are packed into blocks. Both are cached in HF_HOME for all runs
on the same text. What is measured: eval_loss and eval_perplexity on the validation split (else every tenth document)
and, at the end, test_loss and test_perplexity. Options come from --config FILE.yaml; flags win.
"""

from __future__ import annotations

from transformers import TrainingArguments

from hf_tempbalance.huggingface.parser import ConfigArgumentParser, run
from hf_tempbalance.tasks.language_modeling import RECIPE, LanguageArguments, check, make_trainer
from hf_tempbalance.tasks.training import run_task


def main() -> None:
    parser = ConfigArgumentParser((LanguageArguments, TrainingArguments), description=__doc__)
    parser.set_defaults(**RECIPE)
    options, args = parser.parse()
    check(options)
    run_task(options, args, make_trainer)


if __name__ == "__main__":
    run(main)
