"""The checkpoint that a training goes on from."""

from __future__ import annotations

import logging
from pathlib import Path

from ..files import read_json


logger = logging.getLogger(__name__)
STATE_NAME = "trainer_state.json"
NEWEST = (True, "last", "true", "True")  # Trainer's own word, ours on a command line, Trainer's on a command line


def resolve(folder: str | Path, wanted: str | Path | bool | None) -> str | None:
    """The checkpoint that ``resume_from_checkpoint`` names, None where it asks for none.

    Args:
        folder: output folder of the run.
        wanted: a checkpoint's folder; True or "last" for the newest one that was written to its end, which leaves
            out newer ones with a warning each; False or None.

    Raises:
        ValueError: there is no such checkpoint.
    """
    if wanted is None or wanted is False:
        return None
    if wanted is not True and wanted not in NEWEST:
        if not Path(wanted).is_dir():
            raise ValueError(f"resume_from_checkpoint={str(wanted)!r} is not a folder. Use 'last' for the newest one.")
        return str(wanted)
    newest, incomplete = last_complete_checkpoint(folder)
    for path in incomplete:
        logger.warning("%s is incomplete: it was being written when the run ended. It is not used.", path)
    if newest is None:
        raise ValueError(f"{folder} has no complete checkpoint to resume from. Start without resume_from_checkpoint.")
    return str(newest)


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
        return "global_step" in read_json(checkpoint / STATE_NAME)
    except (OSError, ValueError):
        return False
