"""From spectra to the optimizer: scores, multipliers, and the step that applies them. torch and numpy alone."""
