"""A method in one screen: from the spectra of a model's layers to the multiplier of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from ..config import TempBalanceConfig
from ..spectra.analysis import LayerSpectrum
from .mapping import is_usable, map_scores


@dataclass(frozen=True)
class Method:
    """The parts of a method that come after the spectra. Those before are in `hf_tempbalance.spectra`.

    Attributes:
        score: of a layer; a larger score gives a larger multiplier.
        unit: name of a layer -> name of the unit whose layers share one multiplier.
        is_usable: which scores count; a unit's score is the mean of its layers' usable ones.
        mapping: scores of all units -> their multipliers.
        target: multiplier -> factors of the optimizer's values.
    """

    score: Callable[[LayerSpectrum], float]
    unit: Callable[[str], str]
    is_usable: Callable[[Sequence[float]], Sequence[bool]]
    mapping: Callable[[Sequence[float]], list[float]]
    target: Callable[[float], Mapping[str, float]]

    @classmethod
    def of(cls, config: TempBalanceConfig) -> Method:
        """The method that the settings name."""
        bounds = {"min_ratio": config.min_ratio, "max_ratio": config.max_ratio, "sharpness": config.sharpness}
        return cls(
            score=METRICS[config.metric],
            unit=UNITS["layer"],
            is_usable=partial(is_usable, mapping=config.mapping),
            mapping=partial(map_scores, mapping=config.mapping, **bounds),
            target=TARGETS["lr"],
        )


def multipliers_of(spectra: Sequence[LayerSpectrum], method: Method) -> dict[str, float]:
    """Name of each tuned layer -> its multiplier. TempBalance: alpha of each layer, mapped onto [0.5, 1.5].

    A layer whose score is not usable gets 1 and changes no other layer's.
    """
    tuned = [spectrum for spectrum in spectra if spectrum.is_tuned]
    scores = [method.score(spectrum) for spectrum in tuned]
    members: dict[str, list[float]] = {}
    for spectrum, score, is_used in zip(tuned, scores, method.is_usable(scores), strict=True):
        if is_used:
            members.setdefault(method.unit(spectrum.name), []).append(score)
    means = [math.fsum(values) / len(values) for values in members.values()]
    multiplier_of = dict(zip(members, method.mapping(means), strict=True))
    return {
        spectrum.name: multiplier_of[method.unit(spectrum.name)] if is_used else 1.0
        for spectrum, is_used in zip(tuned, method.is_usable(scores), strict=True)
    }


METRICS: dict[str, Callable[[LayerSpectrum], float]] = {
    "alpha": lambda layer: layer.alpha,
    "alpha_hat": lambda layer: layer.alpha_hat,
    "spectral_norm": lambda layer: layer.spectral_norm,
    "norm": lambda layer: layer.norm,
    "D": lambda layer: layer.D,
    "stable_rank": lambda layer: layer.stable_rank,
    "entropy": lambda layer: layer.entropy,
}
UNITS: dict[str, Callable[[str], str]] = {"layer": lambda name: name}
TARGETS: dict[str, Callable[[float], Mapping[str, float]]] = {"lr": lambda multiplier: {"lr": multiplier}}
