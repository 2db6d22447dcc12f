"""The model card of a run: what was trained, its results, how to load it, and what TempBalance did."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..files import write_whole
from . import card_text as text
from .card_facts import DataFacts
from .history import HISTORY_NAME, NO_METRIC, metric_keys
from .markdown import Markdown, one_line, render
from .run import Run


logger = logging.getLogger(__name__)
CARD_NAME = "README.md"
LAYERS_NAME, CURVES_NAME = "plots/tempbalance_layers.png", "plots/curves.png"
# End of a model class's name -> task on the Hub.
TASKS = {
    "ForImageClassification": "image-classification",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForMaskedLM": "fill-mask",
}
INPUTS = {"image-classification": "image.png", "fill-mask": None, "question-answering": None}


def write_model_card(
    run: Run,
    *,
    config: dict[str, Any] | None = None,
    repo_id: str | None = None,
    data: dict[str, Any] | None = None,
    dataset: str | None = None,
    dataset_id: str | None = None,
    dataset_config: str | None = None,
    dataset_split: str | None = None,
    splits: tuple[str, ...] = ("validation", "test"),
) -> Path:
    """Write README.md, with the pictures that it shows, into a run's output folder.

    What of the data and of the base model is None is taken from the run, where it has that.

    Args:
        run: of `read_run`.
        config: the model's configuration; config.json of the folder if None.
        repo_id: owner/name on the Hub, for the lines that load the model; the folder's name if None.
        data: further fields of `huggingface_hub.ModelCardData`: license, tags, language, base_model, ...
        dataset: name of the data set for people; without any there are no results in the metadata.
        dataset_id: its id on the Hub, if it has one.
        dataset_config: its configuration there.
        dataset_split: the split that metrics were measured on whose keys have none.
        splits: names of the evaluated splits, where a metric's key has one: "eval_test_accuracy".

    Raises:
        ValueError: there is no configuration, or config.json is damaged.
    """
    config = config or _config(run.folder)
    repo_id = one_line(repo_id or run.folder.resolve().name)
    title, task = repo_id.split("/")[-1], _task(config)
    facts = DataFacts(dataset and one_line(dataset), dataset_id, dataset_config, dataset_split)
    facts = facts.or_else(DataFacts.of(run))
    data = {"base_model": run.options.get("base_model")} | dict(data or {})
    tags = ["generated_from_trainer", *(["tempbalance"] if run.settings is not None else []), *data.pop("tags", [])]
    card_data = ModelCardData(
        library_name=data.pop("library_name", "transformers"),
        pipeline_tag=data.pop("pipeline_tag", task),
        datasets=[facts.id] if facts.id else None,
        metrics=_metric_names(run, splits) or None,
        model_name=title,
        eval_results=_eval_results(run, task, facts, splits) or None,
        tags=list(dict.fromkeys(tags)),
        **data,
    )
    settings = run.settings or {}
    body = render(
        "modelcard.md",
        title=title,
        summary=text.summary(run, config, facts.name, data["base_model"]),
        snippet=_snippet(config, task, repo_id),
        code_file=_code_file(config),
        measured_on=facts.measured_on,
        results=[(key.removeprefix("eval_"), f"{value:.4g}", _epoch_of(run, key)) for key, value in _metrics(run)],
        curves=_curves(run),
        training=text.training(run),
        tempbalance=_section(run),
        needs_license=not data.get("license"),
        citation=text.CITATION if settings and settings.get("metric") != "depth" else None,
        settings="\n".join(f"{key}: {json.dumps(value)}" for key, value in settings.items()),
        versions=text.versions(run, card_data.library_name),
    )
    path = run.folder / CARD_NAME
    write_whole(path, f"---\n{card_data.to_yaml()}\n---\n\n{body}")
    return path


def _section(run: Run) -> Markdown:
    """What TempBalance did, in Markdown; empty without it."""
    if run.settings is None:
        return Markdown()
    section = render(
        "tempbalance.md",
        what=text.what(run),
        layers=text.layers(run),
        package=text.package(),
        picture=_layers(run),
        history=HISTORY_NAME if run.looks else None,
    )
    return Markdown(section.rstrip())


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise ValueError(f"{folder} has no saved model (config.json). Call trainer.save_model() first.") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _task(config: dict[str, Any]) -> str | None:
    name = (config.get("architectures") or [""])[0]
    return next((task for end, task in TASKS.items() if name.endswith(end)), None)


def _code_file(config: dict[str, Any]) -> str | None:
    code = next(iter(config.get("auto_map", {}).values()), None)
    return None if code is None else code.split("--")[-1].split(".")[0] + ".py"


def _snippet(config: dict[str, Any], task: str | None, repo_id: str) -> str:
    code = ", trust_remote_code=True" if config.get("auto_map") else ""
    name = json.dumps(repo_id, ensure_ascii=False)
    if task is None:
        return f"from transformers import AutoModel\n\nmodel = AutoModel.from_pretrained({name}{code})"
    call = INPUTS.get(task, "Some text.")
    lines = ["from transformers import pipeline", "", f'model = pipeline("{task}", model={name}{code})']
    return "\n".join(lines + ([f'print(model("{call}"))'] if call else []))


def _metrics(run: Run) -> list[tuple[str, float]]:
    """The last value of each metric that was evaluated, and of those of ``Trainer.predict``."""
    predicted = {key: value for metrics in run.predictions for key, value in metrics.items()}
    found = run.last_metrics | {key: value for key, value in predicted.items() if not key.endswith(NO_METRIC)}
    return [(key, value) for key, value in found.items() if isinstance(value, int | float)]


def _split_and_metric(key: str, splits: tuple[str, ...]) -> tuple[str | None, str]:
    name = key.removeprefix("eval_")
    split = next((split for split in splits if name.startswith(f"{split}_")), None)
    return split, name.removeprefix(f"{split}_")


def _metric_names(run: Run, splits: tuple[str, ...]) -> list[str]:
    names = [_split_and_metric(key, splits)[1] for key, _ in _metrics(run)]
    return sorted({name for name in names if name != "loss"})


def _eval_results(run: Run, task: str | None, facts: DataFacts, splits: tuple[str, ...]) -> list[EvalResult]:
    """The Hub wants task, data set and metric of a result; one without its data set is not written."""
    found = []
    for key, value in _metrics(run):
        split, metric = _split_and_metric(key, splits)
        if metric != "loss" and facts.name and task and math.isfinite(value):
            found.append(
                EvalResult(
                    task_type=task,
                    dataset_type=facts.id or Path(facts.name).name,
                    dataset_name=Path(facts.name).name,
                    dataset_config=facts.config,
                    dataset_split=split or facts.split,
                    metric_type=metric,
                    metric_name=metric,
                    metric_value=value,
                )
            )
    return found


def _epoch_of(run: Run, key: str) -> str:
    """The last epoch in which a metric was logged; that of the end where it was predicted."""
    logged = [entry for entry in run.log if entry.get(key) is not None] or run.log
    return f"{max((entry.get('epoch') or 0 for entry in logged), default=0):g}"


def _layers(run: Run) -> str | None:
    """The picture of the layers' alphas and multipliers; None where there was no look."""
    return _picture(run, LAYERS_NAME, lambda plots: plots.plot_history(run.looks)) if run.looks else None


def _curves(run: Run) -> str | None:
    """The picture of losses and metrics; None where fewer than two points were logged of each."""
    keys = [key for entry in run.log for key, value in entry.items() if value is not None and _is_curve(entry, key)]
    if max(map(keys.count, set(keys)), default=0) < 2:
        return None
    return _picture(run, CURVES_NAME, lambda plots: plots.plot_curves(run.log))


def _is_curve(entry: dict[str, Any], key: str) -> bool:
    return key == "loss" or key in metric_keys(entry)


def _picture(run: Run, name: str, draw: Callable[[Any], Any]) -> str | None:
    """Write a picture of the module of plots and return its name; None with nothing to draw it with."""
    try:
        from . import plots
    except ImportError:
        logger.warning("The model card goes without a picture: matplotlib is missing (pip install matplotlib).")
        return None
    path = run.folder / name
    path.parent.mkdir(exist_ok=True)
    draw(plots).savefig(path, dpi=90)
    return name
