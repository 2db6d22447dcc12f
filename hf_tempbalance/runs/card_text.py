"""The words of a model card: what was trained and how, what TempBalance did, whom to cite."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, metadata, version
from typing import Any

from ..config import TempBalanceConfig
from ..presets import PRESETS
from .history import is_tuned
from .markdown import Markdown, code, escape, link
from .run import Run


PAPER = "https://arxiv.org/abs/2312.00359"
CITATION = f"""\
@inproceedings{{zhou2023temperature,
  title = {{Temperature Balancing, Layer-wise Weight Analysis, and Neural Network Training}},
  author = {{Zhou, Yefan and Pang, Tianyu and Liu, Keqin and Martin, Charles H.
            and Mahoney, Michael W. and Yang, Yaoqing}},
  booktitle = {{Advances in Neural Information Processing Systems}},
  year = {{2023}},
  url = {{{PAPER}}}
}}"""
NAMED = {
    "learning_rate": "learning rate",
    "lr_scheduler_type": "schedule",
    "optim": "optimizer",
    "optim_args": "its arguments",
    "weight_decay": "weight decay",
    "label_smoothing_factor": "label smoothing",
}
UNSET = (None, "", "None", 0, 0.0)
MAX_CHANGES = 8  # settings that are told in the text; all of them are in the list at the end


def summary(run: Run, config: dict[str, Any], dataset: str | None, base: Any) -> Markdown:
    """A sentence or two: which network, from what, on what, for how long."""
    words: str = escape(config.get("architecture") or (config.get("architectures") or ["A model"])[0])
    if isinstance(base, str) and base:  # several are in the metadata alone
        words += f", fine-tuned from [{escape(base)}](https://huggingface.co/{link(base)})"
    if dataset:
        words += f"{' on' if base else ', trained on'} {escape(dataset)}"
    epochs = max((entry.get("epoch") or 0 for entry in run.log), default=0)
    words += f", {epochs:g} epoch{'' if epochs == 1 else 's'}."
    labels = config.get("label_names") or list((config.get("id2label") or {}).values())
    return Markdown(words + (f" It knows {len(labels)} classes." if labels else ""))


def training(run: Run) -> list[tuple[str, str]]:
    """The rows of the table of settings; what is not set or not known has none."""
    arguments = dict(run.arguments)
    if run.options.get("optimizer"):
        arguments |= {"optim": run.options["optimizer"], "optim_args": run.options.get("optimizer_args")}
    rows = [(words, arguments.get(name)) for name, words in NAMED.items()]
    rows[2:2] = [("warmup", _warmup(arguments)), ("batch size", _batch(run)), *_length(arguments)]
    precision = next((name for name in ("bf16", "fp16") if arguments.get(name)), None)
    rows += [("mixed precision", precision), ("training examples", run.options.get("train_examples"))]
    rows += [("seconds", f"{run.seconds:.0f}" if run.seconds else None)]
    found = [(words, str(value)) for words, value in rows if value not in UNSET]
    seed = arguments.get("seed")
    return found if seed is None else [*found, ("seed", str(seed))]


def _warmup(arguments: dict[str, Any]) -> str | None:
    """transformers takes a number of steps, or below 1 a share of them."""
    steps = arguments.get("warmup_steps") or arguments.get("warmup_ratio")
    if not steps:
        return None
    return f"{100 * steps:g}% of the steps" if steps < 1 else f"{steps:g} steps"


def _batch(run: Run) -> str | None:
    """The examples of one optimizer step, and how they come together where not all go through one device at once."""
    size = run.arguments.get("per_device_train_batch_size")
    if not size:
        return None
    parts = run.arguments.get("gradient_accumulation_steps") or 1
    devices = run.environment.get("processes") or 1
    factors = [f"{devices} processes"] * (devices > 1) + [f"{parts} accumulated"] * (parts > 1)
    return f"{size * parts * devices}{f' ({size} x ' + ' x '.join(factors) + ')' if factors else ''}"


def _length(arguments: dict[str, Any]) -> list[tuple[str, Any]]:
    steps = arguments.get("max_steps") or 0
    if steps > 0:  # which wins over the epochs
        return [("steps", steps)]
    epochs = arguments.get("num_train_epochs")
    return [("epochs", f"{epochs:g}" if epochs else None)]


def what(run: Run) -> Markdown:
    """What was multiplied, by what, and with which settings."""
    settings = run.settings or {}
    unit, its = ("block", "its layers'") if settings.get("unit") == "block" else ("layer", "the layer's")
    source = f"read from the heavy tail of {its} weight spectrum ([Zhou et al., NeurIPS 2023]({PAPER}))"
    if settings.get("metric") == "depth":
        source = "that follows its depth"
    target = f"Each {unit} had its own {run.target}: that of plain training times a multiplier {source}."
    return Markdown(f"{target} {_settings(run)}")


def _settings(run: Run) -> Markdown:
    """The preset that is nearest, with its source, and in what the settings differ from it."""
    settings = run.settings or {}
    presets = {name: TempBalanceConfig.preset(name).to_dict() for name in PRESETS}
    changes = {
        name: [setting for setting, value in settings.items() if preset.get(setting, value) != value]
        for name, preset in presets.items()
    }
    nearest = min(changes, key=lambda name: len(changes[name]))
    whose = "the paper's"
    if nearest != "tempbalance":
        whose = f"those of the preset {code(nearest)} ({escape(PRESETS[nearest].source)})"
    told = [code(f"{name}: {_number(settings[name])}") for name in changes[nearest][:MAX_CHANGES]]
    more = len(changes[nearest]) - len(told)
    but = f", but for {', '.join(told)}{f' and {more} more' if more > 0 else ''}" if told else ""
    return Markdown(f"The settings are {whose}{but}.")


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def layers(run: Run) -> str:
    """What the looks found, in three sentences; empty without looks."""
    if not run.looks:
        return ""
    last = run.looks[-1]["layers"]
    tuned = [layer for layer in last if is_tuned(layer)]
    alphas = [layer["alpha"] for layer in tuned if math.isfinite(layer["alpha"])]
    relative = [layer["alpha_relative"] for layer in tuned if math.isfinite(layer["alpha_relative"])]
    start, end = (run.looks[position]["multiplier_mean"] for position in (0, -1))
    looks = f"{len(run.looks)} look{'' if len(run.looks) == 1 else 's'} at the weights"
    text = f"{len(tuned)} of {len(last)} layers were tuned, at {looks} that took {run.tempbalance_seconds:.3g} s."
    text += f" The mean multiplier, by parameters, was {start:.2f} at first and {end:.2f} at the end."
    if alphas:
        text += f" Their exponents alpha ended between {min(alphas):.2f} and {max(alphas):.2f}"
        text += f", alpha_relative between {min(relative):.2f} and {max(relative):.2f}." if relative else "."
    return text


def versions(run: Run, library: str | None) -> list[tuple[str, str]]:
    """Versions of the packages and the machine, as far as the run has them; else of what is installed here."""
    known = run.environment.get("versions") or _installed(["hf_tempbalance", "transformers", "torch"])
    known = known | _installed(["peft"] if library == "peft" else [])
    machine = [run.environment.get(name) for name in ("device", "machine")]
    return [*known.items(), *([("on", ", ".join(filter(None, machine)))] if any(machine) else [])]


def _installed(packages: Sequence[str]) -> dict[str, str]:
    return {name: version(name) for name in packages}


def package() -> Markdown:
    """The package's name, as a link where its metadata has an address."""
    try:
        about = metadata("hf_tempbalance").json
    except PackageNotFoundError:  # from a checkout
        about = {}
    return named(about)


def named(about: dict[str, Any]) -> Markdown:
    """The same, of the metadata as ``importlib.metadata`` has it in JSON."""
    name = code("hf_tempbalance")
    addresses = [entry.partition(",")[2].strip() for entry in about.get("project_url", [])]
    addresses.append(about.get("home_page") or "")
    address = next((address for address in addresses if address.startswith("https://")), None)
    return Markdown(f"[{name}]({address})") if address else name
