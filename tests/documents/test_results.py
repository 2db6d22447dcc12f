"""docs/results: every number there is that of the committed runs, and one command writes it again."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from results import BLOCK, RESULTS, rebuild

from hf_tempbalance.study.collect import collect
from hf_tempbalance.study.runner import RUNS_NAME, claim, is_finished
from hf_tempbalance.study.study_file import load_study, read_study
from hf_tempbalance.study.tables import edge


STUDIES = sorted(path.parent for path in RESULTS.glob("*/study.json"))
PAGES = sorted(path for path in RESULTS.glob("*.md") if path.name != "plan.md")  # numbers of before, from no run here
CODE = re.compile(r"```.*?```|`[^`]*`|\]\([^)]*\)", flags=re.DOTALL)
GOES_ON = [folder for folder in STUDIES if folder.name != "small_cpu"]  # its options had other names then
CONFIGS = RESULTS.parents[1] / "configs" / "studies"
GIVEN = ("dataset", "dataset_config", "model_name_or_path")  # local copies of what a study file names
MOST_BYTES = 30e6


def test_one_command_writes_every_table_and_page_again_byte_for_byte(tmp_path):
    copy = tmp_path / "results"
    shutil.copytree(RESULTS, copy)
    for written in [*copy.glob("*/table.*"), *copy.glob("*/comparisons.csv")]:
        written.unlink()
    for page in copy.glob("*.md"):
        page.write_text(BLOCK.sub(r"\1\3", page.read_text("utf-8")), "utf-8")
    rebuild(copy, pictures=False)
    of_ours, of_copy = (
        {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (RESULTS, copy)
    )
    assert of_ours.keys() == of_copy.keys()
    assert [name for name, content in of_ours.items() if of_copy[name] != content] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_number_in_a_sentence_is_one_of_the_reports(page):
    sentences = CODE.sub("", BLOCK.sub("", page.read_text("utf-8")))
    reports = STUDIES if page.name == "README.md" else [RESULTS / page.stem]
    known = " ".join((folder / name).read_text("utf-8") for folder in reports for name in ("table.md", "study.json"))
    numbers = set(re.findall(r"(?<![\w.])\d+\.\d+", sentences))
    assert numbers - set(re.findall(r"\d+\.\d+", known)) - {"0.05"} == set()


@pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)
def test_no_rate_was_chosen_at_the_edge_of_its_grid(folder):
    collected = collect(folder)
    at_edge = [cell for cell in collected.study.combinations() if edge(collected, cell)]
    if folder.name == "small_cpu":
        assert len(at_edge) == 6  # as its page says: vision_controls has the wider grid
    else:
        assert at_edge == []


@pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)
def test_a_study_has_its_page_and_pictures(folder):
    page = folder.with_suffix(".md").read_text("utf-8")
    for name in ("table.md", "gains.png", "seeds.png"):
        assert (folder / name).is_file() and f"{folder.name}/{name}" in page


@pytest.mark.parametrize("folder", GOES_ON, ids=lambda folder: folder.name)
def test_a_study_goes_on_from_a_copy_of_what_is_published(folder, tmp_path):
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    train = read_study(folder).train
    data = [f"{key}={json.dumps(train[key])}" for key in GIVEN if key in train]
    study = load_study(CONFIGS / f"{folder.name}.yaml", data)
    claim(study, copy)
    done = {run.name for run in study.possible_runs() if is_finished(copy, run)}
    assert done == {path.name for path in (copy / RUNS_NAME).iterdir()}


def test_what_is_committed_is_small():
    assert sum(path.stat().st_size for path in RESULTS.rglob("*") if path.is_file()) < MOST_BYTES
