"""The model card of a run: what was trained, its results, how to load it, and what TempBalance did."""

from __future__ import annotations

import json
import logging
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..files import write_whole
from .history import HISTORY_NAME, is_tuned
from .markdown import Markdown, one_line, render
from .run import Run


logger = logging.getLogger(__name__)
PAPER = "https://arxiv.org/abs/2312.00359"
CARD_NAME, PICTURE_NAME = "README.md", "plots/tempbalance_layers.png"
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
TRAINING = {
    "learning_rate": "learning rate",
    "lr_scheduler_type": "schedule",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch size of a device",
    "gradient_accumulation_steps": "gradient accumulation",
    "optim": "optimizer",
    "optim_args": "its arguments",
    "weight_decay": "weight decay",
    "warmup_steps": "warmup",
    "seed": "seed",
}


def write_model_card(
    run: Run,
    *,
    config: dict[str, Any] | None = None,
    repo_id: str | None = None,
    data: dict[str, Any] | None = None,
    dataset: str | None = None,
    dataset_id: str | None = None,
    splits: tuple[str, ...] = ("validation", "test"),
) -> Path:
    """Write README.md, with the picture that it shows, into a run's output folder.

    Args:
        run: of `read_run`.
        config: the model's configuration; config.json of the folder if None.
        repo_id: owner/name on the Hub, for the lines that load the model; the folder's name if None.
        data: further fields of `huggingface_hub.ModelCardData`: license, tags, language, base_model, ...
        dataset: name of the data set for people; without it there are no results in the metadata.
        dataset_id: its id on the Hub, if it has one.
        splits: names of the evaluated splits, where a metric's key has one: "eval_test_accuracy".

    Raises:
        ValueError: there is no configuration, or config.json is damaged.
    """
    config = config or _config(run.folder)
    repo_id = one_line(repo_id or run.folder.resolve().name)
    title, dataset = repo_id.split("/")[-1], dataset and one_line(dataset)
    task = _task(config)
    data = dict(data or {})
    tags = ["generated_from_trainer", *(["tempbalance"] if run.settings is not None else []), *data.pop("tags", [])]
    card_data = ModelCardData(
        library_name=data.pop("library_name", "transformers"),
        pipeline_tag=data.pop("pipeline_tag", task),
        datasets=[dataset_id] if dataset_id else None,
        metrics=_metric_names(run, splits) or None,
        model_name=title,
        eval_results=_eval_results(run, task, dataset, dataset_id, splits) or None,
        tags=list(dict.fromkeys(tags)),
        **data,
    )
    body = render(
        "modelcard.md",
        title=title,
        summary=_summary(run, config, dataset),
        snippet=_snippet(config, task, repo_id),
        code_file=_code_file(config),
        results=[(key.removeprefix("eval_"), f"{value:.4g}", _epoch_of(run, key)) for key, value in _metrics(run)],
        training=_training(run),
        tempbalance=_section(run),
        versions=_versions(run, library=card_data.library_name),
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
        settings="\n".join(f"{key}: {json.dumps(value)}" for key, value in run.settings.items()),
        what=_what(run),
        layers=_layers(run),
        picture=PICTURE_NAME if _picture(run) else None,
        history=HISTORY_NAME if run.looks else None,
    )
    return Markdown(section.rstrip())


def _what(run: Run) -> Markdown:
    """What was multiplied, and by what."""
    settings = run.settings or {}
    unit, its = ("block", "its layers'") if settings.get("unit") == "block" else ("layer", "the layer's")
    source = f"read from the heavy tail of {its} weight spectrum ([Zhou et al., NeurIPS 2023]({PAPER}))"
    if settings.get("metric") == "depth":
        source = "that follows its depth"
    return Markdown(f"Each {unit} had its own {run.target}: that of plain training times a multiplier {source}.")


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


def _summary(run: Run, config: dict[str, Any], dataset: str | None) -> str:
    architecture = config.get("architecture") or (config.get("architectures") or ["A model"])[0]
    epochs = max((entry.get("epoch") or 0 for entry in run.log), default=0)
    words = f"{architecture}{f', trained on {dataset}' if dataset else ''}, {epochs:g} epochs."
    labels = config.get("label_names") or list((config.get("id2label") or {}).values())
    return words + (f" It knows {len(labels)} classes." if labels else "")


def _metrics(run: Run) -> list[tuple[str, float]]:
    return [(key, value) for key, value in run.last_metrics.items() if isinstance(value, int | float)]


def _split_and_metric(key: str, splits: tuple[str, ...]) -> tuple[str | None, str]:
    name = key.removeprefix("eval_")
    split = next((split for split in splits if name.startswith(f"{split}_")), None)
    return split, name.removeprefix(f"{split}_")


def _metric_names(run: Run, splits: tuple[str, ...]) -> list[str]:
    names = [_split_and_metric(key, splits)[1] for key, _ in _metrics(run)]
    return sorted({name for name in names if name != "loss"})


def _eval_results(
    run: Run, task: str | None, dataset: str | None, dataset_id: str | None, splits: tuple[str, ...]
) -> list[EvalResult]:
    """The Hub wants task, data set and metric of a result; one without its data set is not written."""
    found = []
    for key, value in _metrics(run):
        split, metric = _split_and_metric(key, splits)
        if metric != "loss" and dataset and task and math.isfinite(value):
            found.append(
                EvalResult(
                    task_type=task,
                    dataset_type=dataset_id or Path(dataset).name,
                    dataset_name=Path(dataset).name,
                    dataset_split=split,
                    metric_type=metric,
                    metric_name=metric,
                    metric_value=value,
                )
            )
    return found


def _epoch_of(run: Run, key: str) -> str:
    return f"{max(entry.get('epoch') or 0 for entry in run.log if entry.get(key) is not None):g}"


def _training(run: Run) -> list[tuple[str, Any]]:
    arguments = {key: run.arguments.get(key) for key in TRAINING}
    if run.options.get("optimizer"):
        arguments |= {"optim": run.options["optimizer"], "optim_args": run.options["optimizer_args"]}
    unset = (None, "", 0, 0.0)
    rows = [(TRAINING[key], value) for key, value in arguments.items() if value not in unset or key == "seed"]
    return rows + ([("seconds", f"{run.seconds:.0f}")] if run.seconds else [])


def _layers(run: Run) -> str:
    if not run.looks:
        return ""
    layers = run.looks[-1]["layers"]
    tuned = [layer for layer in layers if is_tuned(layer)]
    alphas = [layer["alpha"] for layer in tuned if math.isfinite(layer["alpha"])]
    relative = [layer["alpha_relative"] for layer in tuned if math.isfinite(layer["alpha_relative"])]
    start, end = (run.looks[position]["multiplier_mean"] for position in (0, -1))
    text = f"{len(tuned)} of {len(layers)} layers were tuned, at {len(run.looks)} looks in {_seconds(run)} s."
    text += f" The mean multiplier, by parameters, was {start:.2f} at first and {end:.2f} at the end."
    if alphas:
        text += f" Their alpha ended between {min(alphas):.2f} and {max(alphas):.2f}"
        text += f", alpha_relative between {min(relative):.2f} and {max(relative):.2f}." if relative else "."
    return text


def _seconds(run: Run) -> str:
    return f"{run.tempbalance_seconds:.3g}"


def _versions(run: Run, library: str | None) -> list[tuple[str, str]]:
    known = run.environment.get("versions")
    known = known or {name: version(name) for name in ("hf_tempbalance", "transformers", "torch")}
    return list((known | ({"peft": version("peft")} if library == "peft" else {})).items())


def _picture(run: Run) -> bool:
    """Write the picture of the layers; False where there is nothing to draw or nothing to draw it with."""
    if not run.looks:
        return False
    try:
        from .plots import plot_history
    except ImportError:
        logger.warning("The model card goes without a picture: matplotlib is missing (pip install matplotlib).")
        return False
    path = run.folder / PICTURE_NAME
    path.parent.mkdir(exist_ok=True)
    plot_history(run.looks).savefig(path, dpi=90)
    return True
