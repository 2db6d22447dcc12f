"""`TempBalanceCallback`: TempBalance in a plain Hugging Face Trainer."""

from __future__ import annotations

import logging
import math
import time
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import SaveStrategy

from ..balance.balancer import TempBalancer
from ..balance.distributed import rank_and_size
from ..balance.spectrum_job import OverlappedLook
from ..config import TempBalanceConfig
from ..runs.history import HISTORY_NAME, append_look, continue_history
from ..spectra.analysis import LayerSpectrum
from .scalars import LAYER_KEYS, LogLayers, per_layer, summary


logger = logging.getLogger(__name__)


class TempBalanceCallback(TrainerCallback, ExportableState):
    """Gives each layer its own learning rate: ``Trainer(..., callbacks=[TempBalanceCallback()])``.

    Looks at the weights when training starts, then after every ``update_interval`` epochs or optimizer steps.
    The optimizer's groups, its checkpoints, the schedule and the logged ``learning_rate`` stay those of plain
    training: a checkpoint can be resumed with or without the callback. Its own state is in ``trainer_state.json``,
    and a resumed run goes on with the multipliers it had. Remove the callback to train on without it.

    After each look these are logged, over the tuned layers, and one line with every layer is appended to
    ``tempbalance_history.jsonl`` in the output folder. With a plain Trainer the scalars are in
    ``trainer.state.log_history`` and join the next log, which reaches the console and the trackers that are behind
    this callback: Trainer puts those of ``report_to`` before it, so name them in ``callbacks``, after this one.
    `TempBalanceTrainer` logs through ``Trainer.log``, which reaches all.

    | key | meaning |
    | --- | --- |
    | tempbalance/alpha_mean, _min, _max, _std | exponents that are finite; population standard deviation |
    | tempbalance/multiplier_min, _max | smallest and largest learning-rate multiplier |
    | tempbalance/seconds | time of the look |

    Args:
        config: the settings, also as the dict of `TempBalanceConfig.to_dict`; the paper's where it is None.
    """

    def __init__(self, config: TempBalanceConfig | dict[str, Any] | None = None) -> None:
        self.config = (
            TempBalanceConfig.from_dict(config) if isinstance(config, dict) else config or TempBalanceConfig()
        )
        self.balancer: TempBalancer | None = None
        self.log: Callable[[dict[str, float]], None] | None = None  # TempBalanceTrainer puts Trainer.log here
        self.log_layers: LogLayers = "parts"  # likewise its argument of this name
        self._unprinted: dict[str, float] = {}
        self._folder = Path()
        self._trials = 0
        self._trial_model: weakref.ref[torch.nn.Module] | None = None
        # What a checkpoint keeps.
        self.last_look_step = -1
        self.seconds = 0.0
        self.balancer_state: dict[str, Any] | None = None
        self.begun: dict[str, float] | None = None  # step and epoch of an overlapped look that is not in force

    def state(self) -> dict[str, Any]:
        """What Trainer writes into ``trainer_state.json``."""
        pending = None if self.balancer is None else self.balancer.pending
        if pending is not None:
            if pending.background is not None and rank_and_size()[1] > 1:
                # Only one process is here, and the look needs all. Save with save_strategy, which is foreseen.
                logger.warning(
                    "A look at the weights is going on and will be missing when this checkpoint is resumed."
                )
            else:
                self.balancer_state = self.balancer.state_dict()
        return {
            "args": {"config": self.config.to_dict()},
            "attributes": {
                "last_look_step": self.last_look_step,
                "seconds": self.seconds,
                "balancer_state": self.balancer_state,
                "begun": self.begun,
            },
        }

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        **kwargs: Any,
    ) -> None:
        # Also runs on a retry with a smaller batch and on a second train(), without an on_train_end before it.
        if self.balancer is not None:
            self.balancer.detach()
        self.balancer = TempBalancer(model, optimizer, self.config)
        self._restore(state)
        # Trainer reads this entry at every save; it has none after a resume from a checkpoint without TempBalance.
        state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        self._folder = self._folder_of(args, state, model)
        if state.is_world_process_zero:
            layers = [layer.name for layer in self.balancer.layers]
            problem = continue_history(self._folder / HISTORY_NAME, self.last_look_step, layers)
            if problem is not None:
                warnings.warn(problem, stacklevel=2)
        # A checkpoint saved by the last step of an epoch is older than the look at that epoch's end.
        last = self.last_look_step if self.begun is None else self.begun["step"]
        missed = self._is_due(state) and last < state.global_step
        if self.balancer_state is None or missed:
            self._look(state, control)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._record_overlapped(state, control)
        if self.config.update_unit == "step" and self._is_due(state):
            self._look(state, control)
        if control.should_save:
            self.balancer.settle_overlapped()  # the checkpoint has its result, and all processes are here

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.config.update_unit == "epoch" and self._is_due(state, partial_epoch=True):
            self._look(state, control)
        if control.should_save:
            self.balancer.settle_overlapped()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.balancer is not None and args.save_strategy == SaveStrategy.BEST:
            self.balancer.settle_overlapped()  # it may be saved now

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is not None:
            logs.update(self._unprinted)
            self._unprinted = {}
            # The trackers have them by now, and log_history has a copy: the console's line stays short.
            for key in [key for key in logs if key.startswith(LAYER_KEYS)]:
                del logs[key]

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.balancer is None:
            return
        if self.balancer.pending is not None:  # it tells of the weights at the end, and is in force for no step
            self.balancer.settle_overlapped()
            self._record_begun(state, control, self.balancer.pending, in_force=None)
        self.balancer.detach()

    def _restore(self, state: TrainerState) -> None:
        """Take up the state that the checkpoint has of this callback, or start anew."""
        self.last_look_step, self.seconds, self.balancer_state, self.begun = -1, 0.0, None, None
        stored = state.stateful_callbacks.get(type(self).__name__)
        stored = stored[-1] if isinstance(stored, list) else stored
        if state.global_step == 0:
            return
        if stored is None:
            logger.warning(
                "The checkpoint has no state of TempBalance: the weights are looked at now, at step %d.",
                state.global_step,
            )
            return
        kept = _checked(stored, type(self).__name__)
        if kept["balancer_state"] is None:
            return
        self.balancer.load_state_dict(kept["balancer_state"])
        self.last_look_step, self.seconds = kept["last_look_step"], kept["seconds"]
        self.balancer_state = kept["balancer_state"]
        self.begun = kept.get("begun") if self.balancer.pending is not None else None

    def _folder_of(self, args: TrainingArguments, state: TrainerState, model: torch.nn.Module) -> Path:
        """Where the history goes: the output folder, and in a hyperparameter search the trial's folder in it."""
        if not state.is_hyper_param_search:
            return Path(args.output_dir)
        if self._trial_model is None or self._trial_model() is not model:  # a retry of a trial keeps the model
            self._trial_model = weakref.ref(model)
            self._trials += 1
        return Path(args.output_dir, state.trial_name or f"run-{self._trials - 1}")

    def _is_due(self, state: TrainerState, *, partial_epoch: bool = False) -> bool:
        if self.config.update_unit == "step":
            return state.global_step % self.config.update_interval == 0
        epochs = state.epoch or 0.0
        whole = round(epochs)
        if abs(epochs - whole) > 1e-6:  # Trainer adds up fractions of an epoch
            whole = math.ceil(epochs)
            if not partial_epoch:
                return False
        return whole % self.config.update_interval == 0

    def _look(self, state: TrainerState, control: TrainerControl) -> None:
        start = time.perf_counter()
        spectra = self.balancer.rebalance()
        seconds = time.perf_counter() - start
        self._record_overlapped(state, control)  # the one before, if it was not in force yet
        when = {"step": state.global_step, "epoch": state.epoch or 0.0}
        if spectra is None:
            self.begun = when | {"stall": seconds}
        else:
            self._record(state, control, when | {"seconds": seconds}, spectra, self.balancer.layer_multipliers)

    def _record_overlapped(self, state: TrainerState, control: TrainerControl) -> None:
        """Record the look that has come into force since, if one has."""
        look = self.balancer.overlapped
        if look is not None:
            self.balancer.overlapped = None
            self._record_begun(state, control, look, in_force=max(state.global_step - 1, self.begun["step"]))

    def _record_begun(
        self, state: TrainerState, control: TrainerControl, look: OverlappedLook, in_force: int | None
    ) -> None:
        waited = self.begun["stall"] + look.waited
        what = {"step": self.begun["step"], "epoch": self.begun["epoch"], "seconds": look.seconds}
        what |= {"wait_seconds": waited, "in_force": in_force}
        self.begun = None
        self._record(state, control, what, look.spectra, look.multipliers)

    def _record(
        self,
        state: TrainerState,
        control: TrainerControl,
        what: dict[str, Any],
        spectra: list[LayerSpectrum],
        multipliers: dict[str, float],
    ) -> None:
        """Keep, write and log a look. what: its step, epoch, seconds, and of an overlapped one the wait."""
        self.last_look_step = what["step"]
        self.seconds += what.get("wait_seconds", what["seconds"])
        self.balancer_state = self.balancer.state_dict()
        if state.is_world_process_zero:
            layers = [
                {**spectrum.to_dict(), "multiplier": multipliers.get(spectrum.name, 1.0)} for spectrum in spectra
            ]
            try:
                append_look(self._folder / HISTORY_NAME, what | {"layers": layers})
            except OSError as error:
                # Training is worth more than its history; the scalars are still logged.
                warnings.warn(
                    f"{self._folder / HISTORY_NAME}: the look at step {what['step']} could not be written "
                    f"({error.strerror}). Training goes on.",
                    stacklevel=2,
                )
        scalars = summary(spectra, multipliers, what["seconds"])
        if "wait_seconds" in what:
            scalars["tempbalance/wait_seconds"] = what["wait_seconds"]
        layers = {} if self.log is None else per_layer(spectra, multipliers, self.log_layers)
        self._report(state, control, scalars, layers)

    def _report(
        self, state: TrainerState, control: TrainerControl, scalars: dict[str, float], layers: dict[str, float]
    ) -> None:
        logger.info("step %d: %s", state.global_step, scalars)
        if self.log is not None:
            should_log = control.should_log  # Trainer.log takes it back, and with it the loss that is due now
            self.log(scalars | layers)
            control.should_log = should_log
        else:
            state.log_history.append({**scalars, "epoch": state.epoch or 0.0, "step": state.global_step})
            self._unprinted = scalars


def _checked(stored: Any, name: str) -> dict[str, Any]:
    """The attributes of a stored state. Raises ValueError with file and field where one is missing or damaged."""
    where = f"trainer_state.json of the checkpoint, stateful_callbacks.{name}.attributes"
    attributes = stored.get("attributes") if isinstance(stored, dict) else None
    allowed = {
        "last_look_step": ("a whole number", lambda value: type(value) is int),
        "seconds": ("a number", lambda value: type(value) in (int, float)),
        "balancer_state": ("an object or null", lambda value: value is None or isinstance(value, dict)),
    }
    for field, (expected, is_good) in allowed.items():
        value = attributes.get(field, "missing") if isinstance(attributes, dict) else "missing"
        if not is_good(value):
            raise ValueError(
                f"{where}.{field} is {value!r} and should be {expected}: the file is damaged. Resume from another "
                f"checkpoint, or delete the entry {name} to go on with a new look."
            )
    return attributes
