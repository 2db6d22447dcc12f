"""What a run is, in words: its title, its settings, its method, the machine and the time."""

from __future__ import annotations

from typing import Any

from ..config import TempBalanceConfig
from .measured import stood_still
from .numbers import three_digits
from .run import Run


_TARGETS = {"lr": "learning rate", "weight_decay": "weight decay", "both": "learning rate and weight decay"}


def title_of(run: Run) -> str:
    """What was trained on what and how, where the files tell; else the folder's name."""
    trained = " on ".join(str(run.options[key]) for key in ("architecture", "dataset") if run.options.get(key))
    return f"{trained}, {method_of(run)}" if trained else run.folder.resolve().name


def method_of(run: Run) -> str:
    """The method's name: "plain training", "TempBalance" or the preset's."""
    if run.settings is None and not run.looks:
        return "plain training"
    name = str(run.options.get("preset") or "tempbalance")
    return "TempBalance" if name in ("tempbalance", "none") else name


def about(run: Run) -> list[tuple[str, str]]:
    """(name, words) of folder, settings, method, machine and time; what the files don't tell is left out."""
    rows = [
        ("folder", f"{run.folder}{'' if run.status in (None, 'finished') else f' ({run.status})'}"),
        ("training", _training(run)),
        ("method", _method(run)),
        ("machine", _machine(run.environment)),
        ("time", _time(run)),
        ("versions", _versions(run.environment)),
    ]
    return [(name, words) for name, words in rows if words]


def fit_of(run: Run) -> str:
    """The fit that the run's exponents are from; the default's where its files don't tell. "" without exponents."""
    settings = run.settings or {}
    return "" if settings.get("metric") == "depth" else str(settings.get("fit", TempBalanceConfig().fit))


def _training(run: Run) -> str:
    arguments = run.arguments
    batch = arguments.get("per_device_train_batch_size")
    accumulated = arguments.get("gradient_accumulation_steps", 1)
    words = [
        str(run.options.get("optimizer") or arguments.get("optim") or ""),
        _with(arguments, "learning_rate", "learning rate {:g}"),
        _with(arguments, "lr_scheduler_type", "{} schedule"),
        _with(arguments, "weight_decay", "weight decay {:g}"),
        f"batch {batch}" if batch else "",
        "" if accumulated == 1 else f"gradients of {accumulated} batches",
        _epochs(arguments),
        _with(arguments, "seed", "seed {}"),
    ]
    return ", ".join(filter(None, words))


def _epochs(arguments: dict[str, Any]) -> str:
    steps = arguments.get("max_steps") or -1
    return f"{steps} steps" if steps > 0 else _with(arguments, "num_train_epochs", "{:g} epochs")


def _method(run: Run) -> str:
    if run.settings is None:
        return method_of(run) + (", settings not known" if run.looks else "")
    settings = TempBalanceConfig().to_dict() | run.settings
    words = [
        method_of(run),
        f"{settings['metric']}" + (f" ({settings['fit']} fit)" if fit_of(run) else ""),
        f"{settings['mapping']} mapping to {settings['min_ratio']:g} ... {settings['max_ratio']:g}",
        f"of the {_TARGETS.get(settings['target'], settings['target'])}",
        f"a look every {_every(settings['update_interval'], settings['update_unit'])}",
        "" if settings["control"] == "none" else f"control: {settings['control']}",
    ]
    return ", ".join(filter(None, words))


def _every(interval: float, unit: str) -> str:
    return unit if interval == 1 else f"{interval:g} {unit}s"


def _machine(environment: dict[str, Any]) -> str:
    threads, processes = environment.get("threads"), environment.get("processes")
    words = [
        str(environment.get("device") or ""),
        str(environment.get("machine") or ""),
        f"{threads} thread{'s' if threads != 1 else ''}" if threads else "",
        f"{processes} processes" if processes and processes != 1 else "",
    ]
    return ", ".join(filter(None, words))


def _time(run: Run) -> str:
    if run.seconds is None:
        return ""
    told, still = duration(run.seconds), stood_still(run)
    if still and run.seconds:
        told += f", {three_digits(still)} s of it for looks ({three_digits(100 * still / run.seconds)}%)"
    return told


def duration(seconds: float) -> str:
    """Seconds with three digits, or minutes and hours: "17.9 s", "12 min 5 s", "3 h 20 min"."""
    if seconds < 100:
        return f"{three_digits(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _versions(environment: dict[str, Any]) -> str:
    versions = environment.get("versions") or {}
    told = [f"{name} {versions[name]}" for name in ("hf_tempbalance", "torch", "transformers") if name in versions]
    if told and environment.get("commit"):
        told.append(f"commit {str(environment['commit'])[:10]}{' with changes' if environment.get('dirty') else ''}")
    return ", ".join(told)


def _with(arguments: dict[str, Any], name: str, words: str) -> str:
    """The words with the argument's value in them; "" without it."""
    value = arguments.get(name)
    try:
        return "" if value is None else words.format(value)
    except (ValueError, TypeError):  # a file that somebody changed: as it stands there
        return f"{name} {value}"
