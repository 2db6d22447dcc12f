from __future__ import annotations

import re
from pathlib import Path

from forked import run_directly

from hf_tempbalance.presets import PRESETS


ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_loop_runs_as_printed(tmp_path):
    (code,) = SNIPPETS
    assert len(code.splitlines()) <= 24
    (tmp_path / "snippet.py").write_text(code)
    done = run_directly(tmp_path, tmp_path / "snippet.py")
    assert done.code == 0, done.err


def test_every_preset_is_in_the_table():
    assert set(re.findall(r"^\| `([\w-]+)` \|", README, flags=re.MULTILINE)) == PRESETS.keys()


def test_every_file_that_is_named_exists():
    for name in re.findall(r"\]\(([^)#]+)\)", README):
        if not name.startswith("http"):
            assert (ROOT / name).exists(), name
    for script in re.findall(r"(?:scripts|configs)/[\w.]+\.(?:sh|py|yaml)", README):
        assert (ROOT / script).exists(), script


def test_it_stays_a_page():
    assert len(README.splitlines()) < 170
