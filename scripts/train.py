"""Train an image classifier with plain SGD or with TempBalance, by the TempBalance paper's recipe.

    python scripts/train.py --config configs/quickstart.yaml --tempbalance true        # a minute on 2 cores
    accelerate launch scripts/train.py --config configs/cifar10_resnet18_tempbalance.yaml
    ... --resume_from_checkpoint last                                                 # after a kill

Options come from the YAML file; flags win. The output folder gets the best and the last checkpoint, the last weights,
``results.json`` and, with TempBalance, ``tempbalance_history.jsonl``.
"""

from __future__ import annotations

import json
import platform
import subprocess
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hf_tempbalance import TempBalanceConfig, TempBalanceTrainingArguments
from hf_tempbalance.checkpoints import last_complete_checkpoint
from hf_tempbalance.parser import ConfigArgumentParser, run


@dataclass
class RunArguments:
    """What is trained on what."""

    tempbalance: bool = field(default=False, metadata={"help": "Balance the layers; false is the plain optimizer."})
    architecture: str = field(
        default="resnet18_cifar",
        metadata={"help": "resnet{18,34}_cifar, vgg{16,19}_cifar, wrn16_8_cifar, wrn28_6_cifar or any name of timm."},
    )
    width_factor: float | None = field(default=None, metadata={"help": "Times the width of a *_cifar network."})
    model_args: str | None = field(
        default=None, metadata={"help": 'Arguments of the network as JSON, such as {"depth": 22}.'}
    )
    dataset: str = field(
        default="digits",
        metadata={
            "help": "digits (nothing to download), cifar10, cifar100, svhn, tiny-imagenet, fashion_mnist, any other "
            "Hub id, or a local folder or parquet file."
        },
    )
    image_column: str | None = field(default=None, metadata={"help": "Column of the images, if it is not guessed."})
    label_column: str | None = field(default=None, metadata={"help": "Column of the labels, if it is not guessed."})
    train_split: str | None = field(default=None, metadata={"help": "Name of the training split."})
    test_split: str | None = field(default=None, metadata={"help": "Name of the test split."})
    image_mean: list[float] | None = field(default=None, metadata={"help": "Mean of each channel, pixels in 0 to 1."})
    image_std: list[float] | None = field(default=None, metadata={"help": "Deviation of each channel, likewise."})
    image_size: int | None = field(default=None, metadata={"help": "Resize images to this many pixels square."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Size of a stratified, seeded subset."})
    max_test_samples: int | None = field(default=None, metadata={"help": "Likewise for the test split."})
    validation_fraction: float = field(
        default=0.0,
        metadata={"help": "Hold out this share of the training split and choose the best checkpoint on it."},
    )
    augmentation: bool = field(default=True, metadata={"help": "Random crops and mirror images."})


# Trainer's defaults are not those of a CIFAR recipe. All can be set in a file or by a flag.
RECIPE: dict[str, Any] = {
    # The paper's, from its code (bash_scripts/config/tb.txt and train_tb.sh).
    "num_train_epochs": 200,
    "per_device_train_batch_size": 128,
    "learning_rate": 0.1,
    "optim": "sgd",
    "optim_args": "momentum=0.9",
    "weight_decay": 5e-4,
    "weight_decay_on_all": True,
    "lr_scheduler_type": "cosine",
    "scheduler_unit": "epoch",
    "max_grad_norm": 0.0,
    "seed": 43,
    # Ours: evaluation and checkpoints every epoch, the best and the last one kept.
    "output_dir": "runs/train",
    "per_device_eval_batch_size": 500,
    "eval_strategy": "epoch",
    "logging_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "metric_for_best_model": "accuracy",
    "greater_is_better": True,
}


def main() -> None:
    parser = ConfigArgumentParser((RunArguments, TempBalanceConfig, TempBalanceTrainingArguments), description=__doc__)
    parser.set_defaults(**RECIPE)
    options, tempbalance, args = parser.parse()
    from transformers import set_seed

    checkpoint = args.resume_from_checkpoint
    if checkpoint in ("last", "true", "True"):
        checkpoint = True
        if last_complete_checkpoint(args.output_dir)[0] is None:
            raise ValueError(f"{args.output_dir} has no complete checkpoint to resume from.")
    elif checkpoint is not None and not Path(checkpoint).is_dir():
        raise ValueError(f"resume_from_checkpoint={checkpoint!r} is not a folder. Use 'last' for the newest one.")
    args.dataloader_pin_memory &= args.device.type != "cpu"  # warns in every epoch where there is no accelerator
    set_seed(args.seed)
    trainer = make_trainer(options, tempbalance if options.tempbalance else None, args)
    results = {"status": "running", "config": asdict(options) | {"settings": tempbalance.to_dict()}}
    results |= {"arguments": json.loads(args.to_json_string()), "environment": environment(args)}
    start = time.time()
    try:
        if args.should_save:
            write_results(args.output_dir, results)
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()
        results["status"] = "finished"
    except BaseException as error:
        results |= {"status": "failed", "error": f"{type(error).__name__}: {error}"}
        raise
    finally:
        results |= {"seconds": time.time() - start} | outcome(trainer)
        if args.should_save:
            write_results(args.output_dir, results)


def make_trainer(
    options: RunArguments, tempbalance: TempBalanceConfig | None, args: TempBalanceTrainingArguments
) -> Any:
    """A TempBalanceTrainer with model, data and metric."""
    from transformers import TrainerCallback, ViTImageProcessor

    from hf_tempbalance import TempBalanceTrainer
    from hf_tempbalance.backbones import CIFAR_ARCHITECTURES, create_image_classifier
    from hf_tempbalance.data import collate, load_images
    from hf_tempbalance.metrics import compute_accuracy, predicted_class

    class Augmentation(TrainerCallback):
        """Other crops in every epoch; Accelerate tells the data set its epoch on one process only."""

        def on_epoch_begin(self, args, state, control, **kwargs) -> None:
            data.train.set_epoch(int((state.epoch or 0) + 1e-6))

    named = {"image_column", "label_column", "train_split", "test_split"}
    overrides = {name: getattr(options, name) for name in named} | {
        "mean": options.image_mean,
        "std": options.image_std,
    }
    data = load_images(
        options.dataset,
        overrides={name: value for name, value in overrides.items() if value is not None},
        image_size=options.image_size,
        max_train_samples=options.max_train_samples,
        max_test_samples=options.max_test_samples,
        validation_fraction=options.validation_fraction,
        augmentation=options.augmentation,
        seed=args.seed,
    )
    try:
        model_args = json.loads(options.model_args or "{}")
    except ValueError as error:
        raise ValueError(f"model_args={options.model_args!r} is not JSON: {error}") from error
    if options.width_factor is not None:
        model_args["width_factor"] = options.width_factor
    image = {"mean": data.mean, "std": data.std}
    model = create_image_classifier(
        options.architecture, data.class_names, image_size=data.image_size, model_args=model_args, **image
    )
    processor = None
    if options.architecture in CIFAR_ARCHITECTURES:  # timm's others have it in their configuration
        size = {"height": data.image_size, "width": data.image_size}
        processor = ViTImageProcessor(size=size, image_mean=data.mean, image_std=data.std)
    evaluated: Any = data.test
    if data.validation is not None:
        evaluated = {"validation": data.validation, "test": data.test}
        if args.metric_for_best_model == "accuracy":
            args.metric_for_best_model = "validation_accuracy"
    return TempBalanceTrainer(
        model,
        args,
        data_collator=collate,
        train_dataset=data.train,
        eval_dataset=evaluated,
        processing_class=processor,
        compute_metrics=compute_accuracy,
        preprocess_logits_for_metrics=predicted_class,
        callbacks=[Augmentation()],
        tempbalance=tempbalance,
    )


def outcome(trainer: Any) -> dict[str, Any]:
    """What the run has measured so far: metrics per epoch, best and last checkpoint, seconds in TempBalance."""
    from hf_tempbalance import TempBalanceCallback

    epochs: dict[float, dict[str, float]] = {}
    for entry in trainer.state.log_history:
        if "loss" in entry or any(key.startswith("eval_") for key in entry):
            epochs.setdefault(round(entry["epoch"], 6), {}).update(entry)
    callbacks = [c for c in trainer.callback_handler.callbacks if isinstance(c, TempBalanceCallback)]
    last, _ = last_complete_checkpoint(trainer.args.output_dir)
    return {
        "epochs": [epochs[epoch] for epoch in sorted(epochs)],
        "best_metric": trainer.state.best_metric,
        "best_checkpoint": trainer.state.best_model_checkpoint,
        "last_checkpoint": str(last) if last else None,
        "tempbalance_seconds": sum(callback.seconds for callback in callbacks),
    }


def environment(args: TempBalanceTrainingArguments) -> dict[str, Any]:
    """Versions, code and machine."""
    import torch

    def git(*command: str) -> str | None:
        done = subprocess.run(
            ["git", *command], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else None

    packages = ("hf_tempbalance", "torch", "transformers", "accelerate", "timm", "datasets", "numpy")
    changes = git("status", "--porcelain")
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "commit": git("rev-parse", "HEAD"),
        "dirty": None if changes is None else bool(changes),
        "device": torch.cuda.get_device_name() if args.device.type == "cuda" else args.device.type,
        "processes": args.world_size,
        "threads": torch.get_num_threads(),
        "seed": args.seed,
    }


def write_results(folder: str, results: dict[str, Any]) -> None:
    """Replace results.json in one move, so that a killed run leaves the last whole one."""
    path = Path(folder, "results.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    draft.replace(path)


if __name__ == "__main__":
    run(main)
