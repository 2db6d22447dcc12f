"""The pages of docs/: what they name exists, and the study file that they print is read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from forked import run_directly

import hf_tempbalance
from hf_tempbalance.study.script_study import check_methods
from hf_tempbalance.study.study_file import load_study
from hf_tempbalance.study.tables import seeds_table


ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
CARDS = sorted((ROOT / "docs" / "methods").glob("*.md"))


@pytest.mark.parametrize("page", [*PAGES, *CARDS], ids=lambda page: page.stem)
def test_every_file_that_is_named_exists(page):
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?:scripts|configs|tests|docs)/[\w./]+\.(?:sh|py|yaml|md)", text))
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    "page",
    [*PAGES, ROOT / "docs" / "results" / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "RELEASE.md"],
    ids=lambda page: page.stem,
)
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not link.startswith("http") and not (page.parent / link).exists()] == []


@pytest.mark.parametrize(
    "page", ["quick_tour", "loop", *(pytest.param(p, marks=pytest.mark.slow) for p in ("callback", "trainer"))]
)
def test_the_python_of_a_page_runs_as_printed(page, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text("utf-8"), flags=re.DOTALL)
    assert blocks
    for code in blocks:
        (tmp_path / "block.py").write_text(code)
        done = run_directly(tmp_path, tmp_path / "block.py")
        assert done.code == 0, done.err


def test_every_public_name_is_in_the_api_reference():
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert [name for name in hf_tempbalance.__all__ if f"::: hf_tempbalance.{name}\n" not in text] == []


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if page.stem != "README" and f"({page.name})" not in index] == []


def test_the_printed_studies_are_read(tmp_path):
    text = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    images, script = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "mine.yaml").write_text(images)
    (tmp_path / "methods.yaml").write_text((ROOT / "configs" / "studies" / "methods.yaml").read_text())
    study = load_study(tmp_path / "mine.yaml")
    assert study.tune.values == (0.05, 0.1)
    assert study.options_of({"architecture": "vgg16_cifar", "method": "tempbalance"})["max_ratio"] == 1.4
    (tmp_path / "any.yaml").write_text(script)
    (tmp_path / "train.py").write_text("")
    study = load_study(tmp_path / "any.yaml")
    check_methods(study)
    assert study.tune.values == (2e-5, 5e-5, 1e-4)
    options = study.options_of({"examples": "64", "method": "shuffled"})
    assert options["method"] == {"preset": "model-balancing", "control": "shuffled", "max_ratio": 2.5}


def test_the_printed_table_of_seeds_is_what_its_command_prints():
    text = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    assert "\n".join(["study.py seeds --sd 1.8", "```", "", *seeds_table(1.8, [3, 5, 10, 20, 50])]) in text


def test_every_shipped_study_is_in_the_table_with_its_number_of_runs():
    text = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    counts = dict(re.findall(r"^\| `(\w+)` \|.*\| (\d+) \|$", text, flags=re.MULTILINE))
    files = {path.stem for path in (ROOT / "configs" / "studies").glob("*.yaml")} - {"methods"}
    assert set(counts) == files
    for name, count in counts.items():
        study = load_study(ROOT / "configs" / "studies" / f"{name}.yaml")
        chosen = (
            {} if study.tune is None else dict.fromkeys(map(lambda c: tuple(c.values()), study.combinations()), 0.1)
        )
        assert len({run.name for run in (*study.trials(), *study.finals(chosen))}) == int(count)
