"""Rebuild docs/results from the runs that are committed there: tables, pictures, and the tables inside the pages.

    python scripts/results.py                          # everything, in its place
    python scripts/results.py --no-pictures            # numbers only
    git diff --stat docs/results                       # nothing: they are the same, byte for byte

A page has its tables between <!-- claims --> or <!-- methods of STUDY --> or <!-- comparisons of STUDY --> and
<!-- end -->; what stands between is written anew. The claims are those of docs/results/claims.yaml.
"""

from __future__ import annotations

import argparse
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from hf_tempbalance.files import write_whole
from hf_tempbalance.huggingface.parser import run
from hf_tempbalance.runs.markdown import escape
from hf_tempbalance.study import tables
from hf_tempbalance.study.collect import Collected, collect
from hf_tempbalance.study.comparisons import Comparison, compare
from hf_tempbalance.study.display import display_of
from hf_tempbalance.study.report import write_tables
from hf_tempbalance.study.study_file import STUDY_NAME


RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
BLOCK = re.compile(r"(<!-- (claims|(?:methods|comparisons) of \w+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-pictures", action="store_true", help="tables only")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args()
    rebuild(RESULTS, pictures=not options.no_pictures)


def rebuild(results: Path, *, pictures: bool) -> None:
    """Write the report of each study in ``results`` into its folder, and the tables of the pages.

    Raises:
        ValueError: a block or a claim is about a comparison that no committed study has.
    """
    for folder in sorted(path.parent for path in results.glob(f"*/{STUDY_NAME}")):
        collected = collect(folder)
        write_tables(collected, folder)
        if pictures:
            from hf_tempbalance.study.pictures import write_pictures

            write_pictures(collected, folder, folder)
    blocks = Blocks(results)
    for page in sorted(results.glob("*.md")):
        text = page.read_text("utf-8")
        write_whole(page, BLOCK.sub(lambda found: found[1] + blocks.text(found[2]) + found[3], text))


class Blocks:
    """The tables of the pages, by what stands in their first line."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.study = cache(self._study)

    def text(self, name: str) -> str:
        kind, _, study = name.partition(" of ")
        if kind == "claims":
            lines = self.claims()
        else:
            table = self.methods if kind == "methods" else self.comparisons
            lines = table(*self.study(study))
        return "\n".join(["", *lines, "", ""])

    def claims(self) -> list[str]:
        """What others have written and what came out here, a line for each."""
        header = ["claim", "our setting", "difference [95 %]", "verdict", "seeds for it"]
        return tables.markdown_table(header, list(map(self._claim, self._claims())))

    def methods(self, collected: Collected, comparisons: list[Comparison]) -> list[str]:
        """Each method at its best rate beside the baseline."""
        display, study = display_of(collected.study), collected.study
        ((axis, baseline),) = study.baseline.items()
        tuned = [study.tune.option] if study.tune else []
        header = [*study.axes, *tuned, "runs", display.label, f"minus {baseline} [95 %]", "verdict"]
        body = []
        for row in tables.rows(collected, comparisons):
            against = row.against
            difference = display.interval(against.difference, signed=True) if against else ""
            mean = f"{display.number(row.last.mean, row.last.sd)} +- {display.number(row.last.sd, row.last.sd)}"
            verdict = escape(against.verdict if against else "baseline")
            body.append([*row.labels, *([row.tuned] if tuned else []), str(row.runs), mean, difference, verdict])
        return tables.markdown_table(header, body)

    def comparisons(self, collected: Collected, comparisons: list[Comparison]) -> list[str]:
        """Every method that has been compared with something else than the baseline."""
        return tables.markdown_table(
            tables.comparison_header(collected),
            [tables.comparison_cells(collected, one) for one in comparisons if one.kind != "baseline"],
        )

    def _study(self, name: str) -> tuple[Collected, list[Comparison]]:
        collected = collect(self.results / name)
        return collected, compare(collected)

    def _claims(self) -> list[dict[str, Any]]:
        return list(yaml.safe_load((self.results / "claims.yaml").read_text("utf-8")))

    def _claim(self, claim: dict[str, Any]) -> list[str]:
        name, cell, kind = claim["study"], claim["cell"], claim.get("against", "baseline")
        if not (self.results / name / STUDY_NAME).is_file():
            return [claim["claim"], claim["setting"], "", f"[not run yet](plan.md#{name})", ""]
        collected, comparisons = self.study(name)
        found = [one for one in comparisons if one.cell == cell and one.kind == kind]
        if len(found) != 1:
            raise ValueError(f"claims.yaml: {name} has {len(found)} comparisons of {cell} with {kind}, not one.")
        display, seen = display_of(collected.study), found[0].difference
        mean, low, high = (display.number(value, seen.sd, signed=True) for value in (seen.mean, seen.low, seen.high))
        verdict = f"[{escape(found[0].verdict)}]({name}.md)"
        return [
            claim["claim"],
            claim["setting"],
            f"{mean} [{low}, {high}]",
            verdict,
            tables.power_cells(collected, found[0])[2],
        ]


if __name__ == "__main__":
    run(main)
