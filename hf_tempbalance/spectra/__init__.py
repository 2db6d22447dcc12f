"""From weights to spectra: matrices, eigenvalues, power-law fits. Imports torch and numpy alone."""
