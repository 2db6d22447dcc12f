"""What a `TempBalanceTrainer` prints while it trains: a line for each step at which something was logged."""

from __future__ import annotations

import sys
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from ..runs.history import metric_keys
from ..terminal import printable, screen_width
from .scalars import LAYER_KEYS


GAP = "  "
LEAST = 6  # cells of a column
OURS = "tempbalance/"
NO_COLUMN = ("grad_norm", "total_flos", "num_input_tokens_seen", "epoch", "step")


class EpochLines(ProgressCallback):
    """Trainer's progress bar, and in the place of its dictionaries a table that grows by a line.

    A line has what was logged since the last one: epoch, training loss, metrics of the evaluations, learning rate of
    the schedule, mean multiplier over the tuned parameters, smallest and largest alpha of the tuned layers. With the
    strategies "epoch" that is one an epoch. In a narrow terminal the least important columns are left out; without a
    terminal there is no bar.

    Args:
        fit: name of the fit that alpha is of; None without TempBalance.
    """

    def __init__(self, fit: str | None = None) -> None:
        super().__init__()
        self.fit = fit
        self.heads: dict[str, int] = {}  # of the columns that were printed -> cells
        self.logged: dict[str, Any] = {}  # since the last line

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.heads = {}
        if state.is_world_process_zero:
            # None: where there is a terminal.
            self.training_bar = tqdm(total=state.max_steps, dynamic_ncols=True, disable=args.disable_tqdm or None)
        self.current_step = 0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # What belongs together, of looks, loss and evaluations, is logged between two steps.
        self._print_line(args, state)

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        if not args.disable_tqdm and sys.stderr.isatty():
            super().on_prediction_step(args, state, control, eval_dataloader, **kwargs)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None:
            return
        if args.disable_tqdm:  # in the place of PrinterCallback, which takes it out of the metrics themselves
            logs.pop("total_flos", None)
        if not state.is_world_process_zero:
            return
        if "train_runtime" in logs:
            self._print_line(args, state)
            loss = f", mean loss {_number(logs['train_loss'])}" if "train_loss" in logs else ""
            tqdm.write(f"{state.global_step} steps in {logs['train_runtime']:.1f} s{loss}")
        elif self.training_bar is None:  # an evaluation before or after training
            found = [f"{key.removeprefix('eval_')} {_number(logs[key])}" for key in metric_keys(logs)]
            if found:
                tqdm.write(printable(f"evaluation: {', '.join(found)}"))
            else:  # the look at the start, which the first line tells of
                self.logged |= logs
        else:
            self.logged |= logs

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._print_line(args, state)
        super().on_train_end(args, state, control, **kwargs)

    def _print_line(self, args: TrainingArguments, state: TrainerState) -> None:
        if not ("loss" in self.logged or metric_keys(self.logged)):
            return  # a look alone waits for the loss that it belongs to
        cells = self._cells(args, state)
        self.logged = {}
        if not cells.keys() <= self.heads.keys():
            self.heads = {head: max(len(head), len(text), LEAST) for head, text in cells.items()} | self.heads
            shown = self._fitting()
            tqdm.write(GAP.join(head.rjust(self.heads[head]) for head in shown))
        tqdm.write(GAP.join(cells.get(head, "-").rjust(self.heads[head]) for head in self._fitting()))

    def _cells(self, args: TrainingArguments, state: TrainerState) -> dict[str, str]:
        """Heading -> text of the columns, in their order."""
        logged = self.logged
        epoch, total = state.epoch or 0.0, state.num_train_epochs
        is_whole = abs(epoch - round(epoch)) < 1e-6
        cells = {"epoch": f"{round(epoch)}/{total}" if is_whole else f"{epoch:.2f}"}
        if args.logging_strategy == "steps":
            cells["step"] = str(state.global_step)
        if "loss" in logged:
            cells["loss"] = _number(logged["loss"])
        for key in metric_keys(logged):
            cells[printable(key.removeprefix("eval_") if not key.endswith("loss") else key)] = _number(logged[key])
        if "learning_rate" in logged:
            cells["rate"] = f"{logged['learning_rate']:.3g}"
        if f"{OURS}multiplier_mean" in logged:
            cells["multiplier"] = f"{logged[f'{OURS}multiplier_mean']:.2f}"
        if f"{OURS}alpha_min" in logged:
            low, high = (logged[f"{OURS}alpha_{end}"] for end in ("min", "max"))
            cells[f"alpha ({self.fit})"] = f"{low:.2f} to {high:.2f}"
        known = ("loss", "learning_rate", *NO_COLUMN)
        for key, value in logged.items():  # what other Trainers log beside the loss
            if key not in known and not key.startswith((OURS, *LAYER_KEYS, "eval_")) and isinstance(value, float):
                cells[printable(key)] = _number(value)
        return cells

    def _fitting(self) -> list[str]:
        """The headings that have room, in their order: losses of evaluations and what others log leave first."""
        width = screen_width()
        if width is None:
            return list(self.heads)
        first = ("epoch", "step", "loss", "multiplier", f"alpha ({self.fit})", "rate")
        ranked = sorted(self.heads, key=lambda head: (head.startswith("eval_"), head not in first))
        shown: set[str] = set()
        for head in ranked:
            if sum(self.heads[name] + len(GAP) for name in {*shown, head}) - len(GAP) <= width:
                shown.add(head)
        return [head for head in self.heads if head in shown]


def _number(value: float) -> str:
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.3g}"
