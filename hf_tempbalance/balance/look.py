"""The record of one look at the weights, and a look that is not in force yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Any

from ..files import finite
from ..spectra.analysis import LayerSpectrum
from .spectrum_job import BackgroundJob
from .stored import Stored


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look at the weights found and set.

    Attributes:
        step, epoch: when the weights were looked at; optimizer steps and epochs made until then.
        spectra: one for each layer, in registration order.
        multipliers: name of a tuned layer -> its multiplier.
        multiplier_mean: over the tuned parameters, weighted by their number.
        seconds: time of the computation.
        waited: seconds that training stood still for it. All of the computation, unless it went on beside training.
        in_force: optimizer steps made until the multipliers came into force; None where training ended before.
    """

    step: int
    epoch: float
    spectra: list[LayerSpectrum]
    multipliers: dict[str, float]
    multiplier_mean: float
    seconds: float
    waited: float
    in_force: int | None

    def to_line(self) -> dict[str, Any]:
        """The look as a line of ``tempbalance_history.jsonl``: JSON types, except that numbers may be NaN."""
        line: dict[str, Any] = {"step": self.step, "epoch": self.epoch, "seconds": self.seconds}
        line["multiplier_mean"] = self.multiplier_mean
        if self.in_force != self.step:  # it went on beside training
            line |= {"waited": self.waited, "in_force": self.in_force}
        layers = [
            {**spectrum.to_dict(), "multiplier": self.multipliers.get(spectrum.name, 1.0)} for spectrum in self.spectra
        ]
        return line | {"layers": layers}


class PendingLook:
    """A look from its beginning until its multipliers are in force.

    Args:
        step, epoch: as in `Look`.
        steps_left: optimizer steps that are still made with the old multipliers.
        job: the computation, which goes on; None once its result is known.
        waited: seconds that training has stood still so far.
    """

    def __init__(self, step: int, epoch: float, steps_left: int, job: BackgroundJob | None, waited: float) -> None:
        self.step, self.epoch, self.steps_left, self.job, self.waited = step, epoch, steps_left, job, waited
        self.steps_made = 0
        self.seconds = 0.0
        self.spectra: list[LayerSpectrum] = []
        self.multipliers: dict[str, float] = {}

    def wait(self, multipliers_of: Callable[[list[LayerSpectrum]], dict[str, float]]) -> None:
        """Wait until the result is known. Every process has to call it."""
        if self.job is not None:
            job, self.job = self.job, None
            self.waited += job.wait()
            self.seconds = job.seconds
            self.spectra = job.finish()
            self.multipliers = multipliers_of(self.spectra)

    def count_step(self) -> None:
        """Count one more optimizer step that is made with the old multipliers."""
        self.steps_left -= 1
        self.steps_made += 1

    def record(self, multiplier_mean: float, *, is_in_force: bool) -> Look:
        """The record, once the result is known."""
        return Look(
            step=self.step,
            epoch=self.epoch,
            spectra=self.spectra,
            multipliers=self.multipliers,
            multiplier_mean=multiplier_mean,
            seconds=self.seconds,
            waited=self.waited,
            in_force=self.step + self.steps_made if is_in_force else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """A look whose result is known, in strict JSON types."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "steps_left": self.steps_left,
            "steps_made": self.steps_made,
            "spectra": finite([spectrum.to_dict() for spectrum in self.spectra]),
            "multipliers": dict(self.multipliers),
            "seconds": self.seconds,
            "waited": self.waited,
        }

    @classmethod
    def from_stored(cls, stored: Stored, version: int = 2) -> PendingLook:
        """The inverse of `to_dict`. Version 1 did not know when the look was begun.

        Raises:
            ValueError: a field is damaged.
        """
        step, epoch, steps_made = 0, 0.0, 0
        if version > 1:
            step, epoch, steps_made = stored.whole("step"), stored.amount("epoch"), stored.whole("steps_made")
        pending = cls(step, epoch, stored.whole("steps_left"), None, stored.amount("waited"))
        pending.steps_made = steps_made
        pending.seconds = stored.amount("seconds")
        pending.multipliers = stored.object("multipliers").amounts()
        pending.spectra = [spectrum_of(spectrum) for spectrum in stored.objects("spectra")]
        return pending


def spectrum_of(stored: Stored) -> LayerSpectrum:
    """The inverse of `LayerSpectrum.to_dict`. A field that was added since and has a default may be missing."""
    found: dict[str, Any] = {}
    for field in fields(LayerSpectrum):
        if field.name not in stored.keys() and field.default is not MISSING:
            continue
        if field.name in ("name", "kind"):
            found[field.name] = stored.text(field.name)
        elif field.name == "shape":
            found[field.name] = tuple(stored.wholes(field.name))
        elif field.name in ("num_eigenvalues", "depth"):
            found[field.name] = stored.whole(field.name)
        elif field.name == "excluded_by":
            found[field.name] = stored.optional_text(field.name)
        elif field.name == "is_pinned":
            found[field.name] = stored.flag(field.name)
        else:
            found[field.name] = stored.number(field.name)
    return LayerSpectrum(**found)
