"""A script of the shape of run_image_classification.py: a small ViT, images in memory, workers that are spawned."""

import multiprocessing
from dataclasses import dataclass

import numpy as np
import torch
from transformers import HfArgumentParser, Trainer, TrainingArguments, ViTConfig, ViTForImageClassification, set_seed


@dataclass
class Image:
    pixel_values: torch.Tensor
    labels: int


class Images(torch.utils.data.Dataset):
    def __init__(self, count, seed):
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(0, 4, (count,), generator=generator).tolist()
        self.images = torch.randn(count, 1, 8, 8, generator=generator)
        for image, label in zip(self.images, self.labels, strict=True):
            image[:, 2 * label : 2 * label + 2] += 1

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return Image(self.images[index], self.labels[index])


def collate_fn(images):
    return {
        "pixel_values": torch.stack([image.pixel_values for image in images]),
        "labels": torch.tensor([image.labels for image in images]),
    }


class SpawningTrainer(Trainer):
    """Its workers import this file anew."""

    def get_train_dataloader(self):
        loader = super().get_train_dataloader()
        if self.args.dataloader_num_workers:
            loader.multiprocessing_context = multiprocessing.get_context("spawn")
        return loader


def main():
    (args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses()
    set_seed(args.seed)
    config = ViTConfig(
        image_size=8, patch_size=2, num_channels=1, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, num_labels=4,
    )  # fmt: skip
    trainer = SpawningTrainer(
        model=ViTForImageClassification(config),
        args=args,
        train_dataset=Images(64, 0),
        eval_dataset=Images(32, 1),
        data_collator=collate_fn,
        compute_metrics=lambda p: {"accuracy": float(np.mean(np.argmax(p.predictions, axis=1) == p.label_ids))},
    )
    trainer.train()
    trainer.save_model()
    trainer.save_metrics("eval", trainer.evaluate())


if __name__ == "__main__":
    main()
