"""Every option of TempBalance and its relatives, checked when it is constructed.

Loads without torch, so that ``--help`` is instant.
"""

from __future__ import annotations

import json
from collections import abc
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from typing import Any, Literal, get_type_hints

from .options import line, nearest, number, plain, require, shown
from .presets import PRESETS


Fit = Literal["median", "goodness-of-fit", "fix-finger", "xmin-peak"]
Metric = Literal[
    "alpha", "alpha_relative", "alpha_hat", "spectral_norm", "norm", "D", "stable_rank", "entropy", "depth"
]
Unit = Literal["layer", "block"]
Embeddings = Literal["exclude", "tune", "largest"]
BatchNormRule = Literal["name", "order", "none"]
Mapping = Literal["linear", "sqrt", "log2", "step", "sigmoid", "geometric"]
Control = Literal["none", "shuffled", "frozen", "by_type"]
Target = Literal["lr", "weight_decay", "both"]
UpdateUnit = Literal["epoch", "step"]

# `HfArgumentParser` passes metadata on to argparse, where a bare percent sign breaks --help: write "percent".
# Names of before, for those who still write them.
RENAMED = {"lr_min_ratio": "min_ratio", "lr_max_ratio": "max_ratio"}


@dataclass(frozen=True, kw_only=True)
class TempBalanceConfig:
    """A method in six parts, from the matrices of a weight to the moment at which multipliers are in force.

    The defaults are the settings of the TempBalance paper (NeurIPS 2023) and of its reference code; `preset` has its
    relatives. The object is frozen: ``dataclasses.replace(config, field=value)`` makes a changed copy and checks it
    again. Numbers of NumPy become Python's.

    Raises:
        ValueError: a value is not allowed. The message names the field, the value and what is allowed.
    """

    # 1. Matrices: what of a weight is decomposed.
    window_rows: int = field(
        default=0,
        metadata={
            "help": "0 takes whole matrices. Otherwise windows of one aspect ratio (FARMS): of a Linear weight, "
            "windows of so many rows, pooled into one spectrum; of a convolution, bands of rows, one spectrum each."
        },
    )
    window_aspect: float = field(default=1.0, metadata={"help": "Windows only: columns of a window over its rows."})
    window_samples: int = field(
        default=9, metadata={"help": "Windows only: windows along each side of a Linear weight; they may overlap."}
    )
    conv_norm: float = field(
        default=0.5,
        metadata={"help": "Factor on the eigenvalues of convolutions. It changes norms and alpha_hat, not alpha."},
    )
    max_batch_bytes: int = field(
        default=256 << 20,
        metadata={
            "help": "Largest sum of the Gram matrices that are decomposed at once, in bytes; a larger matrix is "
            "decomposed alone. It bounds memory and changes no result."
        },
    )

    # 2. Fit: from eigenvalues to a power law.
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
    filter_zeros: bool = field(
        default=False, metadata={"help": "Leave eigenvalues up to zero_threshold out of the fit."}
    )
    zero_threshold: float = field(
        default=1e-5, metadata={"help": "Largest eigenvalue that filter_zeros treats as zero."}
    )
    bins: int = field(
        default=100, metadata={"help": "fix-finger and xmin-peak: histogram bins over log10 of the eigenvalues."}
    )

    # 3. Score: the number of a layer that is mapped.
    metric: Metric = field(
        default="alpha",
        metadata={
            "help": "Score of a layer; a larger one always gives a larger multiplier. alpha_relative is alpha against "
            "that of a random matrix of the same shape; depth is the number of the layer's block, without a spectrum."
        },
    )

    # 4. Unit: which layers are tuned, and which share a multiplier.
    unit: Unit = field(
        default="layer",
        metadata={
            "help": "layer: each on its own. block: all parameters of a numbered block share the mean score of its "
            "layers; parameters outside of blocks keep the schedule's rate."
        },
    )
    exclude_first: bool = field(
        default=True, metadata={"help": "The first layer in registration order keeps the schedule's rate."}
    )
    exclude_last: bool = field(
        default=True, metadata={"help": "The last layer in registration order keeps the schedule's rate."}
    )
    min_eigenvalues: int = field(
        default=50, metadata={"help": "Layers with fewer eigenvalues keep the schedule's rate; 0 keeps none out."}
    )
    exclude: tuple[str, ...] = field(
        default=(),
        metadata={"help": "Names of layers that keep the schedule's rate; * stands for any text, as in '*.attn.*'."},
    )
    embeddings: Embeddings = field(
        default="exclude",
        metadata={
            "help": "Embeddings keep the schedule's rate (exclude), are tuned as other layers are (tune), or take, "
            "together with the head, the largest multiplier of the tuned layers, without a spectrum (largest)."
        },
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

    # 5. Mapping: from scores to multipliers.
    mapping: Mapping = field(
        default="linear",
        metadata={"help": "From scores to multipliers. sqrt and log2 do not use the two ratios, the others do."},
    )
    min_ratio: float = field(default=0.5, metadata={"help": "Multiplier of the smallest score."})
    max_ratio: float = field(default=1.5, metadata={"help": "Multiplier of the largest score."})
    sharpness: float = field(
        default=10.0,
        metadata={"help": "sigmoid only: how soon the multiplier nears a ratio as a score leaves the mean; above 0."},
    )
    normalize: bool = field(
        default=False, metadata={"help": "Divide the multipliers by their mean over the tuned layers."}
    )
    control: Control = field(
        default="none",
        metadata={
            "help": "What to compare a method with: its multipliers dealt to other layers at random (shuffled), those "
            "of the first look for good (frozen), or the mean of each kind of layer (by_type)."
        },
    )

    # 6. Target and time: what is multiplied, and when.
    target: Target = field(default="lr", metadata={"help": "What is multiplied: learning rate, weight decay or both."})
    update_unit: UpdateUnit = field(
        default="epoch", metadata={"help": "Unit of update_interval: epochs or optimizer steps."}
    )
    update_interval: float = field(
        default=1,
        metadata={"help": "Look at the weights every so many optimizer steps or epochs; of an epoch also a fraction."},
    )
    ramp_steps: int = field(
        default=0,
        metadata={"help": "The multipliers change to those of a look over so many optimizer steps; 0 is at once."},
    )
    active_share: float = field(
        default=1.0,
        metadata={"help": "Share of training with looks, 0 to 1; after it the multipliers stay as they are."},
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

    def __post_init__(self) -> None:
        hints = _hints()
        for option in fields(self):
            value = plain(option.name, getattr(self, option.name), hints[option.name])
            object.__setattr__(self, option.name, value)  # frozen for everybody else
        for name, is_allowed, allowed in _RANGES:
            require(is_allowed(getattr(self, name)), name, getattr(self, name), allowed)
        if self.min_ratio > self.max_ratio:
            raise ValueError(
                f"min_ratio={self.min_ratio} is larger than max_ratio={self.max_ratio}. "
                "Swap them, or set both to 1 to switch balancing off."
            )
        _check_times(self)
        _check_parts(self)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> TempBalanceConfig:
        """The settings of a published method, with changes; `hf_tempbalance.presets` has their sources.

        Raises:
            ValueError: there is no such preset, or a change is not allowed.
        """
        if name not in PRESETS:
            raise ValueError(f"unknown preset {shown(name)}. {nearest(str(name), list(PRESETS))}")
        return cls.from_dict({**PRESETS[name].settings, **changes})

    def to_dict(self) -> dict[str, Any]:
        """All options as a dict of JSON types."""
        return {**asdict(self), "exclude": list(self.exclude)}

    @classmethod
    def from_dict(cls, options: abc.Mapping[str, Any]) -> TempBalanceConfig:
        """The inverse of `to_dict`; missing options take their defaults.

        Raises:
            ValueError: it is no mapping, a key is unknown (the message names the nearest option), or a value is not
                allowed.
        """
        if not isinstance(options, abc.Mapping):
            raise ValueError(
                f"the options of TempBalance are {shown(options)} and should be a mapping from names to values, "
                "such as {'min_ratio': 0.5}."
            )
        known = [option.name for option in fields(cls)]
        for key in options:
            if isinstance(key, str) and key in RENAMED:
                raise ValueError(f"unknown option {key!r}: now {RENAMED[key]}.")
            if key not in known:
                raise ValueError(f"unknown option {shown(key)}. {nearest(shown(key), known)}")
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
            raise ValueError(f"the options of TempBalance are no JSON: {line(error)}.") from error
        return cls.from_dict(options)

    def to_yaml(self) -> str:
        """The options as a YAML mapping (needs PyYAML)."""
        import yaml

        return str(yaml.safe_dump(self.to_dict(), sort_keys=False))

    @classmethod
    def from_yaml(cls, text: str) -> TempBalanceConfig:
        """The inverse of `to_yaml` (needs PyYAML); an empty text is the defaults. Raises like `from_json`.

        ``1e-5`` is read as a number, which PyYAML alone does not do.
        """
        import yaml

        try:
            options = yaml.safe_load(text)
        except Exception as error:  # besides its own, PyYAML lets through whatever a malformed value sets off
            raise ValueError(f"the options of TempBalance are no YAML: {line(error)}.") from error
        if isinstance(options, dict):
            hints = get_type_hints(cls)
            options = {key: number(value) if hints.get(key) is float else value for key, value in options.items()}
        return cls.from_dict({} if options is None else options)


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(TempBalanceConfig)


def renewed(options: dict[str, Any]) -> dict[str, Any]:
    """Options as a file of ours has stored them, with the names and values of now."""
    now = {RENAMED.get(key, key): value for key, value in options.items()}
    if isinstance(now.get("embeddings"), bool):
        now["embeddings"] = "tune" if now["embeddings"] else "exclude"
    return now


_RANGES: list[tuple[str, Callable[[Any], bool], str]] = [
    ("window_rows", lambda value: value >= 0, "0 or larger"),
    ("window_aspect", lambda value: value > 0, "a number above 0"),
    ("window_samples", lambda value: value >= 1, "1 or larger"),
    ("conv_norm", lambda value: value > 0, "a number above 0"),
    ("max_batch_bytes", lambda value: value >= 1, "1 or larger"),
    ("xmin_pos", lambda value: value > 1, "a number above 1"),
    ("zero_threshold", lambda value: value >= 0, "0 or larger"),
    ("bins", lambda value: value >= 1, "1 or larger"),
    ("min_eigenvalues", lambda value: value >= 0, "0 or larger"),
    ("min_ratio", lambda value: value >= 0, "0 or larger"),
    ("max_ratio", lambda value: value >= 0, "0 or larger"),
    ("sharpness", lambda value: value > 0, "a number above 0"),
    ("update_interval", lambda value: value > 0, "above 0"),
    ("ramp_steps", lambda value: value >= 0, "0 or larger"),
    ("active_share", lambda value: 0 <= value <= 1, "between 0 and 1"),
    ("overlap_steps", lambda value: value >= 1, "1 or larger"),
]


def _check_times(config: TempBalanceConfig) -> None:
    interval = config.update_interval
    if config.update_unit == "step":
        is_whole = interval >= 1 and float(interval).is_integer()
        require(is_whole, "update_interval", interval, "a whole number of steps, 1 or larger")
        for name in ("overlap_steps", "ramp_steps"):
            if getattr(config, name) > interval and (config.overlap or name == "ramp_steps"):
                raise ValueError(
                    f"{name}={getattr(config, name)} is larger than update_interval={interval}: the next look would "
                    "come before this one is in force. Make it smaller, or look less often."
                )
    else:
        is_divided = interval >= 1 and float(interval).is_integer() or (interval < 1)
        require(is_divided, "update_interval", interval, "a whole number of epochs, or a fraction of one below 1")


def _check_parts(config: TempBalanceConfig) -> None:
    if config.metric == "depth" and config.window_rows:
        raise ValueError(
            f"metric='depth' takes no spectrum, and window_rows={config.window_rows} is about spectra. Set it to 0."
        )
    if config.mapping == "geometric":
        require(config.min_ratio > 0, "min_ratio", config.min_ratio, "above 0 with mapping='geometric'")
    if config.mapping == "sigmoid":
        require(
            0 < config.min_ratio <= 1, "min_ratio", config.min_ratio, "above 0 and at most 1 with mapping='sigmoid'"
        )
        require(config.max_ratio >= 1, "max_ratio", config.max_ratio, "1 or larger with mapping='sigmoid'")
