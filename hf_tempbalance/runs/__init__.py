"""What a training run leaves behind: history, results, checkpoints; and the pictures, pages and cards made of it."""
