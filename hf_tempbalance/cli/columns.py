"""The columns of ``hf-tempbalance analyze``, and numbers as text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..config import Fit


if TYPE_CHECKING:
    from ..spectra.analysis import LayerSpectrum

WITH_LIMITS: Fit = "goodness-of-fit"  # the one fit whose exponents WeightWatcher's limits are made for
LOWER, UPPER = 2, 6
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
}
# Behind them in every row: "warning" (see `verdict`), "excluded_by" and "fit".
TEXTS = ("warning", "excluded_by", "fit")
# Columns of `hf_tempbalance.spectra.spikes`; num_traps only with --traps.
SPIKES = ["sigma", "num_pl_spikes", "num_ERG_spikes", "num_traps"]
SHOWN = ["name", "layer_type", "N", "M", "rf", "num_evals", "alpha", "alpha_relative", "D", "xmin"]
SHOWN += ["alpha_weighted", "spectral_norm", "stable_rank", "warning", "excluded_by"]
# In a terminal N and M are one column, and so are WeightWatcher's word and the rule.
IN_TERMINAL = ["name", "layer_type", "NxM", "rf", "num_evals", "alpha", "alpha_relative", "D", "xmin"]
IN_TERMINAL += ["alpha_weighted", "spectral_norm", "stable_rank", "verdict"]
FIRST = ["NxM", "alpha", "num_traps", "alpha_relative", "D", "verdict"]
LEFT = ("layer_type", "warning", "excluded_by", "verdict", "fit")
DECIMALS = {"alpha": 3, "alpha_relative": 3, "D": 3, "difference": 3}
LARGE = 1e5


def row_of(number: int, spectrum: LayerSpectrum, fit: str) -> dict[str, Any]:
    """All columns of a layer. number: its place in the model, from 0."""
    values = {name: column(number, spectrum) for name, column in COLUMNS.items()}
    texts = (verdict(spectrum.alpha, fit), spectrum.excluded_by or "", fit)
    return values | dict(zip(TEXTS, texts, strict=True))


def in_terminal(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the two columns that a terminal has instead of four."""
    return row | {"NxM": f"{row['N']}x{row['M']}", "verdict": row["excluded_by"] or row["warning"]}


def verdict(alpha: float, fit: str) -> str:
    """WeightWatcher's word for an exponent of its fit: "over-trained" below 2, "under-trained" above 6."""
    if fit != WITH_LIMITS:
        return ""
    if alpha < LOWER:
        return "over-trained"
    return "under-trained" if alpha > UPPER else ""


def as_text(column: str, value: Any) -> str:
    """A cell: the numbers of a column with the same number of decimals, or with 4 digits."""
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return "-"
    decimals = DECIMALS.get(column.partition(" ")[0])
    return f"{value:.4g}" if decimals is None or abs(value) >= LARGE else f"{value:.{decimals}f}"


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
