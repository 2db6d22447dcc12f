from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PIL

from hf_tempbalance.tasks.data import SOURCES, ImageTensors, augment, collate, load_images


def images(count: int = 40, size: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def cropped(image: torch.Tensor, row: int, column: int, flip: bool, padding: int) -> torch.Tensor:
    """One image the slow way: pad with zeros, crop, mirror."""
    height, width = image.shape[1:]
    padded = torch.zeros(3, height + 2 * padding, width + 2 * padding, dtype=image.dtype)
    padded[:, padding : padding + height, padding : padding + width] = image
    crop = padded[:, row : row + height, column : column + width]
    return crop.flip(2) if flip else crop


@settings(max_examples=30, deadline=None)
@given(padding=st.integers(0, 4), seed=st.integers(0, 100))
def test_each_image_gets_its_own_crop_and_mirror(padding, seed):
    batch = images()
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.randint(2 * padding + 1, (len(batch), 2), generator=generator)
    flips = torch.rand(len(batch), generator=generator) < 0.5
    out = augment(batch, offsets, flips, padding)
    for i, image in enumerate(batch):
        assert torch.equal(out[i], cropped(image, *offsets[i].tolist(), bool(flips[i]), padding))


def dataset(**options) -> ImageTensors:
    normal = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}
    return ImageTensors(images(), torch.arange(40), **(normal | options))


def test_test_images_are_normalised_and_nothing_else():
    batch = collate(dataset().__getitems__([3, 1]))
    mean = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
    std = torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    assert batch["labels"].tolist() == [3, 1]
    assert torch.allclose(batch["pixel_values"], (images()[[3, 1]] / 255 - mean) / std, atol=1e-6)


def test_the_padding_is_black_before_the_normalisation():
    data = dataset(padding=4)
    corner = int(data._offsets.sum(1).argmin())
    assert data._offsets[corner].tolist() != [4, 4]
    first = data[corner]["pixel_values"][:, 0, 0]
    assert torch.allclose(first, -torch.tensor([0.4, 0.5, 0.6]) / torch.tensor([0.2, 0.3, 0.4]))


def test_crops_and_mirrors_depend_on_seed_epoch_and_image_alone():
    data = dataset(padding=4, horizontal_flip=True, seed=3)
    data.set_epoch(2)
    together = collate(data.__getitems__(list(range(40))))["pixel_values"]
    state = torch.get_rng_state()
    torch.rand(5)
    again = dataset(padding=4, horizontal_flip=True, seed=3)
    again.set_epoch(2)
    assert torch.equal(collate(again.__getitems__([7, 30]))["pixel_values"], together[[7, 30]])
    assert torch.equal(data[7]["pixel_values"], together[7])
    torch.set_rng_state(state)
    for seed, epoch in ((3, 1), (4, 2)):
        other = dataset(padding=4, horizontal_flip=True, seed=seed)
        other.set_epoch(epoch)
        assert not torch.equal(collate(other.__getitems__(list(range(40))))["pixel_values"], together)


def test_drawing_reads_no_global_generator():
    state = torch.get_rng_state()
    data = dataset(padding=4, horizontal_flip=True)
    data.set_epoch(1)
    data.__getitems__([1, 2, 3])
    assert torch.equal(torch.get_rng_state(), state)


def test_crops_and_mirrors_are_uniform():
    many = ImageTensors(
        torch.zeros(20000, 1, 1, 1, dtype=torch.uint8),
        torch.zeros(20000),
        mean=(0.0,),
        std=(1.0,),
        padding=4,
        horizontal_flip=True,
    )
    counts = torch.bincount((many._offsets[:, 0] * 9 + many._offsets[:, 1]), minlength=81)
    assert counts.min() > 150 and counts.max() < 350  # 247 expected
    assert abs(many._flips.float().mean() - 0.5) < 0.02


def test_the_dataloader_asks_for_whole_batches():
    loader = torch.utils.data.DataLoader(dataset(), batch_size=16, collate_fn=collate)
    assert [batch["pixel_values"].shape[0] for batch in loader] == [16, 16, 8]


def test_digits_need_no_download_and_keep_their_classes():
    splits = load_images("digits")
    assert (len(splits.train), len(splits.test), splits.image_size) == (1433, 364, 32)
    assert splits.class_names == [str(i) for i in range(10)]
    assert torch.bincount(splits.test.labels).tolist() == [36, 37, 36, 37, 37, 37, 37, 36, 35, 36]
    assert not splits.train.horizontal_flip and splits.train.padding == 4
    pixels = splits.test.images.float().div(255)
    assert splits.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=0.02)


def test_a_subset_and_held_out_images_keep_the_classes_shares_and_do_not_overlap():
    splits = load_images("digits", max_train_samples=500, validation_fraction=0.2, seed=4)
    assert (len(splits.train), len(splits.validation)) == (400, 100)
    assert torch.bincount(splits.validation.labels).min() >= 9
    train = {image.numpy().tobytes() for image in splits.train.images}
    assert not train & {image.numpy().tobytes() for image in splits.validation.images}
    assert splits.validation.padding == 0
    same = load_images("digits", max_train_samples=500, validation_fraction=0.2, seed=4)
    assert torch.equal(same.train.images, splits.train.images)
    other = load_images("digits", max_train_samples=500, validation_fraction=0.2, seed=5)
    assert not torch.equal(other.train.images, splits.train.images)


def write(folder, *, image="image", label="label", splits=("train", "test"), size=(8, 8), mode="L"):
    """A local copy of a data set in the Hub's layout: 20 images of 2 classes a split."""
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    for split in splits:
        shape = size if mode == "L" else (*size, 3)
        pictures = [PIL.fromarray(generator.integers(0, 255, shape, dtype=np.uint8), mode) for _ in range(20)]
        features = Features({image: Image(), label: ClassLabel(names=["cat", "dog"])})
        rows = Dataset.from_dict({image: pictures, label: [i % 2 for i in range(20)]}, features=features)
        rows.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return str(folder)


def test_a_local_folder_in_the_hub_s_layout_with_grey_images(tmp_path):
    splits = load_images(write(tmp_path))
    assert splits.class_names == ["cat", "dog"]
    assert splits.train.images.shape == (20, 3, 8, 8) and len(splits.test) == 20
    assert torch.equal(splits.train.images[:, 0], splits.train.images[:, 2])
    pixels = splits.train.images.float().div(255).transpose(0, 1).flatten(1)
    assert splits.mean == pytest.approx(pixels.mean(1).tolist()) and splits.std == pytest.approx(
        pixels.std(1).tolist()
    )


def test_columns_and_splits_are_guessed_or_named(tmp_path):
    guessed = load_images(write(tmp_path / "a", image="img", label="fine_label", splits=("train", "valid")))
    assert len(guessed.test) == 20
    folder = write(tmp_path / "b", image="picture", label="kind")
    named = load_images(folder, overrides={"image_column": "picture", "label_column": "kind"})
    assert len(named.train) == 20
    with pytest.raises(ValueError, match="no column 'image' or 'img'; its columns are 'picture', 'kind'"):
        load_images(folder)
    with pytest.raises(ValueError, match="no split 'dev', only 'train', 'test'"):
        load_images(folder, overrides={"test_split": "dev"})


def test_images_that_are_not_square_or_differ_in_size_need_image_size(tmp_path):
    folder = write(tmp_path, size=(8, 12), mode="RGB")
    with pytest.raises(ValueError, match="must be square and of one size. Pass image_size"):
        load_images(folder)
    assert load_images(folder, image_size=16).train.images.shape == (20, 3, 16, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_fraction": 1.0}, "validation_fraction=1.0"),
        ({"validation_fraction": -0.1}, "validation_fraction=-0.1"),
        ({"max_train_samples": 0}, "max_train_samples=0"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load_images("digits", **options)


def test_what_is_neither_here_nor_on_the_hub_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere/nothing.*'digits' needs no download"):
        load_images("nowhere/nothing")


def test_the_known_sets_have_the_paper_s_normalisation():
    assert SOURCES["cifar10"].mean == (0.4914, 0.4822, 0.4465) and SOURCES["svhn"].std == (0.1980, 0.2010, 0.1970)
    assert SOURCES["svhn"].config == "cropped_digits" and SOURCES["tiny-imagenet"].test_split == "valid"


def test_the_real_cifar10_images(cifar10):
    splits = load_images(str(cifar10), max_train_samples=200, max_test_samples=100)
    assert splits.class_names[0] == "airplane" and splits.image_size == 32
    assert torch.bincount(splits.train.labels).tolist() == [20] * 10
