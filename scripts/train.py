"""Train an image classifier with plain SGD or with TempBalance, by the TempBalance paper's recipe.

    python scripts/train.py --config configs/quickstart.yaml --tempbalance true        # a minute on 2 cores
    accelerate launch scripts/train.py --config configs/cifar10_resnet18_tempbalance.yaml
    ... --resume_from_checkpoint last                                                 # after a kill
    ... --push_to_hub true --hub_model_id OWNER/NAME                                  # with model card and pictures

Options come from the YAML file; flags win. The output folder gets the best and the last checkpoint, the last weights,
``results.json`` and, with TempBalance, ``tempbalance_history.jsonl``.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from hf_tempbalance import TempBalanceConfig, TempBalanceTrainingArguments
from hf_tempbalance.huggingface.parser import ConfigArgumentParser, run
from hf_tempbalance.runs.checkpoints import last_complete_checkpoint
from hf_tempbalance.tasks.image_classification import RECIPE, RunArguments, check, dataset_of, make_trainer


def main() -> None:
    parser = ConfigArgumentParser((RunArguments, TempBalanceConfig, TempBalanceTrainingArguments), description=__doc__)
    parser.set_defaults(**RECIPE)
    options, tempbalance, args = parser.parse()
    from transformers import set_seed

    from hf_tempbalance.huggingface.results_callback import ResultsCallback

    check(options)
    checkpoint = args.resume_from_checkpoint
    if checkpoint in ("last", "true", "True"):
        checkpoint = True
        if last_complete_checkpoint(args.output_dir)[0] is None:
            raise ValueError(f"{args.output_dir} has no complete checkpoint to resume from.")
    elif checkpoint is not None and not Path(checkpoint).is_dir():
        raise ValueError(f"resume_from_checkpoint={checkpoint!r} is not a folder. Use 'last' for the newest one.")
    set_seed(args.seed)
    trainer = make_trainer(options, tempbalance, args)
    settings = {
        "config": asdict(options) | {"settings": tempbalance.to_dict()},
        "arguments": json.loads(args.to_json_string()),
    }
    results = ResultsCallback(settings, is_resumed=checkpoint is not None)
    trainer.add_callback(results)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()
    except BaseException as error:
        results.finish(trainer, "failed", f"{type(error).__name__}: {error}")
        raise
    results.finish(trainer, "finished")
    if args.push_to_hub:
        name, dataset_id = dataset_of(options.dataset)
        trainer.push_to_hub(dataset=name, dataset_tags=dataset_id)


if __name__ == "__main__":
    run(main)
