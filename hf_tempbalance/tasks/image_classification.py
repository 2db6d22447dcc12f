"""Image classifiers from scratch, as scripts/train.py and the studies train them: options, data, network, Trainer."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import TempBalanceConfig
from ..huggingface.training_args import TempBalanceTrainingArguments


if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..huggingface.trainer import TempBalanceTrainer
    from .data import ImageSplits


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
    optimizer: str | None = field(
        default=None,
        metadata={"help": "sgd_snr, lookahead_sgd or any optimizer of timm, instead of one of --optim."},
    )
    optimizer_args: str | None = field(
        default=None, metadata={"help": 'Arguments of --optimizer as JSON, such as {"momentum": 0.9}.'}
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Delete the run that the output folder has, and start again."}
    )
    channels_last: bool = field(
        default=False, metadata={"help": "Memory format of images and weights; faster with bf16 on a GPU."}
    )


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


def check(options: RunArguments) -> None:
    """Refuse what can be known to fail before anything is loaded.

    Raises:
        ValueError: no such architecture, data set or optimizer, a size that is none, or arguments that are no JSON
            object.
    """
    from ..optim.named import optimizer_class
    from .backbones import check_architecture
    from .data import SOURCES

    check_architecture(options.architecture)
    is_id = options.dataset.count("/") == 1 and not options.dataset.startswith((".", "/", "~"))
    if options.dataset not in SOURCES and not is_id and not Path(options.dataset).expanduser().exists():
        raise ValueError(
            f"dataset={options.dataset!r} does not exist: it is none of {', '.join(SOURCES)}, "
            "no Hub id (owner/name) and no local folder or file."
        )
    for name in ("image_size", "max_train_samples", "max_test_samples"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} is not allowed: it must be 1 or larger.")
    if not 0 <= options.validation_fraction < 1:
        raise ValueError(
            f"validation_fraction={options.validation_fraction} is not allowed: it must be from 0 to below 1."
        )
    if options.optimizer is not None:
        optimizer_class(options.optimizer)
    from_json("model_args", options.model_args)
    from_json("optimizer_args", options.optimizer_args)


def dataset_of(dataset: str | None) -> tuple[str | None, str | None]:
    """Name for people, and id on the Hub if it has one, of what --dataset was."""
    from .data import SOURCES

    if dataset is None:
        return None, None
    if dataset in SOURCES:
        path = SOURCES[dataset].path
        return dataset, path if "/" in path else None
    is_id = dataset.count("/") == 1 and not dataset.startswith((".", "/", "~")) and not Path(dataset).exists()
    return (dataset, dataset) if is_id else (Path(dataset).name, None)


def load_data(options: RunArguments, seed: int) -> ImageSplits:
    """The images of a run. Raises as `load_images`."""
    from .data import load_images

    named = {"image_column", "label_column", "train_split", "test_split"}
    overrides = {name: getattr(options, name) for name in named} | {
        "mean": options.image_mean,
        "std": options.image_std,
    }
    return load_images(
        options.dataset,
        overrides={name: value for name, value in overrides.items() if value is not None},
        image_size=options.image_size,
        max_train_samples=options.max_train_samples,
        max_test_samples=options.max_test_samples,
        validation_fraction=options.validation_fraction,
        augmentation=options.augmentation,
        seed=seed,
    )


def make_model(options: RunArguments, data: ImageSplits) -> PreTrainedModel:
    """The network of a run, from its own initialisation. Raises as `create_image_classifier`."""
    import torch

    from .backbones import create_image_classifier

    model_args = from_json("model_args", options.model_args)
    if options.width_factor is not None:
        model_args["width_factor"] = options.width_factor
    model = create_image_classifier(
        options.architecture,
        data.class_names,
        image_size=data.image_size,
        mean=data.mean,
        std=data.std,
        model_args=model_args,
    )
    if options.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-arg]  # decorator loses self
    return model


def optimizer_of(options: RunArguments, args: TempBalanceTrainingArguments) -> dict[str, Any]:
    """Trainer's ``optimizer_cls_and_kwargs`` for --optimizer; nothing where --optim decides."""
    from ..optim.named import optimizer_class

    if options.optimizer is None:
        return {}
    arguments = {"lr": args.learning_rate} | from_json("optimizer_args", options.optimizer_args)
    return {"optimizer_cls_and_kwargs": (optimizer_class(options.optimizer), arguments)}


def make_trainer(
    options: RunArguments, tempbalance: TempBalanceConfig, args: TempBalanceTrainingArguments
) -> TempBalanceTrainer:
    """A TempBalanceTrainer with network, data and metric."""
    from transformers import TrainerCallback, ViTImageProcessor

    from ..huggingface.trainer import TempBalanceTrainer
    from .backbones import CIFAR_ARCHITECTURES
    from .data import collate
    from .metrics import compute_accuracy, predicted_class

    class Augmentation(TrainerCallback):
        """Other crops in every epoch; Accelerate tells the data set its epoch on one process only."""

        def on_epoch_begin(self, args, state, control, **kwargs) -> None:
            data.train.set_epoch(int((state.epoch or 0) + 1e-6))

    data = load_data(options, args.seed)
    model = make_model(options, data)
    processor = None
    if options.architecture in CIFAR_ARCHITECTURES:  # timm's others have it in their configuration
        size = {"height": data.image_size, "width": data.image_size}
        processor = ViTImageProcessor(size=size, image_mean=data.mean, image_std=data.std)
    args.dataloader_pin_memory = False  # the batches are made where the model is
    if args.device.type != "cpu":
        data = data.to(args.device)
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
        tempbalance=tempbalance if options.tempbalance else None,
        **optimizer_of(options, args),
    )


def from_json(name: str, text: str | None) -> dict[str, Any]:
    """The value of an option that is a JSON object. Raises ValueError where it is not one."""
    try:
        return dict(json.loads(text or "{}"))
    except RecursionError as error:
        raise ValueError(f"{name} is nested too deep.") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}={text!r} is not JSON, an object in braces: {error}") from error
