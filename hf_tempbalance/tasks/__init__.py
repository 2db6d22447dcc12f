"""Tasks to train on: data, networks and metrics."""
