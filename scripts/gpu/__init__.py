"""Parts of scripts/gpu_day.py."""
