"""Which cells of a study are controls of which, and plain training at the rate that a method has on average."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..config import RENAMED, TempBalanceConfig
from ..files import is_number
from ..presets import PRESETS
from ..run import PLAIN
from .collect import Collected, Measured
from .plan import METHOD, Options, Study


CONTROLS = ("plain", "named", "normalized", "shuffled", "by_type", "frozen")
OPTION_OF_TARGET = {"lr": "learning_rate", "both": "learning_rate", "weight_decay": "weight_decay"}
NEAR = 1.25  # factor between two rates up to which one stands for the other
SETTINGS = TempBalanceConfig().to_dict()


@dataclass(frozen=True)
class Cell:
    """What a cell trains with. settings: of TempBalance, all of them; None for plain training. others: the rest."""

    settings: Options | None
    others: Options


@dataclass(frozen=True)
class AtRate:
    """Plain training at about the rate that a method has on average, its rate times its mean multiplier.

    option: learning_rate, or weight_decay of a method that changes it. label: of plain training, which differs from
    the method in nothing else. wanted: rate times mean multiplier. nearest: that plain training was run with; None if
    it was not. ours, theirs: runs of the method and of plain training at it, of trials as well. is_known: the method
    is compared with those runs anyhow, they are the ones of a cell.
    """

    option: str
    label: str
    wanted: float
    nearest: float | None
    ours: list[Measured]
    theirs: list[Measured]
    is_known: bool

    @property
    def factor(self) -> float:
        """How many times larger the larger of the two rates is; infinite without a run."""
        return math.inf if self.nearest is None else max(self.nearest / self.wanted, self.wanted / self.nearest)


def read_cell(options: Options) -> Cell:
    """Tell the settings of TempBalance from the other options, with presets and defaults filled in."""
    options = {RENAMED.get(key, key): value for key, value in options.items()}
    if METHOD in options:  # of any script
        given, others = options[METHOD], _without(options, METHOD)
        is_plain = given.get("preset") == PLAIN
    else:  # of scripts/train.py
        given = {key: value for key, value in options.items() if key in SETTINGS or key == "preset"}
        others = {key: value for key, value in options.items() if key not in given and key != "tempbalance"}
        is_plain = not options.get("tempbalance")
    if is_plain:
        return Cell(None, others)
    preset = PRESETS.get(str(given.get("preset", "tempbalance")))
    return Cell(SETTINGS | (preset.settings if preset else {}) | _without(given, "preset"), others)


def control_of(cell: Cell, other: Cell) -> str | None:
    """Which control of a method the other cell is, `CONTROLS`; None where it is none of them.

    It has the method's settings but for what makes it a control, and the same options of training otherwise. "plain":
    no TempBalance.
    """
    if cell.settings is None or cell.settings["control"] != "none" or cell.others != other.others:
        return None
    if other.settings is None:
        return "plain"
    if {**cell.settings, "control": other.settings["control"]} == other.settings and cell.settings != other.settings:
        return str(other.settings["control"])
    is_normalized = not cell.settings["normalize"] and {**cell.settings, "normalize": True} == other.settings
    return "normalized" if is_normalized else None


def controls(study: Study, cell: dict[str, str]) -> list[tuple[str, dict[str, str]]]:
    """The controls of a cell in its group: what each is, "named" for one that the file alone says, and its labels."""
    ours, (axis,) = read_cell(study.options_of(cell)), study.baseline
    named = study.controls.get(cell[axis], [])
    found = []
    for other in group_of(study, cell):
        kind = control_of(ours, read_cell(study.options_of(other)))
        found.append((kind or ("named" if other[axis] in named else None), other))
    return [(kind, other) for name in CONTROLS for kind, other in found if kind == name]


def without_method(study: Study) -> list[tuple[str, dict[str, str]]]:
    """Controls whose method is not in the study: what each is, and its labels."""
    found = []
    for cell in study.combinations():
        settings = read_cell(study.options_of(cell)).settings
        if settings is None or settings["control"] == "none":
            continue
        if not any(other == cell for one in group_of(study, cell) for _, other in controls(study, one)):
            found.append((str(settings["control"]), cell))
    return found


def group_of(study: Study, cell: dict[str, str]) -> list[dict[str, str]]:
    """The cells that differ from a cell in the baseline's axis alone, itself among them, in the study's order."""
    (axis,) = study.baseline
    return [cell | {axis: label} for label in study.axes[axis]]


def at_rate(collected: Collected, cell: dict[str, str]) -> AtRate | str | None:
    """Plain training at a method's rate times its mean multiplier; a sentence where that rate is not known.

    None where that is no question: for plain training, controls, and a method without plain training to compare.
    """
    study = collected.study
    ours = read_cell(study.options_of(cell))
    if ours.settings is None or ours.settings["control"] != "none":
        return None
    option = OPTION_OF_TARGET.get(str(ours.settings["target"]), "learning_rate")
    plain = []
    for other in group_of(study, cell):
        theirs = read_cell(study.options_of(other))
        if theirs.settings is None and _without(theirs.others, option) == _without(ours.others, option):
            plain.append(other)
    if not plain:
        return None
    if len(rate := _rates(collected.of(cell), option)) != 1:
        return f"Its {option} is not in the study file, so its rate x mean multiplier is not known."
    if (multiplier := collected.mean_multipliers.get(tuple(cell.values()))) is None:
        return "Its runs have no history, so its rate x mean multiplier is not known."
    if (wanted := rate.pop() * multiplier) <= 0:
        return "Its mean multiplier is 0."
    runs = [m for other in plain for m in _all_runs(collected, other)]
    if study.tune is not None and study.tune.option != option:  # each at the value that was chosen for it
        runs = [m for m in runs if m.run.tuned == collected.chosen.get(tuple(m.run.cell.values()))]
    rates = _rates(runs, option)
    nearest = min(rates, key=lambda value: abs(math.log(value / wanted)), default=None)
    (axis,) = study.baseline
    known = [other for kind, other in controls(study, cell) if kind == "plain"] + [cell | study.baseline]
    return AtRate(
        option=option,
        label=plain[0][axis],
        wanted=wanted,
        nearest=nearest,
        ours=[m for m in _all_runs(collected, cell) if m.run.tuned == collected.chosen.get(tuple(cell.values()))],
        theirs=[m for m in runs if _rates([m], option) == {nearest}],
        is_known=any(_rates(collected.of(other), option) == {nearest} for other in known if other in plain),
    )


def _rates(runs: list[Measured], option: str) -> set[float]:
    values: list[Any] = [m.run.options.get(option) for m in runs]
    return {float(value) for value in values if is_number(value) and value > 0}


def _all_runs(collected: Collected, cell: dict[str, str]) -> list[Measured]:
    """Trials and finals of a cell, each once."""
    found = {m.run.name: m for m in (*collected.trials, *collected.finals) if m.run.cell == cell}
    return list(found.values())


def _without(options: Options, name: str) -> Options:
    return {key: value for key, value in options.items() if key != name}
