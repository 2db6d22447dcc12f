"""`Attachment`: our callbacks in every Trainer that a script of others makes."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import types
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any

from ..config import TempBalanceConfig


if TYPE_CHECKING:
    from .recorder_callback import Record

HANDLERS = "transformers.trainer_callback"

# Nothing here may import torch or transformers before the script does: it may set environment variables first.


class Attachment:
    """Puts the callbacks into every Trainer of this process, at the moment when it begins to train.

    By then a callback of the script's own, or of a `TempBalanceTrainer`, is there to be seen.

    Args:
        config: the settings; None for plain training.
        about: what is known of the run, for its ``results.json``.
    """

    def __init__(self, config: TempBalanceConfig | None, about: dict[str, Any]) -> None:
        self.config, self.about = config, about
        self.trainers = 0
        self.records: list[Record] = []
        self.notes: list[str] = []

    def hook(self) -> None:
        """Act on every callback handler of transformers, whether that is imported already or will be."""
        if HANDLERS in sys.modules:
            self._patch(sys.modules[HANDLERS])
        else:
            sys.meta_path.insert(0, _WhenImported(HANDLERS, self._patch))

    def _patch(self, module: types.ModuleType) -> None:
        handlers = module.CallbackHandler
        init_end, train_begin = handlers.on_init_end, handlers.on_train_begin

        @functools.wraps(init_end)
        def on_init_end(handler: Any, *args: Any, **kwargs: Any) -> Any:
            self.trainers += 1
            return init_end(handler, *args, **kwargs)

        @functools.wraps(train_begin)
        def on_train_begin(handler: Any, *args: Any, **kwargs: Any) -> Any:
            self.put_into(handler.callbacks)
            return train_begin(handler, *args, **kwargs)

        handlers.on_init_end, handlers.on_train_begin = on_init_end, on_train_begin

    def put_into(self, callbacks: list[Any]) -> None:
        """Put what is missing into the list: TempBalance before the trackers, the recorder behind all."""
        from transformers import DefaultFlowCallback

        from .callback import TempBalanceCallback
        from .recorder_callback import RunRecorder
        from .results_callback import ResultsCallback

        if any(isinstance(callback, RunRecorder) for callback in callbacks):
            return
        own = next((callback for callback in callbacks if isinstance(callback, TempBalanceCallback)), None)
        config = self.config
        if own is not None:
            config = own.config
            what = "so this is not plain training" if self.config is None else "and no second one is put in"
            self.notes.append(f"the script has a TempBalanceCallback of its own, {what}; its settings are recorded.")
        elif config is not None:
            # Behind what decides when to log and save, which the callback reads.
            flow = [n for n, callback in enumerate(callbacks) if isinstance(callback, DefaultFlowCallback)]
            callbacks.insert(flow[0] + 1 if flow else 0, TempBalanceCallback(config))
        if any(isinstance(callback, ResultsCallback) for callback in callbacks):
            self.notes.append("the script writes a results.json of its own, and no second one is written.")
        else:
            callbacks.append(RunRecorder(self.about, config, self.records))

    def finish(self, error: BaseException | None) -> list[str]:
        """Bring the records to their end. error: what the script ended with.

        Returns:
            What there is to say about them.
        """
        failure = None
        if error is not None and not (isinstance(error, SystemExit) and error.code in (None, 0)):
            failure = f"{type(error).__name__}: {error}".removesuffix(": ")
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        for record in self.records:
            record.finish(failure if record is self.records[-1] else None, status)
        script = os.path.basename(self.about["script"])
        lines = list(dict.fromkeys(self.notes))
        if not self.trainers and failure is not None:
            lines.append(f"{script} ended before it made a Trainer, so nothing was balanced or recorded.")
        elif not self.trainers:
            lines.append(
                f"{script} made no Trainer of transformers, so nothing was balanced or recorded. "
                "A loop of your own takes TempBalancer, see docs/loop.md."
            )
        elif not (self.records or self.notes):
            lines.append(f"{script} made a Trainer and did not train it, so nothing was balanced or recorded.")
        for record in self.records:
            what = (
                f"TempBalance, {record.results['looks']} looks" if record.results["config"]["tempbalance"] else "plain"
            )
            end = "" if record.results["status"] == "finished" else f", {record.results['status']}"
            lines.append(f"{record.path} ({what}, {record.results['seconds']:.1f} s{end})")
        if len({record.path.parent for record in self.records}) < len(self.records):
            lines.append(
                "several trainings wrote into one folder: results.json, the history and the checkpoints there are "
                "those of the last. Give each its own output_dir to keep all."
            )
        return lines


class _WhenImported(MetaPathFinder):
    """Calls a function with a module when that has been imported, once."""

    def __init__(self, name: str, then: Callable[[types.ModuleType], None]) -> None:
        self.name, self.then = name, then

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: types.ModuleType) -> None:
                execute(module)
                self.then(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
