"""The model card of what a Trainer has trained: what it knows of model, data and run."""

from __future__ import annotations

import json
from collections.abc import Sized
from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from huggingface_hub import ModelCard
from transformers import Trainer
from transformers.modelcard import TrainingSummary

from ..config import TempBalanceConfig
from ..runs.history import HISTORY_NAME, read_history
from ..runs.modelcard import CARD_NAME, write_model_card
from ..runs.results import RESULTS_NAME, read_results
from ..runs.run import Run
from .callback_state import kept_of
from .trained_on import base_model_of, data_facts
from .training_args import output_folder


def write_card_of(
    trainer: Trainer,
    settings: TempBalanceConfig | None = None,
    *,
    language: str | list[str] | None = None,
    license: str | None = None,
    tags: str | list[str] | None = None,
    model_name: str | None = None,
    finetuned_from: str | None = None,
    tasks: str | list[str] | None = None,
    dataset_tags: str | list[str] | None = None,
    dataset: str | list[str] | None = None,
    dataset_name: str | list[str] | None = None,
) -> Path:
    """The card of what a Trainer has trained so far, in its output folder.

    Args:
        trainer: its model, state and arguments are those of the card.
        settings: of TempBalance; those of a `TempBalanceCallback` of the trainer if None.
        model_name: title of the card; the name in ``hub_model_id`` or of the output folder if None.
        **others: as for ``Trainer.create_model_card``, and TRL's ``dataset_name``.

    Raises:
        ValueError: a file of the folder that the card is made from is damaged.
    """
    folder = output_folder(trainer.args)
    config = _config_of(trainer.model)
    base = finetuned_from or base_model_of(trainer.model)
    if not license and base and not trainer.is_in_train:  # a checkpoint does not wait for the Hub
        license = TrainingSummary(model_name or folder.name, finetuned_from=base).license
    kept = _listed(ModelCard.load(folder / CARD_NAME).data.tags) if (folder / CARD_NAME).is_file() else []
    tags = [*_listed(tags), *_listed(getattr(trainer.model, "model_tags", None)), *kept]
    ids = _listed(dataset_tags) or [name for name in _listed(dataset_name) if name.count("/") == 1]
    names = _listed(dataset) or _listed(dataset_name) or ids
    facts = data_facts(trainer.train_dataset, trainer.eval_dataset)
    data: dict[str, Any] = {"language": language, "license": license, "base_model": base}
    data |= {"pipeline_tag": next(iter(_listed(tasks)), None)}
    data |= {"library_name": "peft" if is_peft_model(trainer.model) else None}
    run = _run_of(trainer, settings)
    known = facts.to_options() | {"train_examples": _examples(trainer)}
    run.options = known | run.options  # a script's own word comes first
    return write_model_card(
        run,
        config=config,
        repo_id=trainer.hub_model_id or trainer.args.hub_model_id or model_name,
        data={**{key: value for key, value in data.items() if value}, "tags": tags},
        dataset=", ".join(names) or None,
        dataset_id=ids[0] if ids else None,
        splits=tuple(trainer.eval_dataset) if isinstance(trainer.eval_dataset, dict) else (),
    )


def _run_of(trainer: Trainer, settings: TempBalanceConfig | None) -> Run:
    """The run as the Trainer knows it, and what the output folder has besides."""
    folder, state = output_folder(trainer.args), trainer.state
    run = Run(folder, log=state.log_history, arguments=json.loads(trainer.args.to_json_string()))  # tokens are masked
    run.environment = {"processes": trainer.args.world_size}
    run.best_step = state.best_global_step if state.best_model_checkpoint else None
    kept = kept_of(state, "TempBalanceCallback")
    run.settings = settings.to_dict() if settings is not None else kept["args"]["config"] if kept else None
    if run.settings is not None and (folder / HISTORY_NAME).is_file():
        run.looks = read_history(folder / HISTORY_NAME)
    if (folder / RESULTS_NAME).is_file():
        results = read_results(folder)
        run.options, run.environment = results.get("config", {}), results.get("environment", run.environment)
        run.seconds, run.predictions = results.get("seconds"), results.get("predictions", [])
    return run


def _config_of(model: Any) -> dict[str, Any]:
    """The configuration of a model; its class alone where it has none, as modules of one's own."""
    config = getattr(model, "config", None)
    known = config.to_dict() if config is not None and hasattr(config, "to_dict") else {}
    model = model.get_base_model() if is_peft_model(model) else model
    # A model that has not been saved yet does not name its class.
    return known | {"architectures": known.get("architectures") or [type(model).__name__]}


def _examples(trainer: Trainer) -> int | None:
    return len(trainer.train_dataset) if isinstance(trainer.train_dataset, Sized) else None


def _listed(value: Any) -> list[str]:
    """A name, several or none as a list; what is in it and is no text, as Trainer's [None], is left out."""
    names = [value] if isinstance(value, str) else value or []
    return [name for name in names if isinstance(name, str) and name]
