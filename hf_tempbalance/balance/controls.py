"""What a method is compared with: the same multipliers, without what the method claims about them.

A comparison with plain training alone mixes which layer gets which multiplier with how large they are in the mean.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping


def same(multipliers: Mapping[str, float]) -> dict[str, float]:
    """The multipliers as they are; "frozen" keeps the first look's, which is a matter of time and not of layers."""
    return dict(multipliers)


def shuffled(multipliers: Mapping[str, float]) -> dict[str, float]:
    """The multipliers dealt to other units at random, so that none keeps its own: in one way at every look, in every
    process and run.
    """
    names = list(multipliers)
    draw = random.Random(len(names))
    dealt = names.copy()
    while len(names) > 1 and any(one == other for one, other in zip(names, dealt, strict=True)):
        draw.shuffle(dealt)
    return {name: multipliers[other] for name, other in zip(names, dealt, strict=True)}


def by_type(multipliers: Mapping[str, float]) -> dict[str, float]:
    """The mean over the units of one type (`type_of`), for each of them."""
    members: dict[str, list[float]] = {}
    for name, multiplier in multipliers.items():
        members.setdefault(type_of(name), []).append(multiplier)
    return {name: sum(members[type_of(name)]) / len(members[type_of(name)]) for name in multipliers}


def type_of(name: str) -> str:
    """A layer's name without the numbers between its dots: what it is, wherever in the network.

    >>> type_of("encoder.layer.3.attention.self.query")
    'encoder.layer.*.attention.self.query'
    """
    return ".".join("*" if part.isdecimal() else part for part in name.split("."))


CONTROLS: dict[str, Callable[[Mapping[str, float]], dict[str, float]]] = {
    "none": same,
    "shuffled": shuffled,
    "frozen": same,
    "by_type": by_type,
}


def check_control(control: str, units: list[str]) -> None:
    """Refuse a control that could not differ from what it controls.

    Raises:
        ValueError: "by_type", and all units are of one type.
    """
    types = {type_of(unit) for unit in units}
    if control == "by_type" and len(types) < 2:
        raise ValueError(
            f"control='by_type' needs layers of two types or more, and all are {', '.join(types)}: every multiplier "
            "would be the same. Compare with control='shuffled', or with plain training at that rate."
        )
