"""Every option of TempBalance, checked when it is constructed. Loads without torch, so that ``--help`` is instant."""

from __future__ import annotations

import difflib
import json
import math
import numbers
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args, get_type_hints


Fit = Literal["median", "goodness-of-fit", "fix-finger", "xmin-peak"]
Metric = Literal["alpha", "alpha_hat", "spectral_norm", "norm", "D", "stable_rank", "entropy"]
Mapping = Literal["linear", "sqrt", "log2", "step"]
BatchNormRule = Literal["name", "order", "none"]
UpdateUnit = Literal["epoch", "step"]

# `HfArgumentParser` passes metadata on to argparse, where a bare percent sign breaks --help: write "percent".


@dataclass(frozen=True, kw_only=True)
class TempBalanceConfig:
    """When to look at the weights and how scores become learning-rate multipliers.

    The defaults are the settings of the TempBalance paper (NeurIPS 2023) and of its reference code.
    The object is frozen: ``dataclasses.replace(config, field=value)`` makes a changed copy and checks it again.

    Raises:
        ValueError: a value is not allowed. The message names the field, the value and what is allowed.
    """

    fit: Fit = field(
        default="median",
        metadata={
            "help": "How the start of the power-law tail is chosen: at a fixed quantile (median), where the "
            "Kolmogorov-Smirnov distance is smallest (goodness-of-fit), the same below 1.5 times the histogram's "
            "peak (fix-finger, as the reference codes it) or between 0.95 and 1.5 times the peak (xmin-peak)."
        },
    )
    xmin_pos: float = field(
        default=2.0,
        metadata={"help": "median only: the tail starts at index N / xmin_pos of N ascending eigenvalues; above 1."},
    )
    conv_norm: float = field(
        default=0.5,
        metadata={"help": "Factor on the eigenvalues of convolutions. It changes norms and alpha_hat, not alpha."},
    )
    filter_zeros: bool = field(
        default=False, metadata={"help": "Leave eigenvalues up to zero_threshold out of the fit."}
    )
    zero_threshold: float = field(
        default=1e-5, metadata={"help": "Largest eigenvalue that filter_zeros treats as zero."}
    )
    bins: int = field(
        default=100, metadata={"help": "fix-finger and xmin-peak: histogram bins over log10 of the eigenvalues."}
    )
    metric: Metric = field(
        default="alpha", metadata={"help": "Score of a layer. A larger score always gives a larger learning rate."}
    )
    mapping: Mapping = field(
        default="linear",
        metadata={"help": "From scores to multipliers. linear and step use the two ratios, sqrt and log2 do not."},
    )
    lr_min_ratio: float = field(default=0.5, metadata={"help": "Multiplier of the layer with the smallest score."})
    lr_max_ratio: float = field(default=1.5, metadata={"help": "Multiplier of the layer with the largest score."})
    exclude_first: bool = field(
        default=True, metadata={"help": "The first layer in registration order keeps the schedule's rate."}
    )
    exclude_last: bool = field(
        default=True, metadata={"help": "The last layer in registration order keeps the schedule's rate."}
    )
    min_eigenvalues: int = field(
        default=50, metadata={"help": "Layers with fewer eigenvalues keep the schedule's rate; 0 keeps none out."}
    )
    embeddings: bool = field(
        default=False, metadata={"help": "Tune embeddings too. Without it they keep the schedule's rate."}
    )
    batchnorm: BatchNormRule = field(
        default="name",
        metadata={
            "help": "Which layer a BatchNorm follows: the one whose name has conv where its own has bn (name), "
            "the convolution registered just before it (order), or none."
        },
    )
    layernorm: bool = field(
        default=False,
        metadata={"help": "LayerNorm and RMSNorm follow the linear layer registered just before them."},
    )
    update_unit: UpdateUnit = field(
        default="epoch", metadata={"help": "Unit of update_interval: epochs or optimizer steps."}
    )
    update_interval: int = field(
        default=1, metadata={"help": "Look at the weights every so many epochs or optimizer steps; at least 1."}
    )
    overlap: bool = field(
        default=False,
        metadata={
            "help": "Look at a copy of the weights while training goes on; the multipliers come into force "
            "overlap_steps optimizer steps later. The first look is waited for."
        },
    )
    overlap_steps: int = field(
        default=10,
        metadata={"help": "overlap only: optimizer steps between a look and its multipliers; at least 1."},
    )
    max_batch_bytes: int = field(
        default=256 << 20,
        metadata={
            "help": "Largest sum of the Gram matrices that are decomposed at once, in bytes; a larger matrix is "
            "decomposed alone. It bounds memory and changes no result."
        },
    )

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for option in fields(self):
            _require_type(option.name, getattr(self, option.name), hints[option.name])
        _require(self.xmin_pos > 1, "xmin_pos", self.xmin_pos, "a number above 1")
        _require(self.conv_norm > 0, "conv_norm", self.conv_norm, "a number above 0")
        _require(self.zero_threshold >= 0, "zero_threshold", self.zero_threshold, "0 or larger")
        _require(self.bins >= 1, "bins", self.bins, "1 or larger")
        _require(self.lr_min_ratio >= 0, "lr_min_ratio", self.lr_min_ratio, "0 or larger")
        _require(self.lr_max_ratio >= 0, "lr_max_ratio", self.lr_max_ratio, "0 or larger")
        _require(self.min_eigenvalues >= 0, "min_eigenvalues", self.min_eigenvalues, "0 or larger")
        _require(self.update_interval >= 1, "update_interval", self.update_interval, "1 or larger")
        _require(self.overlap_steps >= 1, "overlap_steps", self.overlap_steps, "1 or larger")
        if self.overlap and self.update_unit == "step" and self.overlap_steps > self.update_interval:
            raise ValueError(
                f"overlap_steps={self.overlap_steps} is larger than update_interval={self.update_interval}: the next "
                "look would begin before this one is in force. Make it smaller, or look less often."
            )
        _require(self.max_batch_bytes >= 1, "max_batch_bytes", self.max_batch_bytes, "1 or larger")
        if self.lr_min_ratio > self.lr_max_ratio:
            raise ValueError(
                f"lr_min_ratio={self.lr_min_ratio} is larger than lr_max_ratio={self.lr_max_ratio}. "
                "Swap them, or set both to 1 to switch balancing off."
            )

    def to_dict(self) -> dict[str, Any]:
        """All options as a dict of Python strings, numbers and booleans."""
        return asdict(self)

    @classmethod
    def from_dict(cls, options: dict[str, Any]) -> TempBalanceConfig:
        """The inverse of `to_dict`; missing options take their defaults.

        Raises:
            ValueError: a key is unknown (the message names the nearest option) or a value is not allowed.
        """
        known = [option.name for option in fields(cls)]
        for key in options:
            if key not in known:
                raise ValueError(f"unknown option {key!r}. {nearest(key, known)}")
        return cls(**options)

    def to_json(self) -> str:
        """The options as a JSON object."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> TempBalanceConfig:
        """The inverse of `to_json`. Raises like `from_dict`."""
        return cls.from_dict(json.loads(text))

    def to_yaml(self) -> str:
        """The options as a YAML mapping (needs PyYAML)."""
        import yaml

        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def from_yaml(cls, text: str) -> TempBalanceConfig:
        """The inverse of `to_yaml` (needs PyYAML); ``1e-5`` is read as a number, which PyYAML alone does not do."""
        import yaml

        options, hints = yaml.safe_load(text) or {}, get_type_hints(cls)
        for key, value in options.items():
            if hints.get(key) is float and isinstance(value, str):
                try:
                    options[key] = float(value)
                except ValueError:
                    pass  # the constructor refuses it with the field's name
        return cls.from_dict(options)


def nearest(key: str, known: list[str]) -> str:
    """The sentence that tells somebody who wrote ``key`` what is allowed."""
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"Allowed are: {', '.join(sorted(known))}."


def _require_type(name: str, value: Any, hint: Any) -> None:
    if choices := get_args(hint):
        allowed = ", ".join(repr(choice) for choice in choices)
        _require(isinstance(value, str) and value in choices, name, value, f"one of {allowed}")
    elif hint is bool:
        _require(isinstance(value, bool), name, value, "True or False")
    elif hint is int:
        _require(isinstance(value, numbers.Integral) and not isinstance(value, bool), name, value, "a whole number")
    else:
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        _require(is_number and math.isfinite(value), name, value, "a finite number")


def _require(condition: bool, name: str, value: Any, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{name}={value!r} is not allowed: it must be {allowed}.")
