"""docs/methods: a card for each preset, in one form, with the settings that it has."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from hf_tempbalance import TempBalanceConfig
from hf_tempbalance.presets import PRESETS


FOLDER = Path(__file__).resolve().parents[2] / "docs" / "methods"
CARDS = sorted(path for path in FOLDER.glob("*.md") if path.stem != "README")
FORM = [
    "What it does.",
    "Equation.",
    "When to use it.",
    "Settings and where they come from.",
    "What was measured.",
    "What differs from its reference code, and why.",
]


def card(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def settings_of(name: str) -> dict[str, tuple[str, str]]:
    """Setting -> (value, source), as the card's table has them."""
    section = card(name).split("**Settings and where they come from.**")[1].split("**What was measured.**")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", section, flags=re.MULTILINE)
    assert len({row[0] for row in rows}) == len(rows)
    return {setting: (value, source) for setting, value, source in rows}


def test_every_preset_has_a_card_and_a_row_in_the_table():
    table = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert {path.stem for path in CARDS} == {*PRESETS, "alphapruning"}
    assert [name for name in PRESETS if f"| [`{name}`]({name}.md) |" not in table] == []


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_a_card_has_the_form_of_all(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ") and re.findall(r"^\*\*([^*]+\.)\*\*", text, flags=re.MULTILINE) == FORM
    assert re.search(r"^Source: ", text, flags=re.MULTILINE)
    equation = text.split("**Equation.**")[1].split("**When to use it.**")[0]
    assert re.search(r"^    \S.* = ", equation, flags=re.MULTILINE)


@pytest.mark.parametrize("name", PRESETS)
def test_the_table_of_a_card_is_what_the_preset_sets(name):
    config, found = TempBalanceConfig.preset(name).to_dict(), settings_of(name)
    assert found and set(PRESETS[name].settings) - set(found) == set()
    for setting, (value, source) in found.items():
        expected = config[setting]
        read = value if isinstance(expected, str) else ast.literal_eval(value)
        is_exact = isinstance(expected, str | bool)
        assert read == (expected if is_exact else pytest.approx(expected, rel=1e-4)), setting
        assert source.strip(), setting


@pytest.mark.parametrize("path", [*CARDS, FOLDER / "README.md"], ids=lambda path: path.stem)
def test_every_link_leads_to_a_file_and_a_heading(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        page = (path.parent / name).resolve() if name else path
        assert page.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}, target


@pytest.mark.parametrize("name", PRESETS)
def test_the_python_of_a_card_makes_its_config(name):
    blocks = re.findall(r"```python\n(.*?)```", card(name), flags=re.DOTALL)
    assert blocks
    for code in blocks:
        names: dict[str, object] = {}
        exec(code, names)
        assert any(isinstance(value, TempBalanceConfig) for value in names.values())
        assert f'preset("{name}"' in code


def test_the_decay_of_llrd_is_that_of_its_card():
    names: dict[str, object] = {}
    exec(re.findall(r"```python\n(.*?)```", card("llrd"), flags=re.DOTALL)[0], names)
    assert names["config"].min_ratio == pytest.approx(0.8**13) == pytest.approx(0.055, abs=5e-4)
    for blocks, decay in ((6, 0.72), (12, 0.84), (24, 0.91)):
        assert f"{decay} for {blocks}" in card("llrd")
        assert TempBalanceConfig.preset("llrd").min_ratio ** (1 / (blocks + 1)) == pytest.approx(decay, abs=0.005)
