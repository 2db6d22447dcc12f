"""The columns of ``hf-tempbalance analyze``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from ..spectra.analysis import LayerSpectrum

# Column -> value, in WeightWatcher's words where it has one.
COLUMNS = {
    "layer_id": lambda number, s: number,
    "name": lambda number, s: s.name,
    "layer_type": lambda number, s: s.kind,
    "N": lambda number, s: max(_matrix(s)),
    "M": lambda number, s: min(_matrix(s)),
    "rf": lambda number, s: s.num_eigenvalues // min(_matrix(s)) if min(_matrix(s)) else 0,
    "Q": lambda number, s: max(_matrix(s)) / min(_matrix(s)) if min(_matrix(s)) else math.nan,
    "num_evals": lambda number, s: s.num_eigenvalues,
    "alpha": lambda number, s: s.alpha,
    "alpha_relative": lambda number, s: s.alpha_relative,
    "D": lambda number, s: s.D,
    "xmin": lambda number, s: s.xmin,
    "alpha_weighted": lambda number, s: s.alpha_hat,
    "norm": lambda number, s: s.norm,
    "log_norm": lambda number, s: _log10(s.norm),
    "spectral_norm": lambda number, s: s.spectral_norm,
    "log_spectral_norm": lambda number, s: _log10(s.spectral_norm),
    "stable_rank": lambda number, s: s.stable_rank,
    "entropy": lambda number, s: s.entropy,
    "warning": lambda number, s: verdict(s.alpha),
    "excluded_by": lambda number, s: s.excluded_by or "",
}
SHOWN = ["name", "layer_type", "N", "M", "rf", "num_evals", "alpha", "alpha_relative", "D", "xmin"]
SHOWN += ["alpha_weighted", "spectral_norm", "stable_rank", "warning", "excluded_by"]
# What a narrow terminal shows first; of other columns those on the left.
FIRST = ["name", "alpha", "alpha_relative", "alpha A", "alpha B", "difference", "D", "warning", "excluded_by"]
FIRST += ["num_traps", "num_evals", "stable_rank", "N", "M"]
# Columns of `hf_tempbalance.spectra.spikes`; num_traps only with --traps.
SPIKES = ["sigma", "num_pl_spikes", "num_ERG_spikes", "num_traps"]


def fitting(table: dict[str, Sequence[str]], width: int) -> list[str]:
    """The columns that fit into so many characters, in their order; the name may be folded to half of them.

    table: heading -> texts of the column, without the heading.
    """
    wide = {name: max(map(len, (name, *texts))) + 2 for name, texts in table.items()}
    if "name" in wide:
        wide["name"] = min(wide["name"], width // 2)
    chosen: set[str] = set()
    for name in sorted(table, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST)):
        if sum(wide[other] for other in chosen) + wide[name] > width:
            break
        chosen.add(name)
    return [name for name in table if name in chosen]


def verdict(alpha: float) -> str:
    """WeightWatcher's word for an exponent: "over-trained" below 2, "under-trained" above 6."""
    if alpha < 2:
        return "over-trained"
    return "under-trained" if alpha > 6 else ""


def _matrix(spectrum: LayerSpectrum) -> tuple[int, int]:
    """Rows and columns of one matrix of the weight."""
    shape = spectrum.shape
    if spectrum.kind == "in_proj":
        return shape[0] // 3, shape[1]
    if len(shape) < 2:
        return 0, 0
    return (shape[-2], shape[-1]) if spectrum.kind == "experts" else (shape[0], shape[1])


def _log10(value: float) -> float:
    return math.log10(value) if value > 0 else math.nan
