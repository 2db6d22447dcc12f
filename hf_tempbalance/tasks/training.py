"""What the plain Trainer scripts do alike: the output folder, training, the measuring at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from ..runs.output import checkpoint_to_resume, how_to_go_on, locked, remove_run


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
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(how_to_go_on(folder)) from error
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
