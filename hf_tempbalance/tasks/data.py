"""Image data sets as uint8 tensors, by Hub id or local path, with the paper's augmentation on whole batches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Image, load_dataset
from datasets.exceptions import DatasetsError
from torch import Tensor


@dataclass(frozen=True)
class Source:
    """Where a data set is and how its parts are called."""

    path: str  # Hub id or local path
    config: str | None = None
    image_column: str | None = None  # None: "image" or "img", else the only column of images
    label_column: str | None = None  # None: "label", "labels" or "fine_label"
    train_split: str = "train"
    test_split: str | None = None  # None: the first of test, validation, valid, val
    mean: tuple[float, ...] | None = None  # None: measured on the training images
    std: tuple[float, ...] | None = None
    horizontal_flip: bool = True


# Columns and splits as the Hub's cards name them; means and deviations of the first four from the TempBalance code.
SOURCES = {
    "cifar10": Source(
        "uoft-cs/cifar10",
        "plain_text",
        "img",
        "label",
        test_split="test",
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
    ),
    "cifar100": Source(
        "uoft-cs/cifar100",
        "cifar100",
        "img",
        "fine_label",
        test_split="test",
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
    ),
    "svhn": Source(
        "ufldl-stanford/svhn",
        "cropped_digits",
        "image",
        "label",
        test_split="test",
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
    ),
    "tiny-imagenet": Source(
        "zh-plus/tiny-imagenet",
        None,
        "image",
        "label",
        test_split="valid",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    "fashion_mnist": Source("zalando-datasets/fashion_mnist", "fashion_mnist", "image", "label", test_split="test"),
    "digits": Source("digits", horizontal_flip=False),  # a mirrored 2 is no digit
}


class ImageTensors(torch.utils.data.Dataset):
    """Images held as one tensor; a batch is cropped, flipped and normalised as a whole, each image at random.

    The DataLoader gets a batch at a time through ``__getitems__``; `collate` unpacks it. The random numbers are a
    function of seed, epoch and image alone: neither the batch size nor the number of workers nor a resumed run
    changes them, and no global generator is read.

    Args:
        images: (N, C, H, W), uint8.
        labels: (N,), int64.
        mean: per channel, of pixels in 0 ... 1.
        std: likewise.
        padding: zero pixels around each image before the random crop back to (H, W); 0 crops nothing.
        horizontal_flip: mirror each image with probability 1/2.
        seed: of the augmentation.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        padding: int = 0,
        horizontal_flip: bool = False,
        seed: int = 0,
    ) -> None:
        self.images, self.labels, self.device = images, labels, images.device
        self.mean = torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1)
        self.std = torch.tensor(std, dtype=torch.float32).view(-1, 1, 1)
        self.padding, self.horizontal_flip, self.seed = padding, horizontal_flip, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the crops and flips of an epoch, for all images."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        count = len(self.labels)
        offsets = torch.randint(2 * self.padding + 1, (count, 2), generator=generator)
        flips = torch.rand(count, generator=generator) < (0.5 if self.horizontal_flip else 0.0)
        self._offsets, self._flips = offsets.to(self.device), flips.to(self.device)

    def to(self, device: torch.device) -> ImageTensors:
        """Hold the images on a device and make the batches there; draws the same crops and flips as on a CPU."""
        self.device = device
        self.images, self.labels = self.images.to(device), self.labels.to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        self._offsets, self._flips = self._offsets.to(device), self._flips.to(device)
        return self

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        batch = self.__getitems__([index])[0]
        return {name: values[0] for name, values in batch.items()}

    def __getitems__(self, indices: list[int]) -> list[dict[str, Tensor]]:
        """One batch in a list: pixel_values (B, C, H, W) float32, labels (B,) int64."""
        index = torch.as_tensor(indices, device=self.device)
        images = augment(self.images[index], self._offsets[index], self._flips[index], self.padding)
        pixels = images.float().div_(255).sub_(self.mean).div_(self.std)
        return [{"pixel_values": pixels, "labels": self.labels[index]}]


def collate(batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The data collator for `ImageTensors`, which makes the batch itself."""
    return batches[0]


def augment(images: Tensor, offsets: Tensor, flips: Tensor, padding: int) -> Tensor:
    """Crop and mirror each image in its own way, with one gather.

    Args:
        images: (B, C, H, W), any dtype.
        offsets: (B, 2), int64, row and column of the crop in the padded image, 0 to 2 * padding.
        flips: (B,), bool: mirror the image, before it is padded and cropped or after: the offsets are random.
        padding: zero pixels on each side.

    Returns:
        A new tensor (B, C, H, W).
    """
    batch, channels, height, width = images.shape
    padded = torch.nn.functional.pad(images, (padding,) * 4) if padding else images
    rows = offsets[:, :1] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(batch, -1)
    columns = torch.where(flips.unsqueeze(1), columns.flip(1), columns) + offsets[:, 1:]
    flat = rows.unsqueeze(2) * padded.shape[3] + columns.unsqueeze(1)
    flat = flat.view(batch, 1, -1).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, flat).view(batch, channels, height, width)


@dataclass(frozen=True)
class ImageSplits:
    """The parts of an image data set, ready for Trainer with `collate` as its data collator."""

    train: ImageTensors
    test: ImageTensors
    validation: ImageTensors | None  # held out of the training split
    class_names: list[str]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int

    def to(self, device: torch.device) -> ImageSplits:
        """The same with all images on a device."""
        validation = None if self.validation is None else self.validation.to(device)
        return replace(self, train=self.train.to(device), test=self.test.to(device), validation=validation)


def load_images(
    dataset: str = "digits",
    *,
    overrides: dict[str, Any] | None = None,
    image_size: int | None = None,
    max_train_samples: int | None = None,
    max_test_samples: int | None = None,
    validation_fraction: float = 0.0,
    padding: int = 4,
    augmentation: bool = True,
    seed: int = 0,
) -> ImageSplits:
    """Load a data set whole into memory: a name of `SOURCES`, a Hub id, or a local folder or parquet file.

    Args:
        dataset: where it is; "digits" (scikit-learn's 1,797 scans, enlarged to 32x32) needs no download.
        overrides: fields of `Source` that replace what is known or guessed.
        image_size: images are resized to this many pixels square; None keeps their size, which must be one and square.
        max_train_samples: keep so many training images, with the classes' shares unchanged.
        max_test_samples: likewise for the test split.
        validation_fraction: share of the training images to hold out, from each class; 0 to below 1.
        padding: of the random crop.
        augmentation: False: training images are normalised only.
        seed: of the subsets, the held-out images and the augmentation.

    Raises:
        FileNotFoundError: there is no such path and no such Hub id.
        ValueError: the path can't be read, a column or split is missing (the message names those there are), images
            differ in size, or a number is out of range.
    """
    if not 0 <= validation_fraction < 1:
        raise ValueError(f"validation_fraction={validation_fraction} is not allowed: it must be from 0 to below 1.")
    _checked("image_size", image_size, 1)
    train: _Split
    test: _Split
    source = replace(SOURCES.get(dataset, Source(dataset)), **(overrides or {}))
    if source.path == "digits":
        (train, test), class_names = _digits(), [str(digit) for digit in range(10)]
    else:
        (train, test), class_names = _open(source)
    train_labels, test_labels = (np.asarray(part.labels) for part in (train, test))
    kept = _stratified(train_labels, _checked("max_train_samples", max_train_samples, len(train_labels)), seed)
    held_out = _stratified(train_labels[kept], round(validation_fraction * len(kept)), seed + 1)
    tested = _stratified(test_labels, _checked("max_test_samples", max_test_samples, len(test_labels)), seed)
    images = train.decode(kept, image_size)
    mean, std = source.mean, source.std
    if mean is None or std is None:
        pixels = images.float().div(255).transpose(0, 1).flatten(1)
        mean, std = tuple(pixels.mean(1).tolist()), tuple(pixels.std(1).tolist())
    mean, std = tuple(mean), tuple(std)
    normalised = partial(ImageTensors, mean=mean, std=std)
    labels = torch.from_numpy(train_labels[kept]).long()
    is_train = torch.ones(len(kept), dtype=torch.bool)
    is_train[held_out] = False
    test_images = test.decode(tested, image_size or images.shape[-1])
    return ImageSplits(
        train=normalised(
            images[is_train],
            labels[is_train],
            padding=padding if augmentation else 0,
            horizontal_flip=augmentation and source.horizontal_flip,
            seed=seed,
        ),
        test=normalised(test_images, torch.from_numpy(test_labels[tested]).long()),
        validation=normalised(images[~is_train], labels[~is_train]) if len(held_out) else None,
        class_names=class_names,
        mean=mean,
        std=std,
        image_size=images.shape[-1],
    )


class _Split(Protocol):
    """The labels of a split, and its images on demand."""

    @property
    def labels(self) -> list[int]: ...

    def decode(self, indices: np.ndarray, image_size: int | None) -> Tensor:
        """(len(indices), 3, H, W), uint8."""


@dataclass(frozen=True)
class _Decoded:
    """A `_Split` in memory. images: (N, 3, H, W), uint8."""

    labels: list[int]
    images: Tensor

    def decode(self, indices: np.ndarray, image_size: int | None) -> Tensor:
        images = self.images[torch.from_numpy(indices)]
        return images if image_size is None else _resized(images, image_size)


@dataclass(frozen=True)
class _Rows:
    """A `_Split` of the library datasets, whose images are files."""

    labels: list[int]
    rows: Dataset
    image_column: str

    def decode(self, indices: np.ndarray, image_size: int | None) -> Tensor:
        decoded = []
        try:
            for image in self.rows.select(indices)[self.image_column]:
                image = image.convert("RGB")
                if image_size is not None and image.size != (image_size, image_size):
                    image = image.resize((image_size, image_size))
                decoded.append(np.asarray(image))
        except OSError as error:  # PIL's, which names no file
            raise ValueError(
                f"row {indices[len(decoded)]} of a split has no image that can be read: {error}"
            ) from error
        sizes = sorted({array.shape[1::-1] for array in decoded})
        if len(sizes) > 1 or sizes[0][0] != sizes[0][1]:
            raise ValueError(
                f"images have {len(sizes)} sizes, such as {sizes[0]}; they must be square and of one size. "
                "Pass image_size to resize them."
            )
        return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).contiguous()


def _digits() -> tuple[_Split, _Split]:
    """scikit-learn's digits, every fifth image of a class for testing, each pixel repeated to 32x32."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    images = _resized(images.expand(-1, 3, -1, -1), 32)
    is_test = np.zeros(len(images), dtype=bool)
    for digit in range(10):
        is_test[np.flatnonzero(digits.target == digit)[::5]] = True
    train, test = (
        _Decoded(digits.target[mask].tolist(), images[torch.from_numpy(mask)]) for mask in (~is_test, is_test)
    )
    return train, test


def _resized(images: Tensor, size: int) -> Tensor:
    return torch.nn.functional.interpolate(images, size=(size, size), mode="nearest-exact")


def _open(source: Source) -> tuple[tuple[_Split, _Split], list[str]]:
    """Training split, test split and class names of a data set in the Hub's layout."""
    path = Path(source.path).expanduser()
    try:
        if path.is_file():
            splits = DatasetDict({"train": load_dataset("parquet", data_files=str(path), split="train")})
        elif path.is_dir():
            splits = load_dataset(str(path))
        else:
            splits = load_dataset(source.path, source.config)
    except (DatasetsError, ValueError, OSError) as error:
        if path.exists():
            raise ValueError(
                f"dataset={source.path!r} can't be read: {error}. It must be a parquet file, or a folder of them or "
                "of images: train/CLASS/*.png and test/CLASS/*.png."
            ) from error
        if not isinstance(error, (ConnectionError, FileNotFoundError)):
            raise
        raise FileNotFoundError(
            f"dataset={source.path!r} is neither a local folder or file nor a data set of the Hub within reach. "
            f"Known names are {', '.join(SOURCES)}; 'digits' needs no download. ({error})"
        ) from error
    test_split = source.test_split or next((s for s in ("test", "validation", "valid", "val") if s in splits), "test")
    for name in (source.train_split, test_split):
        if name not in splits:
            raise ValueError(f"{source.path} has no split {name!r}, only {', '.join(map(repr, splits))}.")
    columns = splits[source.train_split].features
    image_column = _find_column(source, "image_column", ("image", "img"), columns)
    label_column = _find_column(source, "label_column", ("label", "labels", "fine_label"), columns)
    parts = []
    for name in (source.train_split, test_split):
        rows = splits[name]
        if not isinstance(rows.features[image_column], Image):  # written by a tool other than datasets
            rows = rows.cast_column(image_column, Image())
        parts.append(
            _Rows(rows.with_format("numpy", columns=[label_column])[label_column][:].tolist(), rows, image_column)
        )
    feature = columns[label_column]
    count = max(max(part.labels) for part in parts) + 1
    names = feature.names if isinstance(feature, ClassLabel) else [str(label) for label in range(count)]
    return (parts[0], parts[1]), list(names)


def _find_column(source: Source, field: str, usual: tuple[str, ...], columns: dict[str, Any]) -> str:
    wanted = getattr(source, field)
    candidates = (wanted,) if wanted is not None else usual
    found = next((name for name in candidates if name in columns), None)
    if found is None:
        raise ValueError(
            f"{source.path} has no column {' or '.join(map(repr, candidates))}; its columns are "
            f"{', '.join(map(repr, columns))}. Name the right one with {field}."
        )
    return found


def _checked(name: str, value: int | None, available: int) -> int:
    if value is not None and value < 1:
        raise ValueError(f"{name}={value} is not allowed: it must be 1 or larger.")
    return available if value is None else min(value, available)


def _stratified(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Sorted indices of ``count`` random items with the classes' shares kept; largest remainders fill up."""
    if count >= len(labels):
        return np.arange(len(labels))
    generator = np.random.default_rng(seed)
    classes, sizes = np.unique(labels, return_counts=True)
    shares = sizes * count / len(labels)
    quota = np.floor(shares).astype(int)
    missing = count - quota.sum()
    quota[np.argsort(quota - shares, kind="stable")[:missing]] += 1
    chosen = [
        generator.permutation(np.flatnonzero(labels == label))[:size]
        for label, size in zip(classes, quota, strict=True)
    ]
    return np.sort(np.concatenate(chosen))
