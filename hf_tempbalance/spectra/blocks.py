"""Blocks of a network by the names of its modules, and how deep they lie."""

from __future__ import annotations

from collections.abc import Sequence


def block_of(name: str) -> str | None:
    """The numbered block to which a module or parameter belongs; None outside of blocks.

    The whole prefix up to and including the first component that is an integer: "roberta.encoder.layer.3" of
    "roberta.encoder.layer.3.output.dense", "layer1.0" of "layer1.0.conv1", which is another block than "layer2.0".
    """
    parts = name.split(".")
    for index, part in enumerate(parts):
        if part.isdecimal():
            return ".".join(parts[: index + 1])
    return None


def depths(names: Sequence[str]) -> dict[str, int]:
    """Name -> depth, for names in registration order.

    0 before the first block (embeddings, a stem), 1 ... L inside the L blocks in the order in which they appear, L + 1
    after the last one (final norm, head). What stands between two blocks has the depth of the one before it; without
    blocks all are at 0.
    """
    blocks = [block_of(name) for name in names]
    number = {block: count for count, block in enumerate(dict.fromkeys(filter(None, blocks)), start=1)}
    last = max((index for index, block in enumerate(blocks) if block is not None), default=len(names))
    found, depth = {}, 0
    for index, (name, block) in enumerate(zip(names, blocks, strict=True)):
        if block is not None:
            depth = number[block]
        elif index > last:
            depth = len(number) + 1
        found[name] = depth
    return found
