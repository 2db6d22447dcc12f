"""Every option of TempBalance, checked when it is constructed. Loads without torch, so that ``--help`` is instant."""

from __future__ import annotations

import difflib
import json
import math
import numbers
import reprlib
from collections import abc
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
    NumPy's numbers become Python's, so that JSON, YAML and checkpoints take them.

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
            value = _plain(option.name, getattr(self, option.name), hints[option.name])
            object.__setattr__(self, option.name, value)  # frozen: this is the one place that sets a field
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
    def from_dict(cls, options: abc.Mapping[str, Any]) -> TempBalanceConfig:
        """The inverse of `to_dict`; missing options take their defaults.

        Raises:
            ValueError: it is no mapping, a key is unknown (the message names the nearest option), or a value is not
                allowed.
        """
        if not isinstance(options, abc.Mapping):
            raise ValueError(
                f"the options of TempBalance are {_shown(options)} and should be a mapping from names to values, "
                "such as {'lr_min_ratio': 0.5}."
            )
        known = [option.name for option in fields(cls)]
        for key in options:
            if key not in known:
                raise ValueError(f"unknown option {_shown(key)}. {nearest(_shown(key), known)}")
        return cls(**options)

    def to_json(self) -> str:
        """The options as a JSON object."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> TempBalanceConfig:
        """The inverse of `to_json`. Raises like `from_dict`, also for text that is no JSON."""
        try:
            options = json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"the options of TempBalance are no JSON: {_line(error)}.") from error
        return cls.from_dict(options)

    def to_yaml(self) -> str:
        """The options as a YAML mapping (needs PyYAML)."""
        import yaml

        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def from_yaml(cls, text: str) -> TempBalanceConfig:
        """The inverse of `to_yaml` (needs PyYAML); an empty text is the defaults. Raises like `from_json`.

        ``1e-5`` is read as a number, which PyYAML alone does not do.
        """
        import yaml

        try:
            options = yaml.safe_load(text)
        except Exception as error:  # besides its own, PyYAML lets through whatever a malformed value sets off
            raise ValueError(f"the options of TempBalance are no YAML: {_line(error)}.") from error
        if isinstance(options, dict):
            options = {key: _number(value) if _is_float(cls, key) else value for key, value in options.items()}
        return cls.from_dict({} if options is None else options)


def _is_float(cls: type, key: Any) -> bool:
    return get_type_hints(cls).get(key) is float


def _number(value: Any) -> Any:
    """The number that a text of YAML is; what is none stays, for the constructor to refuse with the field's name."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def nearest(key: str, known: list[str]) -> str:
    """The sentence that tells somebody who wrote ``key`` what is allowed."""
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"Allowed are: {', '.join(sorted(known))}."


def _plain(name: str, value: Any, hint: Any) -> Any:
    """The value as Python's own str, bool, int or float. Raises ValueError where it is not of the option's type."""
    if choices := get_args(hint):
        allowed = ", ".join(repr(choice) for choice in choices)
        _require(isinstance(value, str) and value in choices, name, value, f"one of {allowed}")
        return next(choice for choice in choices if choice == value)
    if hint is bool:
        # NumPy's is no subclass of Python's, and NumPy is not imported here: it costs --help a tenth of a second.
        is_numpy = type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_")
        _require(isinstance(value, bool) or is_numpy, name, value, "True or False")
        return bool(value)
    is_duration = type(value).__name__ == "timedelta64"  # which NumPy counts as a whole number
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool) and not is_duration
    if hint is int:
        is_whole = is_number and isinstance(value, numbers.Integral)
        _require(is_whole and abs(int(value)) < 1 << 63, name, value, "a whole number of at most 63 bits")
        return int(value)
    _require(is_number and _is_finite(value), name, value, "a finite number")
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number above the largest float
        return False


def _require(condition: bool, name: str, value: Any, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{name}={_shown(value)} is not allowed: it must be {allowed}.")


def _shown(value: Any) -> str:
    """repr for a message: on one line, and short however large the value is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 60
    try:
        return _line(short.repr(value))
    except ValueError:  # Python does not print whole numbers of more than 4300 digits
        return "a number of thousands of digits"


def _line(text: Any) -> str:
    return " ".join(str(text).split()).rstrip(".")
