"""What the plain Trainer scripts do alike: the output folder, training, the measuring at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from ..runs.output import checkpoint_to_resume, locked, remove_run, telling_how_to_go_on


if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments


@contextmanager
def output_folder_for_us(args: TrainingArguments, *, overwrite: bool) -> Iterator[str | None]:
    """Hold the output folder; of several processes of one run, the first speaks for all.

    Yields:
        What ``Trainer.train(resume_from_checkpoint=...)`` gets.

    Raises:
        ValueError: as `locked` and `checkpoint_to_resume`.
    """
    is_first = args.process_index == 0
    with locked(str(args.output_dir)) if is_first else nullcontext():
        overwrite = overwrite or (not is_first and args.resume_from_checkpoint is None)
        yield checkpoint_to_resume(str(args.output_dir), args.resume_from_checkpoint, overwrite=overwrite)


def run_task(options: Any, args: TrainingArguments, make_trainer: Callable[[Any, Any], tuple[Trainer, Any]]) -> None:
    """A whole run of a task in its output folder.

    Args:
        options: the task's, with ``overwrite_output_dir``.
        make_trainer: from options and arguments to the Trainer and the test split; called when the seed is set.
    """
    from transformers import set_seed

    with output_folder_for_us(args, overwrite=options.overwrite_output_dir) as checkpoint:
        set_seed(args.seed)
        trainer, test = make_trainer(options, args)
        train_and_measure(trainer, test, checkpoint, overwrite=options.overwrite_output_dir)


def train_and_measure(trainer: Trainer, test: Any, checkpoint: str | None, *, overwrite: bool) -> None:
    """Train, keep the model, and measure it on the validation split and once on the test split.

    With ``save_strategy="no"`` the model is not kept: a study of many runs wants numbers alone. ``eval_...`` is
    measured at the end unless it was at the last step; ``test_...`` comes from ``Trainer.predict``.

    Args:
        test: data set, or None where there is none.
        checkpoint: to go on with.
        overwrite: delete an earlier run of this folder first.

    Raises:
        KeyboardInterrupt: Ctrl-C; its text says how to go on.
    """
    args = trainer.args
    folder = str(args.output_dir)
    if overwrite and args.process_index == 0:
        remove_run(folder)
    with telling_how_to_go_on(folder):
        trainer.train(resume_from_checkpoint=checkpoint)
    if args.save_strategy != "no":
        trainer.save_model()
    state = trainer.state  # a new one since training began
    measured = [entry for entry in state.log_history if "eval_loss" in entry and entry["step"] == state.global_step]
    evaluation = measured[-1] if measured else trainer.evaluate()
    trainer.log_metrics("eval", evaluation)
    trainer.save_metrics("eval", evaluation, combined=False)
    if test is not None:
        metrics = trainer.predict(test, metric_key_prefix="test").metrics or {}
        trainer.log_metrics("test", metrics)
        trainer.save_metrics("test", metrics, combined=False)
    trainer.save_state()
