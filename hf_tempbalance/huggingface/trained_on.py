"""What a Trainer's model and data sets tell of where they come from, for results.json and the model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.utils import is_datasets_available

from ..runs.card_facts import DataFacts


# Builders that read files: what `datasets` calls such a data set is the format, unless it was loaded from a folder.
FORMATS = {"arrow", "csv", "json", "pandas", "parquet", "sql", "text", "xml", "webdataset", "generator"}
FORMATS |= {"imagefolder", "audiofolder", "videofolder", "pdffolder"}


def data_facts(train: Any, evaluated: Any) -> DataFacts:
    """What `datasets` knows of the data of a Trainer; nothing of data sets of other kinds.

    The split is that of the evaluation; a part of the training split has the name of that in `datasets`.
    """
    data = evaluated if _is_hf(evaluated) else train
    if not _is_hf(data):
        return DataFacts()
    name = data.info.dataset_name or data.info.builder_name
    config = data.info.config_name
    splits = [str(part.split) if _is_hf(part) and part.split is not None else None for part in (train, evaluated)]
    return DataFacts(
        name=None if name in FORMATS else name,
        config=None if name in FORMATS or str(config).startswith("default") else config,
        split=splits[1] if splits[1] != splits[0] else None,
        part_of=splits[0] if splits[1] == splits[0] and evaluated is not train else None,
    )


def base_model_of(model: Any) -> str | None:
    """The model on the Hub that was fine-tuned; a folder is none."""
    name = getattr(
        getattr(model, "config", None), "_name_or_path", None
    )  # a module of one's own may have any `config`
    return name if isinstance(name, str) and name and not Path(name).is_dir() else None


def _is_hf(data: Any) -> bool:
    if not is_datasets_available():
        return False
    from datasets import Dataset, IterableDataset

    return isinstance(data, Dataset | IterableDataset)
