"""docs/recipes: each runs as printed, both ways and compared, and ends with how to tell."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from forked import run_command, run_script


ROOT = Path(__file__).resolve().parents[2]
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs" / "recipes").glob("*.md"))}
RECIPES = sorted(PAGES.keys() - {"image_folder"})  # that one has a test of its own, with a Hub
NEEDS = {"lora": ("trl", "peft")}


def script_and_commands(name: str) -> tuple[str, str]:
    """The page's `train.py`, and the commands that train it both ways and compare."""
    (script,) = re.findall(r"```python\n(.*?)```", PAGES[name], flags=re.DOTALL)
    commands = re.findall(r"```bash\n(.*?)```", PAGES[name], flags=re.DOTALL)[0]
    return script, commands


@pytest.mark.parametrize("name", RECIPES)
def test_it_ends_with_how_to_tell(name):
    assert re.findall(r"^## (.+)$", PAGES[name], flags=re.MULTILINE)[-1] == "How to tell"


def test_the_script_of_the_vit_trains_with_its_preset(tmp_path):
    script, commands = script_and_commands("vit")
    (tmp_path / "train.py").write_text(script)
    assert "run --preset shape-free train.py" in commands
    done = run_script(tmp_path, "--preset", "shape-free", "train.py", "--max_steps", "2", "--output_dir", "out")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "out" / "results.json").read_text())["looks"] >= 1


# Stands in for hf-tempbalance: notes its arguments and makes the folder that the shell finds afterwards.
NOTE = """#!/bin/bash
printf '%q ' "$@" >> "$NOTES"; echo >> "$NOTES"
while (($#)); do if [[ $1 == --output_dir ]]; then mkdir -p "$2"; fi; shift; done
"""


def as_the_shell_expands(commands: str, folder: Path) -> list[list[str]]:
    """The arguments of each hf-tempbalance that the commands start."""
    stand_in = folder / "bin" / "hf-tempbalance"
    stand_in.parent.mkdir()
    stand_in.write_text(NOTE)
    stand_in.chmod(0o755)
    environment = {"PATH": f"{stand_in.parent}{os.pathsep}{os.environ['PATH']}", "NOTES": str(folder / "notes")}
    subprocess.run(["bash", "-euc", commands], cwd=folder, env=os.environ | environment, check=True)
    return [shlex.split(line) for line in (folder / "notes").read_text().splitlines()]


def prints_a_comparison(name: str, folder: Path, printed: str) -> None:
    assert "2 pairs by seed" in printed and "Mean multiplier of the tuned layers" in printed
    assert (folder / "runs" / "page.html").is_file()
    line = re.search(r"```text\n(.*?)\n", PAGES[name])
    assert line is not None and line[1] in printed  # the metric, and which way is better


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.extras] if n in NEEDS else []) for n in RECIPES if n != "text"]
)
def test_it_runs_as_printed(name, tmp_path):
    for library in NEEDS.get(name, ()):
        pytest.importorskip(library)
    script, commands = script_and_commands(name)
    (tmp_path / "train.py").write_text(script)
    for arguments in as_the_shell_expands(commands, tmp_path):
        done = run_command(tmp_path, *arguments)
        assert done.code == 0, done.err[-3000:]
    prints_a_comparison(name, tmp_path, done.out)


@pytest.mark.slow
def test_the_one_on_text_runs_as_printed_in_a_shell(tmp_path):
    script, commands = script_and_commands("text")
    (tmp_path / "train.py").write_text(script)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-euc", commands], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    prints_a_comparison("text", tmp_path, done.stdout)
