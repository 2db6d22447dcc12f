"""TempBalance for Hugging Face: a learning rate for each layer, from the heavy tail of its weight spectrum."""

from __future__ import annotations

import importlib
import sys
from importlib.abc import MetaPathFinder
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

# Modules that were here before there were rooms.
_MOVED = {
    "analysis": "spectra.analysis",
    "backbones": "tasks.backbones",
    "balancer": "balance.balancer",
    "callback": "huggingface.callback",
    "checkpoints": "runs.checkpoints",
    "data": "tasks.data",
    "history": "runs.history",
    "image_classification": "tasks.image_classification",
    "layers": "spectra.layers",
    "mapping": "balance.mapping",
    "metrics": "tasks.metrics",
    "modelcard": "runs.modelcard",
    "param_groups": "balance.virtual_groups",
    "parser": "huggingface.parser",
    "plots": "runs.plots",
    "powerlaw": "spectra.powerlaw",
    "report": "runs.report",
    "results": "runs.results",
    "scalars": "huggingface.scalars",
    "sources": "cli.sources",
    "trainer": "huggingface.trainer",
    "training_args": "huggingface.training_args",
    "weights": "spectra.weights",
}


class _TellsWhatMoved(MetaPathFinder):
    """Asked last: tells who imports a module by its old name the new one."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        package, _, name = fullname.partition(".")
        if package == __name__ and name in _MOVED:
            raise ModuleNotFoundError(f"{fullname} is now {package}.{_MOVED[name]}.", name=fullname)


sys.meta_path.append(_TellsWhatMoved())

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
