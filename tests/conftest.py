"""Seeds, one thread, no network, and the fixtures that several tests need."""

from __future__ import annotations

import os
import signal


# Read when the libraries are imported, so they stand before any of them.
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")
# As many processes as there are cores; and OpenMP's threads are not there after a fork, where libraries wait for them.
os.environ["OMP_NUM_THREADS"] = "1"

from pathlib import Path

import pytest
import torch


collect_ignore = ["scripts_of_others", "fixtures"]  # no tests; they run as scripts
SHARED = Path(__file__).resolve().parents[2] / "shared"
# A shell that starts the tests in its background has Ctrl-C ignored, by them and by what they start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The long ones first, so that all workers end at the same time.
    items.sort(key=lambda item: "processes" not in item.path.parts)
    for item in items:
        if "everywhere" in item.path.parts:
            item.add_marker("extras")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def _shared(folder: str) -> Path:
    path = SHARED / folder
    if not path.is_dir():
        pytest.skip(f"{path} is not here")
    return path


@pytest.fixture(scope="session")
def golden() -> Path:
    """All outputs of the reference implementation; the small ones are in tests/golden, too."""
    return _shared("golden")


@pytest.fixture(scope="session")
def cifar10() -> Path:
    """The 60,000 CIFAR-10 images as parquet files in the Hub's layout."""
    return _shared("data/cifar10")


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> None:
    """Nothing is read from or left in the user's caches of datasets and of our token blocks."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))


@pytest.fixture
def optimizer_rates():
    """A function (model, optimizer) -> dict that `step` fills: parameter name -> the rate it was stepped with."""

    def record(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        seen: dict[str, float] = {}

        def hook(optimizer, args, kwargs) -> None:
            seen.clear()
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    assert names[id(parameter)] not in seen, "a parameter is in two groups"
                    seen[names[id(parameter)]] = float(group["lr"])

        optimizer.register_step_pre_hook(hook)
        return seen

    return record
