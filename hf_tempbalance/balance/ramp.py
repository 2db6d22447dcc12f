"""Multipliers that change to new ones over some optimizer steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .stored import Stored


@dataclass
class Ramp:
    r"""The way from the multipliers before a look to those after it, over some steps.

        step k after the look:  before + (after - before) k / steps,   k = 1 ... steps

    Attributes:
        before, after: name of a tuned layer -> multiplier; one that is not in ``before`` starts at 1.
        steps: optimizer steps that it takes.
        made: steps made so far.
    """

    before: dict[str, float]
    after: dict[str, float]
    steps: int
    made: int = 0

    @property
    def is_over(self) -> bool:
        """Whether all its steps have been made."""
        return self.made >= self.steps

    def count_step(self) -> dict[str, float]:
        """The multipliers of the next step."""
        self.made += 1
        if self.is_over:
            return dict(self.after)
        share = self.made / self.steps
        return {
            name: self.before.get(name, 1.0) + (after - self.before.get(name, 1.0)) * share
            for name, after in self.after.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """The fields in strict JSON types."""
        return {"before": dict(self.before), "after": dict(self.after), "steps": self.steps, "made": self.made}

    @classmethod
    def from_stored(cls, stored: Stored) -> Ramp:
        """The inverse of `to_dict`. Raises ValueError where a field is damaged."""
        return cls(
            stored.object("before").amounts(),
            stored.object("after").amounts(),
            stored.whole("steps", smallest=1),
            stored.whole("made"),
        )
