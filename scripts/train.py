"""Train an image classifier with plain SGD or with TempBalance, by the TempBalance paper's recipe.

    python scripts/train.py --config configs/quickstart.yaml --tempbalance true        # a minute on 2 cores
    accelerate launch scripts/train.py --config configs/cifar10_resnet18_tempbalance.yaml
    ... --tempbalance true --preset farms                                             # another method's settings
    ... --resume_from_checkpoint last                                                 # after a kill or Ctrl-C
    ... --overwrite_output_dir true                                                   # again, in the place of the last
    ... --push_to_hub true --hub_model_id OWNER/NAME                                  # with model card and pictures

Options come from the YAML file; flags win. The output folder gets the best and the last checkpoint, the last weights,
``results.json`` and, with TempBalance, ``tempbalance_history.jsonl``.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from hf_tempbalance import TempBalanceConfig, TempBalanceTrainingArguments
from hf_tempbalance.files import masked
from hf_tempbalance.huggingface.parser import ConfigArgumentParser, run
from hf_tempbalance.runs.output import remove_run, telling_how_to_go_on
from hf_tempbalance.tasks.image_classification import RECIPE, RunArguments, check, dataset_of, make_trainer
from hf_tempbalance.tasks.training import output_folder_for_us


def main() -> None:
    parser = ConfigArgumentParser((RunArguments, TempBalanceConfig, TempBalanceTrainingArguments), description=__doc__)
    parser.set_defaults(**RECIPE)
    options, tempbalance, args = parser.parse()
    check(options)
    with output_folder_for_us(args, overwrite=options.overwrite_output_dir) as checkpoint:
        train(options, tempbalance, args, checkpoint)


def train(
    options: RunArguments, tempbalance: TempBalanceConfig, args: TempBalanceTrainingArguments, checkpoint: str | None
) -> None:
    """Train in an output folder that no other process is in."""
    from transformers import set_seed

    from hf_tempbalance.huggingface.results_callback import ResultsCallback
    from hf_tempbalance.runs.card_facts import DataFacts
    from hf_tempbalance.tasks.data import SOURCES, Source

    set_seed(args.seed)
    trainer = make_trainer(options, tempbalance, args)
    name, dataset_id = dataset_of(options.dataset)
    source = SOURCES.get(options.dataset, Source(options.dataset))
    data = DataFacts(name, dataset_id, source.config, options.test_split or source.test_split)
    about = {"settings": tempbalance.to_dict(), "train_examples": len(trainer.train_dataset)}
    settings = {
        "config": asdict(options) | about | data.to_options(),
        "arguments": json.loads(args.to_json_string()),
    }
    results = ResultsCallback(masked(settings), is_resumed=checkpoint is not None)
    trainer.add_callback(results)
    if options.overwrite_output_dir and args.process_index == 0:
        remove_run(args.output_dir)
    with results.recording(trainer), telling_how_to_go_on(args.output_dir):
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()
    if args.push_to_hub:
        trainer.push_to_hub(dataset=name, dataset_tags=dataset_id)


if __name__ == "__main__":
    run(main)
