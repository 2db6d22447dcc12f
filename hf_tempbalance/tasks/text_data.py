"""Data sets of text: a Hub id, a folder, one file, or Python's own documentation, which needs no download."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from datasets import DatasetDict

EMBEDDED = "python-docs"
FORMATS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
VALIDATION = ("validation", "valid", "val", "dev")

# Pages of pydoc_data.topics, by the chapter that they are told apart by.
CHAPTERS = {
    "data model": ("types", "specialnames"),
    "statements": ("compound", "assignment", "raise", "import", "global", "assert", "del", "return"),
    "text": ("formatstrings", "string-methods", "strings", "typesseq"),
}


def check_dataset(dataset: str) -> None:
    """Refuse what can be known to be no data set before anything is loaded.

    Raises:
        ValueError: no such file or folder and no Hub id, or a file of another kind.
    """
    path = Path(dataset).expanduser()
    is_id = dataset.count("/") <= 1 and not dataset.startswith((".", "/", "~")) and path.suffix not in FORMATS
    if path.is_file() and path.suffix not in FORMATS:
        raise ValueError(f"dataset={dataset!r} has none of the endings {', '.join(FORMATS)}.")
    if dataset != EMBEDDED and not path.exists() and not is_id:
        raise ValueError(
            f"dataset={dataset!r} does not exist: it is no local folder or file, no Hub id, and not {EMBEDDED!r}."
        )


def check_model(name: str, value: str | None) -> None:
    """Raise ValueError for a path that is no folder; whether a Hub id is one, the Hub must say."""
    if value is None or os.path.isdir(value):
        return
    if value.startswith((".", "/", "~")) or value.count("/") > 1:
        raise ValueError(f"{name}={value!r} does not exist: it must be a local folder or a Hub id.")


def open_text(dataset: str, config: str | None = None) -> DatasetDict:
    """The splits of a data set, at least "train".

    Args:
        dataset: Hub id, folder with files of each split, or one file, which is "train".
        config: name of a configuration on the Hub.

    Raises:
        ValueError: it can't be read, or has no training split.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    check_dataset(dataset)
    path = Path(dataset).expanduser()
    try:
        if path.is_file():
            separator = {"sep": "\t"} if path.suffix == ".tsv" else {}
            found = load_dataset(FORMATS[path.suffix], data_files={"train": str(path)}, **separator)
        else:
            found = load_dataset(str(path) if path.is_dir() else dataset, config)
    except (DatasetsError, ValueError, OSError) as error:
        what = "can't be read" if path.exists() else "is no local file or folder and can't be had from the Hub"
        raise ValueError(f"dataset={dataset!r} {what} ({type(error).__name__}: {error}).") from error
    if "train" not in found:
        raise ValueError(f"{dataset} has no split 'train'; it has {', '.join(found)}.")
    return found


def check_column(dataset: str, column: str, columns: list[str]) -> None:
    """Raise ValueError where a column is not there; the message names those that are."""
    if column not in columns:
        raise ValueError(f"{dataset} has no column {column!r}; it has {', '.join(columns)}.")


def python_paragraphs() -> DatasetDict:
    """Paragraphs of the Python documentation, each with the chapter it is from (`CHAPTERS`).

    About 950 paragraphs in columns "text" and "chapter", 80 % for training, 10 % for validation and for testing. Pages
    quote each other: a paragraph counts once. The text is that of the running Python, so versions differ a little.

    Raises:
        ValueError: this Python comes without its documentation.
    """
    topics = _topics()
    rows: dict[str, str] = {}
    for chapter, pages in CHAPTERS.items():
        for page in pages:
            for paragraph in _paragraphs(topics.get(page, "")):
                if len(paragraph) >= 60:
                    rows.setdefault(" ".join(paragraph.split()), chapter)
    return _in_tenths({"text": list(rows), "chapter": list(rows.values())})


def python_pages() -> DatasetDict:
    """Pages of the Python documentation, in the column "text".

    About 350,000 characters; 80 % of the pages for training, 10 % for validation and for testing. A paragraph that an
    earlier page has is left out, so no split holds one of another.

    Raises:
        ValueError: this Python comes without its documentation.
    """
    seen: set[str] = set()
    pages = []
    for _, page in sorted(_topics().items()):
        new = [paragraph for paragraph in _paragraphs(page) if paragraph not in seen]
        seen.update(new)
        if len(text := "\n\n".join(new)) >= 500:
            pages.append(text)
    return _in_tenths({"text": pages})


def _paragraphs(page: str) -> Iterator[str]:
    return (paragraph for part in page.split("\n\n") if (paragraph := part.strip("\n")))


def _in_tenths(columns: dict[str, list[str]]) -> DatasetDict:
    from datasets import Dataset, DatasetDict

    tenths = {"train": (1, 2, 3, 4, 6, 7, 8, 9), "validation": (0,), "test": (5,)}
    return DatasetDict(
        {
            split: Dataset.from_dict(
                {name: [v for i, v in enumerate(values) if i % 10 in kept] for name, values in columns.items()}
            )
            for split, kept in tenths.items()
        }
    )


def _topics() -> dict[str, str]:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise ValueError(
            f"dataset={EMBEDDED!r} is the documentation that comes with Python (pydoc_data), and this Python comes "
            "without it. Give another --dataset: a Hub id, a local folder or a file."
        ) from error
    return topics
