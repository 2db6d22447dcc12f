"""What a model card says of the data, as results.json has it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from .run import Run
from .settings import flags


@dataclass(frozen=True)
class DataFacts:
    """The data of a run; None is what is not known.

    Attributes:
        name: for people.
        id: owner/name on the Hub.
        config: the data set's configuration there.
        split: what a metric whose name has no split was measured on.
        part_of: the training split, where that was a part of it, which has no name.
    """

    name: str | None = None
    id: str | None = None
    config: str | None = None
    split: str | None = None
    part_of: str | None = None

    @classmethod
    def named(cls, dataset: str, config: str | None = None, split: str | None = None) -> DataFacts:
        """The data that an option names: an id of the Hub, or a file or folder, of which the name alone is told."""
        is_id = dataset.count("/") == 1 and not dataset.startswith((".", "/", "~")) and not Path(dataset).exists()
        return cls(dataset if is_id else Path(dataset).name, dataset if is_id else None, config, split)

    @classmethod
    def of(cls, run: Run) -> DataFacts:
        """The data of a run, from the fields that `to_options` gives."""
        found = {field.name: run.options.get(f"dataset_{field.name}") for field in fields(cls)}
        found["name"] = found["name"] or run.options.get("dataset")
        return cls(**{name: value for name, value in found.items() if value and isinstance(value, str)})

    @classmethod
    def of_script(cls, arguments: list[str]) -> DataFacts:
        """The data that a script of others was told to take, by the names that such options have."""
        given = flags(arguments)
        name = given.get("dataset_name") or given.get("dataset")
        config = given.get("dataset_config_name") or given.get("dataset_config")
        return cls.named(name, config) if name else cls()

    def to_options(self) -> dict[str, Any]:
        """The fields of ``config`` in results.json: what is known of them."""
        return {f"dataset_{name}": value for name, value in asdict(self).items() if value}

    def or_else(self, other: DataFacts) -> DataFacts:
        """These, and what is not known here from another source."""
        mine, others = asdict(self), asdict(other)
        return DataFacts(**{name: mine[name] or others[name] for name in mine})

    @property
    def measured_on(self) -> str:
        """Where the metrics are from, as a sentence; empty where it is not known."""
        split = f"the split {self.split}" if self.split else f"a part of the split {self.part_of}"
        return (
            f"On {split} of {self.name}, where a name tells no other."
            if self.name and (self.split or self.part_of)
            else ""
        )
