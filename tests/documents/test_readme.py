from __future__ import annotations

import re
from pathlib import Path

import pytest
from forked import run_directly


ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_there_is_a_snippet_for_each_way_in():
    assert len(SNIPPETS) == 3
    assert "callbacks=[TempBalanceCallback()]" in SNIPPETS[0]
    assert "TempBalanceTrainer(" in SNIPPETS[1] and "TempBalancer(" in SNIPPETS[2]


@pytest.mark.parametrize("number", range(3))
def test_a_snippet_runs_as_printed(number, tmp_path):
    code = SNIPPETS[number]
    assert len(code.splitlines()) <= 24
    (tmp_path / "snippet.py").write_text(code)
    done = run_directly(tmp_path, tmp_path / "snippet.py")
    assert done.code == 0, done.err
    if number < 2:
        assert list(tmp_path.glob("**/tempbalance_history.jsonl"))


def test_every_file_that_is_named_exists():
    for name in re.findall(r"\]\(([^)#]+)\)", README):
        if not name.startswith("http"):
            assert (ROOT / name).exists(), name
    for script in re.findall(r"(?:scripts|configs)/[\w.]+\.(?:sh|py|yaml)", README):
        assert (ROOT / script).exists(), script


def test_it_stays_a_page():
    assert len(README.splitlines()) <= 170
