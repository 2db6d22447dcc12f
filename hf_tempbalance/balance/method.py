"""A method in one screen: from the spectra of a model's layers to the multiplier of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

from ..config import TempBalanceConfig
from ..spectra.analysis import Decomposition, LayerSpectrum
from ..spectra.blocks import block_of
from .controls import CONTROLS
from .mapping import is_usable, map_scores


@dataclass(frozen=True)
class Method(Decomposition):
    """A method in six parts. The first two, from weights to spectra, are those of `Decomposition`.

    Attributes:
        matrices: a weight's stack of matrices -> the groups of matrices that have one spectrum each.
        fit: spectra -> power-law fits.
        score: of a layer; a larger score gives a larger multiplier.
        unit: name of a layer -> name of the unit whose layers share one multiplier.
        is_usable: which scores count; a unit's score is the mean of its layers' usable ones.
        mapping: scores of all units -> their multipliers.
        normalize: divide by the mean over the tuned layers.
        largest: multiplier of the layers that take the largest one, where no other layer is tuned.
        control: units' multipliers -> those that are used, for comparisons.
        target: multiplier -> factors of the optimizer's values.
    """

    score: Callable[[LayerSpectrum], float]
    unit: Callable[[str], str]
    is_usable: Callable[[Sequence[float]], Iterable[bool]]
    mapping: Callable[[Sequence[float]], list[float]]
    normalize: bool
    largest: float
    control: Callable[[Mapping[str, float]], dict[str, float]]
    target: Callable[[float], Mapping[str, float]]

    @classmethod
    def of(cls, config: TempBalanceConfig) -> Method:
        """The method that the settings name."""
        return cls(
            **vars(Decomposition.of(config)),
            score=METRICS[config.metric],
            unit=UNITS[config.unit],
            is_usable=partial(is_usable, mapping=config.mapping),
            mapping=partial(
                map_scores,
                mapping=config.mapping,
                min_ratio=config.min_ratio,
                max_ratio=config.max_ratio,
                sharpness=config.sharpness,
            ),
            normalize=config.normalize,
            largest=config.max_ratio,
            control=CONTROLS[config.control],
            target=TARGETS[config.target],
        )


def multipliers_of(spectra: Sequence[LayerSpectrum], method: Method) -> dict[str, float]:
    """Name of each tuned layer -> its multiplier. TempBalance: alpha of each layer, mapped onto [0.5, 1.5].

    A layer whose score is not usable gets 1 and changes no other layer's. A pinned one counts as if it had the largest
    score: the range stays that of the others, and what divides by a sum or a mean has it in there.
    """
    scored = [spectrum for spectrum in spectra if spectrum.is_tuned and not spectrum.is_pinned]
    scores = [method.score(spectrum) for spectrum in scored]
    is_used = method.is_usable(scores)
    usable = {layer.name: score for layer, score, used in zip(scored, scores, is_used, strict=True) if used}
    members: dict[str, list[float]] = {}
    for name, score in usable.items():
        members.setdefault(method.unit(name), []).append(score)
    units = {unit: math.fsum(of_layers) / len(of_layers) for unit, of_layers in members.items()}
    pinned = [spectrum.name for spectrum in spectra if spectrum.is_tuned and spectrum.is_pinned]
    if units:
        units |= dict.fromkeys(pinned, max(units.values()))
    of_unit = dict(zip(units, method.mapping([*units.values()]), strict=True))
    of_unit |= dict.fromkeys(pinned, max(of_unit.values(), default=method.largest))
    if method.normalize and usable:
        of_layers = [of_unit[unit] for unit in (*map(method.unit, usable), *pinned)]
        mean = math.fsum(of_layers) / len(of_layers)
        of_unit = {unit: multiplier / mean for unit, multiplier in of_unit.items()}
    of_unit = method.control(of_unit)
    found = {name: of_unit[method.unit(name)] for name in usable} | {name: of_unit[name] for name in pinned}
    return {spectrum.name: found.get(spectrum.name, 1.0) for spectrum in spectra if spectrum.is_tuned}


METRICS: dict[str, Callable[[LayerSpectrum], float]] = {
    name: attrgetter(name)
    for name in (
        "alpha",
        "alpha_relative",
        "alpha_hat",
        "spectral_norm",
        "norm",
        "D",
        "stable_rank",
        "entropy",
        "depth",
    )
}
UNITS: dict[str, Callable[[str], str]] = {"layer": str, "block": lambda name: block_of(name) or name}
TARGETS: dict[str, Callable[[float], Mapping[str, float]]] = {
    "lr": lambda multiplier: {"lr": multiplier},
    "weight_decay": lambda multiplier: {"weight_decay": multiplier},
    "both": lambda multiplier: {"lr": multiplier, "weight_decay": multiplier},
}
