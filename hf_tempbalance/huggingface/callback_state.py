"""What a checkpoint has kept of `TempBalanceCallback`: read, checked, and compared with the settings of now."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from transformers import TrainerState

from ..balance.balancer import TempBalancer
from ..balance.stored import Stored
from ..config import TempBalanceConfig, renewed


logger = logging.getLogger(__name__)
# Settings that say which layers are tuned, and which parameters follow them.
LAYER_SETTINGS = (
    "unit",
    "exclude_first",
    "exclude_last",
    "min_eigenvalues",
    "exclude",
    "embeddings",
    "batchnorm",
    "layernorm",
)


@dataclass(frozen=True)
class KeptState:
    """What a checkpoint has kept of a callback.

    Attributes:
        last_look_step: step of the last look that is in force; -1 before the first.
        is_known: whether there was a state.
        has_other_settings: whether it was made with other settings than those of now.
    """

    last_look_step: int = -1
    is_known: bool = False
    has_other_settings: bool = False


def read_state(state: TrainerState, name: str, balancer: TempBalancer, config: TempBalanceConfig) -> KeptState:
    """Give the balancer what the checkpoint has kept of the callback of this class name.

    Raises:
        ValueError: the state is damaged, or the settings tune other layers now; the message has file, field and the
            way out. Nothing else is raised, whatever the file has.
    """
    kept = kept_of(state, name)
    if state.global_step == 0:
        return KeptState()
    if kept is None:
        logger.warning(
            "Training up to here has no state of TempBalance: the weights are looked at now, at step %d.",
            state.global_step,
        )
        return KeptState()
    where = f"trainer_state.json of the checkpoint, stateful_callbacks.{name}"
    try:
        return _read(kept, where, balancer, config, state.global_step)
    except ValueError as error:
        raise ValueError(
            f"{error} Resume from another checkpoint, or delete the entry {name} to go on with a new look."
        ) from error


def entries_of(state: TrainerState) -> dict[str, Any]:
    """What callbacks have kept, by the names of their classes. Trainer makes a dict of what is a list before."""
    entries = state.stateful_callbacks
    return entries if isinstance(entries, dict) else {}


def kept_of(state: TrainerState, name: str) -> Any:
    """What Trainer's state has of the callback of this class name, of several the last; None where it has none."""
    kept = entries_of(state).get(name)
    return kept[-1] if isinstance(kept, list) and kept else kept


def _read(kept: Any, where: str, balancer: TempBalancer, config: TempBalanceConfig, step: int) -> KeptState:
    attributes = Stored(kept, where).object("attributes")
    last_look_step = attributes.whole("last_look_step", smallest=-1)
    differing = _differing(kept, config)
    if "balancer_state" not in attributes:
        return KeptState()
    stored = _with_begin(attributes, kept["attributes"], step)
    try:
        balancer.load_state_dict(stored, where=f"{where}.attributes.balancer_state")
    except ValueError as error:
        of_layers = {field: values for field, values in differing.items() if field in LAYER_SETTINGS}
        if not of_layers:
            raise
        raise ValueError(
            f"{where}.args.config has {_told(of_layers)}, so that other layers are tuned ({error}) Use the "
            "checkpoint's settings."
        ) from error
    if differing:
        logger.warning(
            "The checkpoint was made with %s: the weights are looked at now, at step %d.", _told(differing), step
        )
    return KeptState(last_look_step, True, bool(differing))


def _with_begin(attributes: Stored, raw: dict[str, Any], step: int) -> Any:
    """The balancer's state; in version 1 the callback knew when a pending look was begun, and the balancer did not."""
    state = raw["balancer_state"]
    if "begun" not in attributes or not isinstance(state, dict) or not isinstance(state.get("pending"), dict):
        return state
    begun = attributes.object("begun")
    pending = attributes.object("balancer_state").object("pending")
    more = {"step": begun.whole("step"), "epoch": begun.amount("epoch")}
    more |= {"steps_made": max(step - more["step"], 0), "waited": begun.amount("stall") + pending.amount("waited")}
    return state | {"version": 2, "pending": state["pending"] | more}


def _differing(kept: dict[str, Any], config: TempBalanceConfig) -> dict[str, tuple[Any, Any]]:
    """Field -> its value in the checkpoint and now, where they differ."""
    args = kept.get("args")
    before = args.get("config") if isinstance(args, dict) else None
    if not isinstance(before, dict):
        return {}
    before = renewed(before)
    return {
        field: (before[field], value)
        for field, value in config.to_dict().items()
        if field in before and before[field] != value
    }


def _told(differing: dict[str, tuple[Any, Any]]) -> str:
    return ", ".join(f"{field}={before!r} (now {now!r})" for field, (before, now) in differing.items())
