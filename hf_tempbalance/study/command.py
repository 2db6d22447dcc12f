"""From a run of a study to the `Job` that starts it, or that goes on with it from its last checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..files import is_secret, masked, write_whole
from ..runs.checkpoints import last_complete_checkpoint
from ..runs.output import LOCK_NAME
from ..runs.results import read_results, write_results
from .executors import LOG_NAME
from .job import Job
from .plan import METHOD, Options, Run, Study


CONFIG_NAME, SETTINGS_NAME = "config.yaml", "tempbalance.yaml"
RESUMES = "resume_from_checkpoint"
RESERVED = ("seed", "output_dir", RESUMES)  # flags that every run gets from here


def make_job(study: Study, run: Run, target: Path, *, train: str, launch: Sequence[str] = ()) -> Job:
    """Get the run's folder ready and say how the run is started.

    Called again after the run was cut off, it goes on from the newest whole checkpoint. A script of others goes on if
    its text has ``resume_from_checkpoint``, which no script can resume without; another one starts again, and so does
    a run without a checkpoint: what an earlier start has left is removed first, but for its log.

    Args:
        target: the run's folder; it is made.
        train: path of scripts/train.py, which runs the studies that name no script.
        launch: what stands before the script: ``["-m", "accelerate.commands.launch", ...]`` for several processes.

    Raises:
        OSError: the folder can't be written, or the script can't be read.
    """
    target = target.absolute()
    target.mkdir(parents=True, exist_ok=True)
    checkpoint, _ = last_complete_checkpoint(target)
    if study.script_path is None:
        _mark_as_begun(target)
        return _image_job(run, target, checkpoint is not None, [*launch, train])
    if checkpoint is not None and RESUMES in study.script_path.read_text(encoding="utf-8", errors="replace"):
        _mark_as_begun(target)
    else:
        checkpoint = None
        _empty(target)
    return _script_job(run, target, checkpoint, launch, study.script_path.absolute())


def _image_job(run: Run, target: Path, resumes: bool, command: list[str]) -> Job:
    options = run.options | {"output_dir": str(target), "disable_tqdm": True, "overwrite_output_dir": not resumes}
    options, environment = _without_secrets(options)
    write_whole(target / CONFIG_NAME, yaml.safe_dump(masked(options), sort_keys=False))
    command += ["--config", str(target / CONFIG_NAME), "--debug"]  # log.txt has the traceback
    return Job(run.name, target, command + ([f"--{RESUMES}", "last"] if resumes else []), environment)


def _script_job(run: Run, target: Path, checkpoint: Path | None, launch: Sequence[str], script: Path) -> Job:
    settings = dict(run.options.get(METHOD, {}))
    ours = ["--preset", settings.pop("preset", "tempbalance")]
    if settings:
        write_whole(target / SETTINGS_NAME, yaml.safe_dump(settings, sort_keys=False))
        ours += ["--config", str(target / SETTINGS_NAME)]
    options, environment = _without_secrets({k: v for k, v in run.options.items() if k not in (METHOD, *RESERVED)})
    theirs = [*flags(options), "--seed", str(run.seed), "--output_dir", str(target)]
    if checkpoint is not None:
        theirs += [f"--{RESUMES}", str(checkpoint)]
    return Job(run.name, target, [*launch, "-m", "hf_tempbalance.run", *ours, str(script), *theirs], environment)


def flags(options: Options) -> list[str]:
    """A command line as HfArgumentParser reads it.

    Lists become several values, mappings JSON, true and false words; what is null is left out.
    """
    found: list[str] = []
    for name, value in options.items():
        texts = [_text(item) for item in value] if isinstance(value, list) else [_text(value)]
        if value is None:
            continue
        if len(texts) == 1 and texts[0].startswith("-"):  # which argparse would take for a flag
            found.append(f"--{name}={texts[0]}")
        else:
            found += [f"--{name}", *texts]
    return found


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool | dict | list) else str(value)


def _without_secrets(options: Options) -> tuple[Options, dict[str, str]]:
    """The options that are no secrets, and the others as variables: everybody can read a command line and a file, the
    environment is the user's own. ``hub_token`` is HF_TOKEN, ``wandb_api_key`` WANDB_API_KEY.
    """
    secrets = {key: value for key, value in options.items() if value is not None and is_secret(key)}
    named = {"HF_TOKEN" if key == "hub_token" else key.upper(): str(value) for key, value in secrets.items()}
    return {key: value for key, value in options.items() if key not in secrets}, named


def _empty(target: Path) -> None:
    for path in target.iterdir():
        if path.name in (LOG_NAME, LOCK_NAME):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _mark_as_begun(target: Path) -> None:
    """The results of a start that was cut off or failed are no longer the run's last word; its seconds still count."""
    try:
        results = read_results(target)
    except (FileNotFoundError, ValueError):
        return
    results.pop("error", None)
    write_results(target, results | {"status": "running"})
