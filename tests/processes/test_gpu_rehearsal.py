"""All stages of a GPU day in tiny sizes on the CPU, so that no day dies of a typo."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from gpu.stages import Day, stages


SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "gpu_day.py"


def gpu_day(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
@pytest.mark.extras
def test_a_dry_run_that_is_gone_on_with_has_nothing_left_to_do_and_is_no_measurement(tmp_path):
    begun = gpu_day("--device", "cpu", "--tiny", "--out", tmp_path / "dry")
    assert begun.returncode == 0, begun.stdout + begun.stderr
    measured = re.search(r"^(\d+) measured", begun.stdout, flags=re.MULTILINE)
    assert measured is not None and int(measured[1]) >= len(stages(Day("cpu", True, tmp_path, tmp_path, None, 1)))
    again = gpu_day("--device", "cpu", "--tiny", "--continue", tmp_path / "dry")
    assert again.returncode == 0 and f"{measured[1]} kept" in again.stdout, again.stdout + again.stderr
    table = json.loads((tmp_path / "dry" / "cpu-tiny" / "solvers_table.json").read_text())
    assert {row["side"] for row in table["rows"]} == {32, 48} and table["backend"] == "cpu"
    written = gpu_day("report", tmp_path / "dry", "--output", tmp_path / "gpu.md")
    assert written.returncode == 0, written.stderr
    assert "Nothing has been measured on a GPU yet" in (tmp_path / "gpu.md").read_text()
