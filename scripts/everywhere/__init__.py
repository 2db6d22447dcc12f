"""The parts of scripts/check_everywhere.py."""
