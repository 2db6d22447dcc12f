"""The page of a long run of a large model: as small as a picture, and open in Chromium at once."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from hf_tempbalance.runs.history import HISTORY_NAME
from hf_tempbalance.runs.report import REPORT_NAME, write_report
from hf_tempbalance.runs.results import write_results
from hf_tempbalance.runs.run import read_run


LAYERS, LOOKS = 300, 300
PARTS = [f"self_attn.{x}_proj" for x in "qkvo"] + [f"mlp.{x}_proj" for x in ("gate", "up", "down")]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """Of 300 layers x 300 looks whose numbers are noise, which no compression makes small."""
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    names = ["embed_tokens", *(f"layers.{n // 7}.{PARTS[n % 7]}" for n in range(LAYERS - 2)), "lm_head"]
    for step in range(LOOKS):
        layers = [
            {
                "name": name,
                "kind": "linear",
                "num_eigenvalues": 512,
                "excluded_by": None if name.startswith("layers") else "first",
                "alpha": 2 + 3 * rng.random(),
                "alpha_relative": 1.0,
                "multiplier": 0.5 + rng.random(),
                "D": 0.05,
                "stable_rank": 17.3,
            }
            for name in names
        ]
        line = {"step": step, "epoch": step / 10, "seconds": 0.3, "multiplier_mean": 1.0, "layers": layers}
        with (folder / HISTORY_NAME).open("a") as file:
            file.write(json.dumps(line) + "\n")
    log = [{"epoch": n / 10, "step": n, "loss": 3 / (n + 1), "learning_rate": 1e-3 / (n + 1)} for n in range(1, LOOKS)]
    write_results(folder, {"status": "finished", "config": {"tempbalance": True, "settings": {}}, "epochs": log})
    return write_report(read_run(folder))


@pytest.mark.slow
def test_300_layers_at_300_looks_are_3_megabytes_at_most(page):
    assert page.name == REPORT_NAME and page.stat().st_size <= 3_000_000


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_300_layers_at_300_looks_open_in_two_seconds(page, tmp_path):
    """From the start of the navigation to the load event, as the browser itself tells; the best of 3."""
    probe = "<script>addEventListener('load', () => setTimeout(() => document.title = 'took ' + performance.timing."
    probe += "loadEventEnd + ' ' + performance.timing.navigationStart))</script></body>"
    timed = tmp_path / "timed.html"
    timed.write_text(page.read_text(encoding="utf-8").replace("</body>", probe), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    took = []
    for _ in range(3):
        out = subprocess.run(
            ["chromium", *options, timed.as_uri()], capture_output=True, text=True, check=True, timeout=120
        ).stdout
        end, start = map(int, re.search(r"took (\d+) (\d+)", out).groups())
        took.append(end - start)
    assert min(took) <= 2000, took
