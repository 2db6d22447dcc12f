"""Which matrices of a weight have a spectrum: whole ones, or windows of one aspect ratio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..config import TempBalanceConfig
from .eigenvalues import MatrixStack


class MatrixShape(NamedTuple):
    """The matrices that a weight is decomposed as: so many spectra, each pooled from so many matrices of one shape."""

    spectra: int
    matrices: int
    rows: int
    columns: int

    @property
    def num_eigenvalues(self) -> int:
        """Number of eigenvalues of all spectra together."""
        return self.spectra * self.matrices * min(self.rows, self.columns)


def whole_matrices(stack: MatrixStack, kind: str) -> list[MatrixStack]:
    """One spectrum, of all matrices of a stack."""
    return [stack]


class Windows:
    """Equal windows of the matrices of a stack, cut out when they are asked for; a `MatrixStack`.

    Args:
        stack: (k, m, n).
        places: the matrix, the first row and the first column of each window.
        rows, columns: of a window.
    """

    def __init__(self, stack: MatrixStack, places: list[tuple[int, int, int]], rows: int, columns: int) -> None:
        self._stack, self._places = stack, places
        self.shape: tuple[int, ...] = (len(places), rows, columns)
        self.dtype, self.device = stack.dtype, stack.device

    def __getitem__(self, chosen: int | slice) -> Tensor:
        """One window, or a copy of several as (windows, rows, columns)."""
        if isinstance(chosen, int):
            k, row, column = self._places[chosen]
            return self._window(self._stack[k], row, column)
        places = self._places[chosen]
        first = min(k for k, _, _ in places)
        whole = self._stack[first : max(k for k, _, _ in places) + 1]  # once: under an adapter it is merged here
        return torch.stack([self._window(whole[k - first], row, column) for k, row, column in places])

    def _window(self, matrix: Tensor, row: int, column: int) -> Tensor:
        return matrix[row : row + self.shape[1], column : column + self.shape[2]]


@dataclass(frozen=True)
class Windowing:
    r"""Windows of one aspect ratio (FARMS), so that the exponents of differently shaped weights can be compared.

    Of a matrix (m, n) of a linear layer, embedding, fused projection or expert: K x K windows of R rows and
    C = int(R Q) columns. Where such a window exceeds the matrix, R = min(R, m, n), and where C = int(R Q) is still
    larger than n, R = int(n / Q). Along m they start at

        min(i step, m - R),   step = max(1, (m - R) // (K - 1)),   i = 0 ... min(K, (m - R) // step + 1) - 1

    and along n alike, so that they may overlap. The squared singular values of all are pooled into one spectrum.

    Of a convolution, with its kernel positions' matrices turned so that m >= n: m // n bands of rows. A band has n
    rows, of which n // (1/Q) columns are taken, for Q <= 1, and n // Q rows with all columns for Q > 1. The kernel
    positions of one band are pooled into one spectrum; the layer's numbers are the means over its bands. R and K have
    no part in it, and with Q = 1 a convolution with equal channels has the spectrum that it has without windows.

    Attributes:
        rows: R.
        aspect: Q, columns over rows.
        samples: K.

    Source:
        Hu et al., "Eigenspectrum Analysis of Neural Networks without Aspect Ratio Bias", ICML 2025, and its reference
        code. It lets a window that exceeds the matrix start at a negative index, and slices a convolution with fewer
        channels than its kernel has rows and columns the other way; both are left out.
    """

    rows: int
    aspect: float = 1.0
    samples: int = 9

    @classmethod
    def of(cls, config: TempBalanceConfig) -> Windowing | None:
        """The windows of these settings; None where whole matrices are decomposed."""
        return cls(config.window_rows, config.window_aspect, config.window_samples) if config.window_rows else None

    def shape(self, kind: str, stack_shape: tuple[int, int, int]) -> MatrixShape:
        """What is decomposed of a weight of this kind and shape."""
        if 0 in stack_shape:
            return MatrixShape(1, *stack_shape)
        places, rows, columns = self._places(kind, stack_shape)
        return MatrixShape(len(places), len(places[0]), rows, columns)

    def groups(self, stack: MatrixStack, kind: str) -> list[MatrixStack]:
        """The windows of a stack (k, m, n), by the spectrum to which they belong."""
        count, rows, columns = stack.shape
        if 0 in stack.shape:
            return [stack]
        groups, rows, columns = self._places(kind, (count, rows, columns))
        return [Windows(stack, places, rows, columns) for places in groups]

    def fits(self, kind: str, stack_shape: tuple[int, int, int]) -> bool:
        """Whether a window of full size lies inside; a convolution's bands always do."""
        _, rows, columns = stack_shape
        return kind.startswith("conv") or (rows >= self.rows and columns >= int(self.rows * self.aspect))

    def _places(self, kind: str, shape: tuple[int, int, int]) -> tuple[list[list[tuple[int, int, int]]], int, int]:
        """The places of each spectrum's windows (see `Windows`), then the rows and columns of a window."""
        return self._bands(shape) if kind.startswith("conv") else self._grid(shape)

    def _grid(self, shape: tuple[int, int, int]) -> tuple[list[list[tuple[int, int, int]]], int, int]:
        count, m, n = shape
        rows, columns = self.rows, max(int(self.rows * self.aspect), 1)
        if rows > m or columns > n:
            rows = min(self.rows, m, n)
            if int(rows * self.aspect) > n:
                rows = max(int(n / self.aspect), 1)
            columns = min(max(int(rows * self.aspect), 1), n)
        starts = [(i, j) for i in self._starts(m - rows) for j in self._starts(n - columns)]
        return [[(k, i, j) for k in range(count) for i, j in starts]], rows, columns

    def _starts(self, room: int) -> list[int]:
        step = max(1, room // max(self.samples - 1, 1))
        return [min(i * step, room) for i in range(min(self.samples, room // step + 1))]

    def _bands(self, shape: tuple[int, int, int]) -> tuple[list[list[tuple[int, int, int]]], int, int]:
        count, m, n = shape
        long, short = max(m, n), min(m, n)
        if self.aspect <= 1:
            height, width = short, max(int(short // (1 / self.aspect)), 1)
        else:
            height, width = max(int(short // self.aspect), 1), short
        starts = [band * height for band in range(long // short)]
        if m >= n:
            return [[(k, start, 0) for k in range(count)] for start in starts], height, width
        return [[(k, 0, start) for k in range(count)] for start in starts], width, height
