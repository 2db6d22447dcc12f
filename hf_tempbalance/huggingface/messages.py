"""What a training with TempBalance says when it starts."""

from __future__ import annotations

import logging

from tqdm.auto import tqdm
from transformers import TrainerState

from ..balance.balancer import TempBalancer
from ..runs.history import HISTORY_NAME
from .look_schedule import next_look


logger = logging.getLogger(__name__)


def say_what_is_balanced(balancer: TempBalancer, state: TrainerState) -> None:
    """One line on the console, where Trainer's own go: how many layers, their multipliers, the next look."""
    tuned = balancer.goal_multipliers.values()
    tqdm.write(
        f"TempBalance: {len(tuned)} of {len(balancer.layers)} layers, {min(tuned):.2f} to {max(tuned):.2f}, "
        f"mean {balancer.multiplier_mean:.2f}; next look {next_look(balancer.config, state)}."
    )


def warn_of_trackers_in_front(report_to: str | list[str] | None) -> None:
    """Say that the trackers of ``report_to`` don't get a callback's scalars in a plain Trainer, and the remedy."""
    if report_to:
        logger.warning(
            "TempBalance's scalars are in log_history and %s; they don't reach %s, which Trainer calls before this "
            "callback. Use TempBalanceTrainer, or report_to='none' and the tracker's own callback in "
            "callbacks=[...], after TempBalanceCallback.",
            HISTORY_NAME,
            report_to if isinstance(report_to, str) else ", ".join(report_to),
        )
