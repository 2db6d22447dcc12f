"""What a model card says of the data, as results.json has it."""

from __future__ import annotations

from dataclasses import dataclass
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
    """

    name: str | None = None
    id: str | None = None
    config: str | None = None
    split: str | None = None

    @classmethod
    def named(cls, dataset: str, config: str | None = None, split: str | None = None) -> DataFacts:
        """The data that an option names: an id of the Hub, or a file or folder, of which the name alone is told."""
        is_id = dataset.count("/") == 1 and not dataset.startswith((".", "/", "~")) and not Path(dataset).exists()
        return cls(dataset if is_id else Path(dataset).name, dataset if is_id else None, config, split)

    @classmethod
    def of(cls, run: Run) -> DataFacts:
        """The data of a run, from the fields that `to_options` gives."""
        found = {name: run.options.get(f"dataset_{name}") for name in ("name", "id", "config", "split")}
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
        found = {"name": self.name, "id": self.id, "config": self.config, "split": self.split}
        return {f"dataset_{name}": value for name, value in found.items() if value}

    def or_else(self, other: DataFacts) -> DataFacts:
        """These, and what is not known here from another source."""
        return DataFacts(
            self.name or other.name, self.id or other.id, self.config or other.config, self.split or other.split
        )
