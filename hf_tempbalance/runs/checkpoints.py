"""The newest checkpoint of a Trainer that was written to its end."""

from __future__ import annotations

from pathlib import Path

from ..files import read_json


def last_complete_checkpoint(folder: str | Path) -> tuple[Path | None, list[Path]]:
    """The newest ``checkpoint-STEP`` in a Trainer's output folder that can be resumed from.

    Trainer writes ``trainer_state.json`` last, so a checkpoint without it, or with half of it, was being written when
    the process was killed.

    Returns:
        The checkpoint, None if there is none, and the newer ones that are incomplete, newest first.
    """
    found = sorted(
        (path for path in Path(folder).glob("checkpoint-*") if path.is_dir() and path.name[11:].isdecimal()),
        key=lambda path: -int(path.name[11:]),
    )
    for position, path in enumerate(found):
        if _is_complete(path):
            return path, found[:position]
    return None, found


def _is_complete(checkpoint: Path) -> bool:
    try:
        return "global_step" in read_json(checkpoint / "trainer_state.json")
    except (OSError, ValueError):
        return False
