"""Studies: many runs of one training script, planned in a file, with honest statistics."""
