"""What mkdocs puts into the pages of docs/ when it builds the site: tables of what the code itself says."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from hf_tempbalance.config import TempBalanceConfig
from hf_tempbalance.presets import PRESETS


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Called by mkdocs for each page with its text."""
    for mark, table in (("options", option_table), ("presets", preset_table)):
        markdown = markdown.replace(f"<!-- table of the {mark} -->", table())
    return markdown


def option_table() -> str:
    """The options of the configuration, from the help texts of its fields."""
    rows = ["| option | default | meaning |", "| --- | --- | --- |"]
    rows += [f"| `{f.name}` | `{f.default!r}` | {f.metadata['help']} |" for f in fields(TempBalanceConfig)]
    return "\n".join(rows)


def preset_table() -> str:
    """The presets; their settings are on the cards."""
    rows = ["| name | what | source |", "| --- | --- | --- |"]
    rows += [f"| [`{name}`](methods/{name}.md) | {p.what} | {p.source} |" for name, p in PRESETS.items()]
    return "\n".join(rows)
