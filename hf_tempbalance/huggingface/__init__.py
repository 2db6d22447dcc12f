"""TempBalance in Hugging Face's Trainer: callback, Trainer, arguments, scalars for trackers."""
