"""The numbered block of a network that a layer belongs to."""

from __future__ import annotations


def block_of(name: str) -> str | None:
    """The dotted name up to and including its first number; None where it has none.

    ``layer1.0.conv1`` and ``layer2.0.conv1`` are in different blocks: the whole prefix counts.

    >>> block_of("model.layers.11.mlp.experts.3.up_proj")
    'model.layers.11'
    """
    parts = name.split(".")
    for index, part in enumerate(parts):
        if part.isdecimal():
            return ".".join(parts[: index + 1])
    return None
