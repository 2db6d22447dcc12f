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
from pathlib import Path
from typing import Any

import yaml

from hf_tempbalance.files import write_whole
from hf_tempbalance.huggingface.parser import run
from hf_tempbalance.study import tables
from hf_tempbalance.study.collect import Collected, collect
from hf_tempbalance.study.comparisons import Comparison, compare
from hf_tempbalance.study.display import display_of
from hf_tempbalance.study.report import write_tables
from hf_tempbalance.study.study_file import STUDY_NAME


RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
BLOCK = re.compile(r"(<!-- (claims|(?:methods|comparisons) of \w+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)
Studies = dict[str, tuple[Collected, list[Comparison]]]  # by name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-pictures", action="store_true", help="tables only")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args()
    rebuild(RESULTS, pictures=not options.no_pictures)


def rebuild(results: Path, *, pictures: bool) -> None:
    """Write the report of each study in ``results`` into its folder, and the tables of the pages.

    Raises:
        ValueError: a block or a claim is about a study or a comparison that is not there.
    """
    studies: Studies = {}
    for folder in sorted(path.parent for path in results.glob(f"*/{STUDY_NAME}")):
        collected = collect(folder)
        studies[folder.name] = (collected, compare(collected))
        write_tables(collected, folder)
        if pictures:
            from hf_tempbalance.study.pictures import write_pictures

            write_pictures(collected, folder, folder)
    claims = yaml.safe_load((results / "claims.yaml").read_text("utf-8"))
    for page in sorted(results.glob("*.md")):
        text = page.read_text("utf-8")
        write_whole(page, BLOCK.sub(lambda found: found[1] + block(found[2], studies, claims) + found[3], text))


def block(name: str, studies: Studies, claims: list[dict[str, Any]]) -> str:
    """What stands between two marks of a page; name: what the first one says."""
    kind, _, study = name.partition(" of ")
    if study and study not in studies:
        raise ValueError(f"{name}: there is no such study. Publish it, or take the block out of its page.")
    if kind == "claims":
        lines = claims_table(claims, studies)
    else:
        lines = (methods_table if kind == "methods" else comparisons_table)(*studies[study])
    return "\n".join(["", *lines, "", ""])


def claims_table(claims: list[dict[str, Any]], studies: Studies) -> list[str]:
    """What others have written and what came out here, a line for each."""
    header = ["claim", "our setting", "difference [95 %]", "verdict", "seeds for it"]
    return tables.markdown_table(header, [[c["claim"], c["setting"], *outcome(c, studies)] for c in claims])


def outcome(claim: dict[str, Any], studies: Studies) -> list[str]:
    """Difference, verdict and seeds for the difference, with a link to the study's page, or to the plan of it."""
    name, cell, kind = claim["study"], claim["cell"], claim.get("against", "baseline")
    if name not in studies:
        return ["", f"[not run yet](plan.md#{name})", ""]
    collected, comparisons = studies[name]
    found = [one for one in comparisons if one.cell == cell and one.kind == kind]
    if len(found) != 1:
        raise ValueError(f"claims.yaml: {name} has {len(found)} comparisons of {cell} with {kind}, not one.")
    difference = display_of(collected.study).interval(found[0].difference, signed=True)
    return [difference, f"[{found[0].verdict}]({name}.md)", found[0].seeds_needed_as_text]


def methods_table(collected: Collected, comparisons: list[Comparison]) -> list[str]:
    """Each method at its best rate beside the baseline: the columns of the report that say so."""
    names, option = tables.header(collected), collected.study.tune and collected.study.tune.option
    kept = [*collected.study.axes, option, "runs", "last", "difference", "against the baseline"]
    columns = [names.index(name) for name in kept if name]
    rows = [tables.cells_of(collected, row) for row in tables.rows(collected, comparisons)]
    return tables.markdown_table([names[n] for n in columns], [[row[n] for n in columns] for row in rows])


def comparisons_table(collected: Collected, comparisons: list[Comparison]) -> list[str]:
    """Every method that has been compared with something else than the baseline."""
    others = [one for one in comparisons if one.kind != "baseline"]
    body = [tables.comparison_cells(collected, one) for one in others]
    return tables.markdown_table(tables.comparison_header(collected), body)


if __name__ == "__main__":
    run(main)
