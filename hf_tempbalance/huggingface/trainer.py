"""`TempBalanceTrainer`: a Trainer whose optimizer has layer-wise groups and whose looks reach every tracker."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import Trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import has_length

from ..balance.assignment import assign_parameters
from ..balance.layer_groups import LayerGroups
from ..balance.optimizer_check import check_optimizer
from ..balance.optimizer_kinds import is_schedule_free
from ..config import TempBalanceConfig
from ..runs.checkpoints import resolve
from ..spectra.layers import unwrap
from .callback import TempBalanceCallback
from .progress_callback import EpochLines
from .training_args import TempBalanceTrainingArguments, output_folder


class TempBalanceTrainer(Trainer):
    """A Trainer with TempBalance: ``TempBalanceTrainer(model, args, ...)``.

    It makes the optimizer as Trainer does and splits its groups by layer (``group["layer"]``,
    ``group["lr_multiplier"]``; the untuned parameters come first). ``group["lr"]`` is the schedule's in all of them;
    the multiplier is applied inside ``optimizer.step()``. Checkpoints keep the layout of a plain Trainer's and can be
    exchanged with it. An optimizer that is passed in, or that keeps its state in its own way, is balanced without
    splitting its groups for good.

    The scalars that `TempBalanceCallback` lists go through ``Trainer.log``, so every tracker gets them, and with them
    ``tb_alpha/PART`` and ``tb_multiplier/PART``: means over the blocks of a transformer (``L00``) and over the roles
    in them (``attn.q``), over the stages of other networks (``L1``), or each layer's (``L00.attn.q``) with
    ``log_layers="all"``. While it trains it prints what was logged as lines of a table (`EpochLines`) and not as
    dictionaries, unless Trainer's own ProgressCallback or PrinterCallback was taken out.

    Args:
        *args, **kwargs: as for Trainer. With `TempBalanceTrainingArguments` the trainer acts on its fields.
        tempbalance: the settings, the paper's by default; None trains as Trainer does (those fields still count).

    Raises:
        ValueError: ``callbacks`` has a `TempBalanceCallback` as well.
    """

    def __init__(
        self,
        *args: Any,
        tempbalance: TempBalanceConfig | None = TempBalanceConfig(),  # noqa: B008  it is frozen
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.tempbalance = tempbalance
        self._layer_groups: LayerGroups | None = None
        if tempbalance is not None:
            if any(isinstance(callback, TempBalanceCallback) for callback in self.callback_handler.callbacks):
                raise ValueError(
                    "TempBalanceTrainer balances by itself, and a TempBalanceCallback would as well. Leave the "
                    "callback out and pass its settings as tempbalance=..., or pass tempbalance=None."
                )
            self.add_callback(TempBalanceCallback(tempbalance))
            # Where a callback of the user's would be: behind the trackers and before what prints.
            callbacks = self.callback_handler.callbacks
            callbacks.insert(len(callbacks) - 2, callbacks.pop())

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as Trainer does; True or "last" resumes from the newest checkpoint that was written to its end.

        Raises:
            ValueError: there is no such checkpoint.
        """
        checkpoint = resolve(output_folder(self.args), resume_from_checkpoint)
        # Not before: who takes out what Trainer prints, or puts something else there, does that after it is made.
        for position, callback in enumerate(self.callback_handler.callbacks):
            if type(callback) in (ProgressCallback, PrinterCallback):
                fit = None if self.tempbalance is None else self.tempbalance.fit
                self.callback_handler.callbacks[position] = EpochLines(fit)
        return super().train(checkpoint, *args, **kwargs)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of the parameters with weight decay: Trainer's, or all with ``weight_decay_on_all``."""
        if isinstance(self.args, TempBalanceTrainingArguments) and self.args.weight_decay_on_all:
            return [name for name, _ in model.named_parameters()]
        return super().get_decay_parameter_names(model)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Make Trainer's optimizer, with its groups split by layer."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TempBalanceCallback):
                # Trainer's own: TRL's would average what it has collected for the next log of the loss into ours.
                callback.log = partial(Trainer.log, self)
                callback.log_layers = getattr(self.args, "log_layers", callback.log_layers)
        if is_new and self.tempbalance is not None:
            self._layer_groups = self._split(optimizer, self.tempbalance)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """Make Trainer's schedule; a staircase of it with ``scheduler_unit="epoch"``."""
        is_new = self.lr_scheduler is None
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if is_new and isinstance(self.args, TempBalanceTrainingArguments) and self.args.scheduler_unit == "epoch":
            if not isinstance(scheduler, LambdaLR):
                raise ValueError(
                    f"scheduler_unit='epoch' does not work with {type(scheduler).__name__}, whose rate is no function "
                    "of the step. Use scheduler_unit='step'."
                )
            length = self._steps_per_epoch()
            scheduler.lr_lambdas = [_staircase(function, length) for function in scheduler.lr_lambdas]
        if is_new and self._layer_groups is not None and self._layer_groups.keeps_plain_state:
            self._layer_groups.adapt_scheduler(scheduler)
        return scheduler

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
        dataset_name: str | list[str] | None = None,
        **others: Any,
    ) -> None:
        """Write Trainer's model card with results, settings and picture of TempBalance; ``push_to_hub`` calls it.

        TRL's trainers call it at every checkpoint, and a save may push: a card that can't be written is a warning, and
        training, saving and pushing go on.

        Args:
            dataset: name of the data set for people.
            dataset_tags: its id on the Hub.
            dataset_name: TRL's word for both.
            *others: as for Trainer; what is not known here is not used, and a warning names it.
        """
        if not self.is_world_process_zero():
            return
        from .card import write_card_of

        if others:
            warnings.warn(f"create_model_card does not know and does not use {', '.join(others)}.", stacklevel=2)
        given: dict[str, Any] = {
            "language": language,
            "license": license,
            "tags": tags,
            "finetuned_from": finetuned_from,
        }
        given |= {"tasks": tasks, "dataset_tags": dataset_tags, "dataset": dataset, "dataset_name": dataset_name}
        try:
            write_card_of(self, self.tempbalance, model_name=model_name, **given)
        except Exception as error:  # whatever it is: the weights are worth more than their card
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            warnings.warn(f"The model card could not be written; all else goes on. {reason}", stacklevel=2)

    def _split(self, optimizer: torch.optim.Optimizer, tempbalance: TempBalanceConfig) -> LayerGroups | None:
        assert self.model is not None  # the optimizer has its parameters
        model = unwrap(self.model)
        _, layer_of = assign_parameters(model, tempbalance)
        tuned: list[torch.Tensor] = [p for p in model.parameters() if id(p) in layer_of and p.requires_grad]
        check_optimizer(optimizer, tuned, has_layer_groups=True)
        own, plain = type(optimizer), torch.optim.Optimizer
        has_own_state = own.state_dict is not plain.state_dict or own.load_state_dict is not plain.load_state_dict
        if has_own_state or self.is_fsdp_enabled:
            # Its checkpoints don't pass the hooks that convert them (FSDP's are made by parameter name, with the
            # group's settings next to each); virtual groups do without.
            return None
        # DeepSpeed saves flat parts; a schedule-free optimizer's averages depend on the rate, and so on the layer.
        keeps_plain_state = not self.is_deepspeed_enabled and not is_schedule_free(optimizer)
        return LayerGroups(
            optimizer, lambda parameter: layer_of.get(id(parameter)), keeps_plain_state=keeps_plain_state
        )

    def _steps_per_epoch(self) -> int:
        loader = self.get_train_dataloader()
        if not has_length(loader):
            raise ValueError(
                "scheduler_unit='epoch' needs a training data set with a length. Use scheduler_unit='step'."
            )
        return self.set_initial_training_values(self.args, loader)[1]


def _staircase(schedule: Callable[[int], float], steps_per_epoch: int) -> Callable[[int], float]:
    """The schedule with its value at an epoch's first step held for the whole epoch."""

    # A function and not an object: LambdaLR would pickle an object's attributes into scheduler.pt.
    def held(step: int) -> float:
        return schedule(step // steps_per_epoch * steps_per_epoch)

    return held
