"""Which texts a classifier is trained, evaluated and tested on: splits, classes, and a part of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .text_data import EMBEDDED, VALIDATION, check_column, open_text, python_paragraphs


if TYPE_CHECKING:
    from datasets import Dataset

    from .text_classification import TextArguments


HIDDEN = (None, -1)  # in the place of a label that is not told


@dataclass(frozen=True)
class Split:
    """Texts (N), second texts or None, and class indices (N), int64."""

    texts: list[str]
    pairs: list[str] | None
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: np.ndarray) -> Split:
        """Those of some positions, in the order given."""
        pairs = None if self.pairs is None else [self.pairs[i] for i in indices]
        return Split([self.texts[i] for i in indices], pairs, self.labels[indices])


@dataclass(frozen=True)
class TextSplits:
    """The parts of a data set.

    Attributes:
        all_texts: of the whole training split, also of what is not trained on.
        eval_split: what the validation part is called there; None for a part of the training split.
    """

    train: Split
    validation: Split
    test: Split | None
    class_names: list[str]
    all_texts: list[str]
    eval_split: str | None


def load_text(options: TextArguments, seed: int) -> TextSplits:
    """The texts of a run. seed: of the held-out tenth and of the examples to train on.

    Raises:
        ValueError: as `open_text`; a column or split is missing or empty, a text or label is, or a class has fewer
            examples than ``max_train_samples`` wants of it.
    """
    name, label_column = options.dataset, options.label_column
    if name == EMBEDDED:
        found, label_column = python_paragraphs(), label_column or "chapter"
    else:
        found, label_column = open_text(name, options.dataset_config), label_column or "label"
    columns = [options.text_column, label_column, options.text_pair_column]
    for column in filter(None, columns):
        check_column(name, column, found["train"].column_names)
    for split in filter(None, (options.eval_split, options.test_split)):
        if split not in found:
            raise ValueError(f"{name} has no split {split!r}; it has {', '.join(found)}.")
    class_names, numbers = _classes(found["train"], label_column)

    def read(split: str) -> Split:
        where = f"split {split!r} of {name}"
        rows = found[split]
        if not len(rows):
            raise ValueError(f"{where} is empty.")
        for column in filter(None, columns):
            check_column(where, column, rows.column_names)
        values = list(rows[label_column])
        hidden = [i for i, value in enumerate(values) if value not in numbers and value in HIDDEN]
        if hidden:
            raise ValueError(
                f"row {hidden[0]} of {where} has no label in column {label_column!r}: {values[hidden[0]]}. Take rows "
                "without a label out, or name another split."
            )
        unknown = sorted({str(value) for value in values if value not in numbers})
        if unknown:
            shown = ", ".join(unknown[:5])
            raise ValueError(
                f"{where} has labels that the training split has not, in column {label_column!r}: {shown}."
            )
        texts = [_all_text(rows, column, where) for column in columns[::2] if column]
        labels = np.array([numbers[value] for value in values], dtype=np.int64)
        return Split(texts[0], texts[1] if len(texts) > 1 else None, labels)

    train = read("train")
    all_texts = train.texts
    eval_split = options.eval_split or next((split for split in VALIDATION if split in found), None)
    if eval_split is None:
        held_out = _share(train.labels, 0.1, seed)
        validation, train = train.select(held_out), train.select(np.setdiff1d(np.arange(len(train)), held_out))
        if not len(validation):
            raise ValueError(f"split 'train' of {name} has {len(train)} texts: too few to hold out a tenth.")
    else:
        validation = read(eval_split)
    test_split = options.test_split or (
        "test" if "test" in found and not _is_hidden(found["test"], label_column) else None
    )
    test = None if test_split is None else read(test_split)
    if options.max_train_samples is not None:
        train = train.select(_equal_parts(train.labels, class_names, options.max_train_samples, seed))
    if options.max_eval_samples is not None:
        validation = _some(validation, options.max_eval_samples)
        test = None if test is None else _some(test, options.max_eval_samples)
    return TextSplits(train, validation, test, class_names, all_texts, eval_split)


def _classes(rows: Dataset, column: str) -> tuple[list[str], dict[Any, int]]:
    """Names of the classes, and the index of each value of the column."""
    from datasets import ClassLabel

    feature = rows.features[column]
    if isinstance(feature, ClassLabel):
        return list(feature.names), {number: number for number in range(feature.num_classes)}
    values = [value for value in rows.unique(column) if value is not None]
    if len(values) < 2 or not all(isinstance(value, (str, int)) for value in values):
        kinds = " and ".join(sorted({type(value).__name__ for value in values})) or "nothing"
        raise ValueError(
            f"column {column!r} has {len(values)} different values ({kinds}): labels must be two or more names or "
            "whole numbers."
        )
    ordered = sorted(values, key=lambda value: (isinstance(value, str), value))
    return [str(value) for value in ordered], {value: number for number, value in enumerate(ordered)}


def _all_text(rows: Dataset, column: str, where: str) -> list[str]:
    values = list(rows[column])
    wrong = next((i for i, value in enumerate(values) if not isinstance(value, str)), None)
    if wrong is not None:
        raise ValueError(f"row {wrong} of {where} has no text in column {column!r}: {values[wrong]!r}.")
    return values


def _is_hidden(rows: Dataset, column: str) -> bool:
    """Test labels of a competition are kept back: none of them is one, or the column is not there."""
    return column not in rows.column_names or set(rows.unique(column)) <= set(HIDDEN)


def _some(split: Split, count: int) -> Split:
    return split.select(np.random.default_rng(0).permutation(len(split))[:count])


def _share(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Positions of a share of each class, sorted."""
    order = _by_class(labels, seed)
    return np.sort(np.concatenate([part[: round(share * len(part))] for part in order.values()]))


def _equal_parts(labels: np.ndarray, class_names: Sequence[str], count: int, seed: int) -> np.ndarray:
    """Positions of ``count`` examples, equally many of each class, the first classes having one more; sorted.

    A larger count of the same seed has the smaller one's examples, too.
    """
    order = _by_class(labels, seed)
    each, more = divmod(count, len(class_names))
    there = [len(order.get(number, ())) for number in range(len(class_names))]
    if any(has < each + (number < more) for number, has in enumerate(there)):
        least = min(there)
        raise ValueError(
            f"max_train_samples={count} wants {-(-count // len(there))} examples of each of {len(there)} classes, and "
            f"class {class_names[there.index(least)]!r} has {least}. At most {least * len(there)} can be asked for."
        )
    return np.sort(np.concatenate([part[: each + (number < more)] for number, part in order.items()]))


def _by_class(labels: np.ndarray, seed: int) -> dict[int, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {int(label): generator.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)}
