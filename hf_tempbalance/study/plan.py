"""From a study to its runs: axes, methods, seeds, and the rate that each cell is tuned over."""

from __future__ import annotations

import fnmatch
import hashlib
import itertools
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..files import masked


# Of scripts/train.py; of another script its flags, and under METHOD the settings of TempBalance with "preset".
Options = dict[str, Any]
METHOD = "method"


@dataclass(frozen=True)
class Metric:
    """What the runs of any script are judged by; names as in results.json, such as "eval_accuracy" or "test_loss".

    choose: the metric that a tuned value is chosen by. report: the one that is compared. maximize_choose,
    maximize_report: whether larger values are better ones.
    """

    choose: str
    report: str
    maximize_choose: bool
    maximize_report: bool


@dataclass(frozen=True)
class Tuning:
    """Every cell is run with each value of one option; the best on held-out data is the one that counts.

    option: one of the script's. values: tried for every cell alike. seeds: those of the trial runs, which count
    among the runs of a cell where they are seeds of the study.
    """

    option: str
    values: tuple[Any, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """One training run. name: of its folder, cell, value that is tuned and seed. cell: axis -> label."""

    name: str
    cell: dict[str, str]
    seed: int
    options: Options
    tuned: Any = None


@dataclass(frozen=True)
class Study:
    """A study file, checked and resolved.

    train: options of every run. axes: axis -> label -> options. cells: (axis -> labels, options) that are set where
    all axes have one of the labels, later ones over earlier ones. baseline: axis -> label to compare with. script:
    the script as the file names it, and metric, what its runs are judged by; None for scripts/train.py.
    controls: label of the baseline's axis -> labels that it is compared with beside what the report finds by itself.
    script_path: where it is on this machine; None for a study that was read from its folder.
    kept_version: version of a study that was read from its folder, where paths may have been cut off since.
    """

    name: str
    train: Options
    axes: dict[str, dict[str, Options]]
    seeds: tuple[int, ...]
    baseline: dict[str, str]
    cells: tuple[tuple[dict[str, list[str]], Options], ...] = ()
    tune: Tuning | None = None
    script: str | None = None
    metric: Metric | None = None
    script_path: Path | None = field(default=None, compare=False)
    controls: dict[str, list[str]] = field(default_factory=dict, compare=False)
    description: str = field(default="", compare=False)
    kept_version: str | None = field(default=None, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Everything that decides what is run, in JSON types; secrets are masked, they don't decide."""
        value = {option.name: getattr(self, option.name) for option in fields(self) if option.compare}
        value |= {"tune": self.tune and asdict(self.tune), "metric": self.metric and asdict(self.metric)}
        if self.script is None:  # studies of scripts/train.py keep the version that they have always had
            del value["script"], value["metric"]
        return masked(json.loads(json.dumps(value)))

    @property
    def version(self) -> str:
        """Hash of the settings: the same for the same runs."""
        if self.kept_version is not None:
            return self.kept_version
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]

    def extends(self, other: Study) -> bool:
        """Whether each run of ``other`` is a run of this study too, by its name and options, and judged alike."""
        if self.version == other.version:
            return True
        if (self.name, self.script, self.metric) != (other.name, other.script, other.metric):
            return False
        ours, theirs = (
            {run.name: json.dumps(masked(run.options), sort_keys=True) for run in study.possible_runs()}
            for study in (self, other)
        )
        return theirs.items() <= ours.items()

    def combinations(self) -> list[dict[str, str]]:
        """The cells of the study: a label of each axis."""
        return [dict(zip(self.axes, labels, strict=True)) for labels in itertools.product(*self.axes.values())]

    def options_of(self, cell: dict[str, str]) -> Options:
        """Options of every run in a cell; an option that is a mapping is merged, anything else replaced."""
        options: Options = {}
        parts = [self.train, *(self.axes[axis][label] for axis, label in cell.items())]
        parts += [given for where, given in self.cells if all(cell[axis] in where[axis] for axis in where)]
        for part in parts:
            for key, value in part.items():
                both = isinstance(value, dict) and isinstance(options.get(key), dict)
                options[key] = options[key] | value if both else value
        return options

    def run(self, cell: dict[str, str], seed: int, tuned: Any = None) -> Run:
        """The run of a cell with a seed."""
        tried = {} if self.tune is None or tuned is None else {self.tune.option: tuned}
        tags = [f"{option}={value:g}" for option, value in tried.items()]
        name = "--".join([*cell.values(), *tags, f"seed{seed}"])
        options = self.options_of(cell) | tried | {"seed": seed}
        return Run(name, cell, seed, options, tuned)

    def trials(self) -> list[Run]:
        """The runs that the tuned value is chosen from; none without tuning."""
        if self.tune is None:
            return []
        chosen = itertools.product(self.tune.seeds, self.combinations(), self.tune.values)
        return [self.run(cell, seed, value) for seed, cell, value in chosen]

    def finals(self, chosen: dict[tuple[str, ...], Any]) -> list[Run]:
        """The runs that are compared; with tuning those of cells whose value has been chosen, seed by seed."""
        runs = []
        for seed, cell in itertools.product(self.seeds, self.combinations()):
            key = tuple(cell.values())
            if self.tune is None or key in chosen:
                runs.append(self.run(cell, seed, chosen.get(key)))
        return runs

    def possible_runs(self) -> list[Run]:
        """Every run that there can be, whichever values are chosen."""
        values = (None,) if self.tune is None else self.tune.values
        finals = [self.run(cell, s, v) for s in self.seeds for cell in self.combinations() for v in values]
        return list({run.name: run for run in (*self.trials(), *finals)}.values())


def matching(runs: Iterable[Run], pattern: str | None) -> list[Run]:
    """The runs whose name matches a shell pattern; all without one.

    Raises:
        ValueError: none does; the message has some names.
    """
    runs = list(runs)
    found = [run for run in runs if pattern is None or fnmatch.fnmatch(run.name, pattern)]
    if runs and not found:
        some = ", ".join(run.name for run in runs[:3])
        raise ValueError(f"--only {pattern!r} matches no run. Names look like {some}.")
    return found
