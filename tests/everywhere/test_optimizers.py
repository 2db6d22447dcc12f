"""Every optimizer with every schedule, through a real Trainer: what docs/compatibility.md says is what happens."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from everywhere.optimizers import OPTIMIZERS, SCHEDULES, WAYS, check_training, plain
from everywhere.outcome import missing, outcome


DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"
OFTEN = "cosine"
OTHERS = [schedule for schedule in SCHEDULES if schedule != OFTEN]
pytestmark = pytest.mark.usefixtures("without_a_compiler")


def documented() -> dict[str, dict[str, str]]:
    """Optimizer -> way -> result, from the document's table."""
    rows = [line.strip("| ").split(" | ") for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")]
    return {row[0]: dict(zip(WAYS, row[1:3], strict=True)) for row in rows if row[0] in OPTIMIZERS}


def test_the_document_has_every_optimizer():
    assert list(documented()) == list(OPTIMIZERS)


def check(name: str, way: str, schedule: str) -> None:
    if reason := missing(OPTIMIZERS[name].package):
        pytest.skip(reason)
    result = outcome(partial(check_training, name, schedule, way), partial(plain, name, schedule))
    if result.startswith("not tried"):
        pytest.skip(result)
    assert result.partition(":")[0] == documented()[name][way], result


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer(name, way):
    check(name, way, OFTEN)


def pairs() -> list[tuple[str, str]]:
    """Every optimizer with four of the other schedules, every schedule with many optimizers.

    `scripts/check_everywhere.py` has all of them. reduce_lr_on_plateau reads and writes the rate: it meets all.
    """
    return [
        (name, schedule)
        for i, name in enumerate(OPTIMIZERS)
        for j, schedule in enumerate(OTHERS)
        if (i + j) % 4 == 0 or schedule == "reduce_lr_on_plateau"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("name", "schedule"), pairs())
def test_optimizer_with_other_schedules(name, schedule, way):
    check(name, way, schedule)


def test_the_check_sees_a_wrong_rate(monkeypatch):
    monkeypatch.setattr(
        "hf_tempbalance.balance.balancer.TempBalancer.lr_multipliers", {f"fc{i}.weight": 2.0 for i in range(5)}
    )
    assert outcome(partial(check_training, "sgd", "linear", "callback")).startswith("failed")
