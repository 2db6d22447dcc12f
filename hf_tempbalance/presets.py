"""Published methods as settings of `TempBalanceConfig`, each with its source. Loads without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A method: what it does in a line, where it comes from, the settings in which it differs from the defaults."""

    what: str
    source: str
    settings: dict[str, Any] = field(default_factory=dict)


PRESETS = {
    "tempbalance": Preset(
        "a rate for each layer, from its exponent",
        "Zhou et al., NeurIPS 2023, arXiv 2312.00359",
    ),
    "tempbalance-lm": Preset(
        "the same for language models: rates from 1 to 2, every 10 steps, norms with the layer before them",
        "TempBalance's language-model code, same paper",
        {
            "exclude_first": False,
            "layernorm": True,
            "min_ratio": 1.0,
            "max_ratio": 2.0,
            "update_unit": "step",
            "update_interval": 10,
        },
    ),
    "model-balancing": Preset(
        "a rate for each transformer block, for fine-tuning with little data",
        "Liu et al., EMNLP 2024, arXiv 2410.12178; (s1, s2) = (2, 1)",
        {
            "xmin_pos": 1.5,
            "unit": "block",
            "exclude_first": False,
            "exclude_last": False,
            "mapping": "sigmoid",
            "min_ratio": 0.1,  # 10^(-s1/2)
            "max_ratio": 10**0.5,  # 10^(s2/2)
            "update_interval": 0.1,
        },
    ),
    "farms": Preset(
        "TempBalance on windows of one aspect ratio, so that shapes can be compared",
        "Hu et al., ICML 2025, arXiv 2506.06280; bounds: the best of ResNet18",
        {"window_rows": 100, "min_eigenvalues": 5, "min_ratio": 0.1, "max_ratio": 1.9},
    ),
    "alphadecay": Preset(
        "a weight decay for each layer, stronger where the exponent is larger",
        "He et al., NeurIPS 2025, arXiv 2506.14562; bounds: the paper's for decay 1e-5",
        {
            "min_ratio": 0.67,
            "max_ratio": 3.0,
            "target": "weight_decay",
            "update_unit": "step",
            "update_interval": 500,
        },
    ),
    "llr": Preset(
        "larger rates in the first fifth of pre-training, the largest for embedding and head",
        "ICML 2026, arXiv 2605.22297; the shipped configs (the scripts for 1B have other values)",
        {
            "exclude_first": False,
            "exclude_last": False,
            "embeddings": "largest",
            "min_ratio": 1.0,
            "max_ratio": 3.0,
            "update_unit": "step",
            "update_interval": 40,
            "ramp_steps": 20,
            "active_share": 0.2,
        },
    ),
    "llrd": Preset(
        "layer-wise learning-rate decay: the deeper a block, the larger its rate; no spectrum is computed",
        "ELECTRA, BEiT; timm's layer_decay. With L blocks min_ratio = decay^(L + 1)",
        {
            "metric": "depth",
            "unit": "block",
            "exclude_first": False,
            "exclude_last": False,
            "min_eigenvalues": 0,
            "embeddings": "tune",
            "mapping": "geometric",
            "min_ratio": 0.1,
            "max_ratio": 1.0,
        },
    ),
    "shape-free": Preset(
        "only what training has changed counts: the exponent against that of a random matrix of the same shape",
        "our own",
        {"metric": "alpha_relative", "mapping": "sigmoid", "normalize": True},
    ),
}
