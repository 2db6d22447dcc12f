"""`TempBalanceCallback`: TempBalance in a plain Hugging Face Trainer."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import SaveStrategy

from ..balance.balancer import TempBalancer
from ..config import TempBalanceConfig, renewed
from .callback_state import entries_of, read_state
from .history_file import HistoryFile
from .look_schedule import is_due, looks_at_steps
from .messages import say_what_is_balanced, warn_of_trackers_in_front
from .scalars import LAYER_KEYS, LogLayers, per_layer, summary


logger = logging.getLogger(__name__)


class TempBalanceCallback(TrainerCallback, ExportableState):
    """Gives each layer its own learning rate: ``Trainer(..., callbacks=[TempBalanceCallback()])``.

    Looks at the weights when training starts, then after every ``update_interval`` epochs or optimizer steps.
    The optimizer's groups, its checkpoints, the schedule and the logged ``learning_rate`` stay those of plain
    training: a checkpoint can be resumed with or without the callback. Its own state is in ``trainer_state.json``,
    and a resumed run goes on with the multipliers it had; with other settings than the checkpoint's it looks at once.
    Remove the callback to train on without it.

    After each look these are logged, over the tuned layers, and one line with every layer is appended to
    ``tempbalance_history.jsonl`` in the output folder. With a plain Trainer the scalars are in
    ``trainer.state.log_history`` and join the next log of a training loss, which reaches the console and the trackers
    that are behind this callback: Trainer puts those of ``report_to`` before it, so name them in ``callbacks``, after
    this one. `TempBalanceTrainer` logs through ``Trainer.log``, which reaches all.

    | key | meaning |
    | --- | --- |
    | tempbalance/alpha_mean, _min, _max, _std | exponents that are finite; population standard deviation |
    | tempbalance/multiplier_mean, _min, _max | multipliers; the mean over tuned parameters, by their number |
    | tempbalance/seconds | time of the look |
    | tempbalance/waited | seconds that training stood still for a look that went on beside it |

    Args:
        config: the settings, also as the dict of `TempBalanceConfig.to_dict`; the paper's where it is None.
    """

    def __init__(self, config: TempBalanceConfig | dict[str, Any] | None = None) -> None:
        if isinstance(config, dict):  # as a checkpoint has it, where Trainer restores callbacks
            config = TempBalanceConfig.from_dict(renewed(config))
        self.config = config or TempBalanceConfig()
        self.balancer: TempBalancer | None = None
        self.log: Callable[[dict[str, float]], None] | None = None  # TempBalanceTrainer puts Trainer.log here
        self.log_layers: LogLayers = "parts"  # likewise its argument of this name
        self.is_before_trackers = False  # for who has put it there, so that nothing is said about it
        self._unprinted: dict[str, float] = {}
        self._history = HistoryFile()
        self._training: weakref.ref[TrainerState] | None = None  # a Trainer makes a state for each training
        self.last_look_step = -1  # this and what follows is kept by a checkpoint
        self.balancer_state: dict[str, Any] | None = None

    def state(self) -> dict[str, Any]:
        """What Trainer writes into ``trainer_state.json``."""
        if self.balancer is not None:
            if self.balancer.is_looking:
                logger.warning(
                    "A look at the weights is going on and will be missing when this checkpoint is resumed. Save with "
                    "save_strategy, which is foreseen."
                )
            self.balancer_state = self.balancer.state_dict()
        attributes = {"last_look_step": self.last_look_step, "balancer_state": self.balancer_state}
        return {"args": {"config": self.config.to_dict()}, "attributes": attributes}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Also runs on a retry with a smaller batch and on a second train(), without an on_train_end before it.
        self._join(args, state, control, **kwargs)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._balancer_in(state) is None:  # it was added while training runs
            self._join(args, state, control, **kwargs)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        balancer = self._balancer_in(state)
        if balancer is None:
            self._join(args, state, control, **kwargs)
            return
        self._record(balancer, state, control)
        if looks_at_steps(self.config):
            self._look_if_due(balancer, state, control)
        if control.should_save:
            balancer.wait()  # the checkpoint has its result, and all processes are here

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        balancer = self._balancer_in(state)
        if balancer is None:
            return
        if not looks_at_steps(self.config):
            self._look_if_due(balancer, state, control, partial_epoch=True)
        if control.should_save:
            balancer.wait()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        balancer = self._balancer_in(state)
        if balancer is not None and args.save_strategy == SaveStrategy.BEST:
            balancer.wait()  # it may be saved now

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None:
            return
        if "loss" in logs:  # nobody but a log has this dict: that of an evaluation is the one that evaluate() returns
            logs.update(self._unprinted)
            self._unprinted = {}
        # The trackers have them by now, and log_history has a copy: the console's line stays short.
        for key in [key for key in logs if key.startswith(LAYER_KEYS)]:
            del logs[key]

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        balancer = self._balancer_in(state)
        if balancer is None:
            return
        balancer.end()  # a look that goes on tells of the weights at the end
        self._record(balancer, state, control)
        self.balancer_state = balancer.state_dict()
        balancer.detach()
        self._training = None

    def _balancer_in(self, state: TrainerState) -> TempBalancer | None:
        """The balancer, if this callback takes part in the training of this state."""
        return self.balancer if self._training is not None and self._training() is state else None

    def _join(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        **kwargs: Any,
    ) -> None:
        """Take part in a training from here on."""
        if self.balancer is not None:
            self.balancer.detach()
        self.balancer, self._training = None, None
        balancer = TempBalancer(model, optimizer, self.config)
        # An exception or Ctrl-C ends a training without on_train_end: its state goes, and with it our effect.
        balancer.take_part_while(state)
        try:
            kept = read_state(state, type(self).__name__, balancer, self.config)
        except ValueError:
            balancer.detach()
            raise
        self.balancer, self._training = balancer, weakref.ref(state)
        self.last_look_step, self._unprinted = kept.last_look_step, {}
        # Trainer reads this entry at every save; it has none after a resume from a checkpoint without TempBalance.
        entries_of(state).setdefault(type(self).__name__, self.state())
        layers = [layer.name for layer in balancer.layers]
        self._history.begin(args, state, model, last_step=self.last_look_step, layers=layers)
        if not kept.is_known or kept.has_other_settings:
            self._look(balancer, state, control, wait=True)
        else:  # a checkpoint saved by the last step of an epoch is older than the look at that epoch's end
            self._look_if_due(balancer, state, control)
        if state.is_world_process_zero:
            say_what_is_balanced(balancer, state)
            if self.log is None and not self.is_before_trackers:
                warn_of_trackers_in_front(args.report_to)

    def _look_if_due(
        self, balancer: TempBalancer, state: TrainerState, control: TrainerControl, *, partial_epoch: bool = False
    ) -> None:
        last = self.last_look_step if balancer.pending_step is None else balancer.pending_step
        if last < state.global_step and is_due(self.config, state, partial_epoch=partial_epoch):
            self._look(balancer, state, control)

    def _look(
        self, balancer: TempBalancer, state: TrainerState, control: TrainerControl, *, wait: bool = False
    ) -> None:
        look = balancer.begin_look if self.config.overlap and not wait else balancer.rebalance
        look(step=state.global_step, epoch=state.epoch or 0.0)
        self._record(balancer, state, control)

    def _record(self, balancer: TempBalancer, state: TrainerState, control: TrainerControl) -> None:
        """Write and log the looks that have come into force."""
        for look in balancer.take_looks():
            self.last_look_step = look.step
            if state.is_world_process_zero:
                self._history.append(look)
            scalars = summary(look)
            logger.info("step %d: %s", state.global_step, scalars)
            if self.log is not None:
                should_log = control.should_log  # Trainer.log takes it back, and with it the loss that is due now
                self.log(scalars | per_layer(look.spectra, look.multipliers, self.log_layers))
                control.should_log = should_log
            else:
                state.log_history.append({**scalars, "epoch": state.epoch or 0.0, "step": state.global_step})
                self._unprinted = scalars
