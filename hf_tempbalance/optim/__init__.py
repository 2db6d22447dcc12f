"""Optimizers that no library has: SGD with spectral-norm regularisation."""

from .sgd_snr import SGDSNR


__all__ = ["SGDSNR"]
