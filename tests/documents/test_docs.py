"""The pages of docs/: what they name exists, their code runs, their figures are those of that code."""

from __future__ import annotations

import ast
import dataclasses
import re
import shlex
from pathlib import Path

import pytest
import yaml
from forked import run_directly

import hf_tempbalance
from hf_tempbalance import TempBalanceConfig
from hf_tempbalance.cli.main import _parser
from hf_tempbalance.runs.history import HISTORY_NAME, append_look
from hf_tempbalance.study.script_study import check_methods
from hf_tempbalance.study.study_file import load_study
from hf_tempbalance.study.tables import seeds_table


ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
# Pages whose Python is run here; methods, recipes and README have tests of their own.
RUN = ["start", "loop", "callback", "trainer", "reading_alpha", "how_it_works"]


def blocks_of(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text("utf-8"), flags=re.DOTALL)


def run_block(code: str, folder: Path) -> str:
    (folder / "block.py").write_text(code)
    done = run_directly(folder, folder / "block.py")
    assert done.code == 0, done.err
    return done.out


def rows(page: str) -> list[list[str]]:
    lines = (DOCS / f"{page}.md").read_text("utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_every_file_that_is_named_exists(page):
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?:scripts|configs|tests|docs)/[\w./]+\.(?:sh|py|yaml|md)", text))
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    "page",
    [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "RELEASE.md"))],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_every_link_leads_to_a_file_and_a_heading(page):
    missing = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if link.startswith("http"):
            continue
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            missing.append(link)
    assert missing == []


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_python_stands_only_on_pages_that_are_run():
    with_python = {page.stem for page in DOCS.glob("*.md") if "```python" in page.read_text("utf-8")}
    assert with_python <= set(RUN) | {"does_it_help"}


@pytest.mark.parametrize("page", ["start", "loop", *(pytest.param(p, marks=pytest.mark.slow) for p in RUN[2:4])])
def test_the_python_of_a_page_runs_as_printed(page, tmp_path):
    assert blocks_of(page)
    for code in blocks_of(page):
        run_block(code, tmp_path)


@pytest.mark.slow
def test_the_exponents_of_random_matrices_are_those_of_the_table(tmp_path):
    printed = run_block(blocks_of("reading_alpha")[0], tmp_path).splitlines()
    table = [row for row in rows("reading_alpha") if re.fullmatch(r"\d:\d", row[0])]
    found = [[float(number) for number in line.partition(")")[2].split()] for line in printed if line.startswith("(")]
    assert len(table) == 6
    assert found == [pytest.approx([float(cell) for cell in row[1:]], abs=0.02) for row in table]


@pytest.mark.slow
def test_the_history_of_the_quick_start_is_read_as_printed(tmp_path):
    layer = {"name": "conv1", "alpha": 2.5, "alpha_relative": 1.0, "D": 0.2}
    for number in range(2):
        append_look(tmp_path / "runs/quickstart/tempbalance" / HISTORY_NAME, {"step": number, "layers": [layer]})
    assert "conv1 alpha_relative 1.00 -> 1.00" in run_block(blocks_of("reading_alpha")[1], tmp_path)


@pytest.mark.slow
def test_the_multipliers_of_random_weights_are_those_of_the_table(tmp_path):
    (code,) = blocks_of("how_it_works")
    lines = [line for line in run_block(code, tmp_path).splitlines() if line.startswith("{")]
    table = [row for row in rows("how_it_works") if re.fullmatch(r"[\d.]+ to [\d.]+", row[1])]
    assert len(lines) == len(table) == 5
    for line, row in zip(lines, table, strict=True):
        multipliers = ast.literal_eval(line)
        for kind, cell in (("attention", row[1]), ("mlp", row[2])):
            found = [value for name, value in multipliers.items() if kind in name]
            assert [min(found), max(found)] == pytest.approx([float(x) for x in cell.split(" to ")], abs=0.03)


def test_every_public_name_is_in_the_api_reference():
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert [name for name in hf_tempbalance.__all__ if f"::: hf_tempbalance.{name}\n" not in text] == []


def test_every_page_is_in_the_site_s_navigation():
    def leaves(node: object) -> list[str]:
        children = node.values() if isinstance(node, dict) else node
        return [node] if isinstance(node, str) else [leaf for child in children for leaf in leaves(child)]

    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    reached = [page for page in PAGES if page.name != "table.md"]  # tables of studies: from the page of the results
    assert sorted(leaves(nav)) == sorted(page.relative_to(DOCS).as_posix() for page in reached)


@pytest.mark.parametrize("page", ["README.md", "docs/README.md"])
def test_the_number_of_optimizers_is_that_of_the_table(page):
    section = (DOCS / "compatibility.md").read_text("utf-8").split("## Optimizers")[1].split("\n## ")[0]
    working = [line for line in section.splitlines() if re.match(r"\| [^|]+ \| \w+ \| works \|", line)]
    assert f"{len(working)} optimizers" in (ROOT / page).read_text("utf-8")


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


def commands_of(page: Path) -> list[list[str]]:
    """The words of each `hf-tempbalance` command of a page, its comments left out."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.split()[:1] == ["hf-tempbalance"]]


@pytest.mark.parametrize(
    "page",
    [page for page in (ROOT / "README.md", *PAGES) if commands_of(page)],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_the_options_of_every_command_exist(page):
    fields_of_config = {f"--{field.name}" for field in dataclasses.fields(TempBalanceConfig)}
    for words in commands_of(page):
        if words[0] == "run":
            ours = words[1 : next(i for i, word in enumerate(words) if word.endswith(".py"))]
            assert {word for word in ours if word.startswith("--")} <= {"--preset", *fields_of_config}
        else:
            _parser().parse_args(words)  # exits where a word is unknown
