"""Which fit the exponents of a command are of: the one that is asked for, else the run's, else WeightWatcher's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..config import Fit, TempBalanceConfig
from ..runs.checkpoints import STATE_NAME
from ..runs.history import HISTORY_NAME
from ..runs.results import RESULTS_NAME
from ..runs.run import Run, read_run
from .columns import WITH_LIMITS


# Options of TempBalanceConfig that an exponent depends on.
OF_A_FIT = ["fit", "xmin_pos", "filter_zeros", "zero_threshold", "bins", "conv_norm"]
OF_A_FIT += ["window_rows", "window_aspect", "window_samples"]


@dataclass(frozen=True)
class Chosen:
    """Settings to analyse with, and where they are from."""

    config: TempBalanceConfig
    source: str = ""

    def words(self) -> str:
        """The fit, as it stands beside exponents."""
        config = self.config
        told: list[str] = [config.fit]
        if config.fit == "median" and config.xmin_pos != TempBalanceConfig().xmin_pos:
            told.append(f"xmin_pos {config.xmin_pos:g}")
        if config.window_rows:
            told.append(f"windows of {config.window_rows} rows")
        return f"{', '.join(told)}{self.source}"


def choose(models: Sequence[str], fit: Fit | None, xmin_pos: float | None) -> Chosen:
    """The settings for some models, of which output folders of runs bring their own.

    Raises:
        ValueError: two runs have different fits and none is asked for, or a run's files are damaged.
    """
    if fit is not None:
        return Chosen(_changed(TempBalanceConfig(fit=fit), xmin_pos))
    found = {model: config for model in models if (config := config_of_run(model)) is not None}
    if not found:
        return Chosen(_changed(TempBalanceConfig(fit=WITH_LIMITS), xmin_pos))
    (one, config), *others = found.items()
    for other, theirs in others:
        if any(getattr(config, name) != getattr(theirs, name) for name in OF_A_FIT):
            raise ValueError(
                f"{one} was trained with the fit {Chosen(config).words()}, and {other} with "
                f"{Chosen(theirs).words()}: their exponents are no comparison. Say --fit, and both have that one."
            )
    return Chosen(_changed(config, xmin_pos), ", the run's own")


def config_of_run(model: str) -> TempBalanceConfig | None:
    """The settings that a run in this folder was balanced with; None where there is no such run.

    A history without settings beside it is taken to be one of the defaults, which `TempBalanceCallback` has as well.
    """
    run = run_in(model)
    if run is None or not (run.looks or run.settings is not None):
        return None
    try:
        return TempBalanceConfig.from_dict(run.settings or {})
    except ValueError as error:
        raise ValueError(f"{model}: the run's settings of TempBalance: {error}") from error


def run_in(model: str) -> Run | None:
    """The run that a folder is the output folder, or a checkpoint, of."""
    folder = Path(model)
    is_run = any((folder / name).is_file() for name in (HISTORY_NAME, RESULTS_NAME, STATE_NAME))
    return read_run(folder) if is_run else None


def _changed(config: TempBalanceConfig, xmin_pos: float | None) -> TempBalanceConfig:
    return config if xmin_pos is None else replace(config, xmin_pos=xmin_pos)
