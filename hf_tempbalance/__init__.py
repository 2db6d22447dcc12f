"""TempBalance for Hugging Face: a learning rate for each layer, from the heavy tail of its weight spectrum."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


__version__ = "0.1.0.dev0"

# Imported on first use: the core must work where transformers or torchvision are missing or broken.
_MODULE_OF = {
    "LayerSpectrum": "spectra.analysis",
    "NoEffectWarning": "balance.balancer",
    "TempBalanceCallback": "huggingface.callback",
    "TempBalanceConfig": "config",
    "TempBalanceTrainer": "huggingface.trainer",
    "TempBalanceTrainingArguments": "huggingface.training_args",
    "TempBalancer": "balance.balancer",
    "analyze": "spectra.analysis",
    "layer_sparsities": "pruning",
}

__all__ = [
    "LayerSpectrum",
    "NoEffectWarning",
    "TempBalanceCallback",
    "TempBalanceConfig",
    "TempBalanceTrainer",
    "TempBalanceTrainingArguments",
    "TempBalancer",
    "analyze",
    "layer_sparsities",
]

if TYPE_CHECKING:
    from .balance.balancer import NoEffectWarning, TempBalancer
    from .config import TempBalanceConfig
    from .huggingface.callback import TempBalanceCallback
    from .huggingface.trainer import TempBalanceTrainer
    from .huggingface.training_args import TempBalanceTrainingArguments
    from .pruning import layer_sparsities
    from .spectra.analysis import LayerSpectrum, analyze


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
