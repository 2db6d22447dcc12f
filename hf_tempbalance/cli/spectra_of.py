"""Spectra of what a command names, with a bar in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from rich.console import Console
from rich.progress import track
from torch import Tensor

from ..config import TempBalanceConfig
from ..spectra.analysis import LayerSpectrum, analyze_weights
from ..spectra.weights import Weight
from .fits import OF_A_FIT, run_in
from .sources import Source


OF_RULES = ("min_eigenvalues", "exclude", "embeddings")


def with_bar(weights: Sequence[Weight], config: TempBalanceConfig) -> Iterable[tuple[LayerSpectrum, Tensor | None]]:
    """`analyze_weights`, with a bar on stderr that leaves nothing behind. Raises as it."""
    errors = Console(stderr=True)
    return track(
        analyze_weights(weights, config),
        description="layers",
        total=len(weights),
        console=errors,
        disable=not errors.is_terminal,
        transient=True,
    )


def spectra_of(source: Source, config: TempBalanceConfig) -> Iterator[tuple[Weight, LayerSpectrum, Tensor | None]]:
    """Each weight with its spectrum and its ascending eigenvalues, as `analyze_weights` has them.

    Of the settings those of matrices, fit and rules count. A file does not tell which layer was registered first and
    last; the looks of a run do.
    """
    kept = {name: getattr(config, name) for name in (*OF_A_FIT, *OF_RULES)}
    config = TempBalanceConfig(**kept, exclude_first=source.has_model, exclude_last=source.has_model)
    run = None if source.has_model else run_in(source.name)
    rules = {layer["name"]: layer["excluded_by"] for layer in run.looks[-1]["layers"]} if run and run.looks else {}
    for weight, (spectrum, eigenvalues) in zip(source.weights, with_bar(source.weights, config), strict=True):
        rule = rules.get(spectrum.name, spectrum.excluded_by)
        yield weight, replace(spectrum, excluded_by=rule), eigenvalues
