"""The picture of a weight's spectrum, with the words of its fit and the random matrix of its shape."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from ..config import TempBalanceConfig
from ..spectra.analysis import LayerSpectrum
from ..spectra.layers import Exclusions
from ..spectra.relative import marchenko_pastur_density
from ..spectra.weights import Weight


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def spectrum_picture(
    weight: Weight, spectrum: LayerSpectrum, eigenvalues: Tensor, config: TempBalanceConfig
) -> Figure:
    """`plot_spectrum` of what `analyze_weights` found with these settings."""
    from ..runs.plots import plot_spectrum

    matrices = Exclusions.of(config).matrices_of(weight)
    sides = sorted((matrices.rows, matrices.columns))
    values = eigenvalues.numpy()
    random = partial(marchenko_pastur_density, aspect=sides[0] / sides[1], mean=float(values.mean()))
    return plot_spectrum(values, spectrum.to_dict(), fit=config.fit, random=random)
