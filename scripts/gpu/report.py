"""docs/gpu.md from the results of GPU days: what was measured where, and what is still owed."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpu.bars import BARS, spread
from gpu.jobs import best
from gpu.stages import STUDIES, Day, stages
from hf_tempbalance.files import damaged, read_json, write_whole
from hf_tempbalance.study.collect import collect
from hf_tempbalance.study.report import markdown


Parts = dict[str, dict[str, Any]]  # part -> record
Kinds = dict[str, dict[str, Parts]]  # kind of machine -> stage -> parts

HEAD = """# On a GPU

Written by `python scripts/gpu_day.py report DIR...` from the results of GPU days; nothing here is typed by hand. A
ratio above 1 means that this package is faster; a number is the median of the rounds (smallest-largest), and what is
compared took turns on the same GPU. What was measured on 2 CPU cores is in [what it costs](performance.md).
"""
HOW = """## Commands

    python scripts/gpu_day.py --device cpu --tiny --out dry      # all stages in tiny sizes: measures nothing
    python scripts/gpu_day.py --minutes 25 --out day             # on the GPU; --minutes 9 and --continue day in parts
    python scripts/gpu_day.py report day                         # this page

A bare machine needs this tree, torch, and what the first line of the output says is missing, as wheels in a folder
(`--wheels DIR`). The data sets are looked for in `shared/data`, in the tree and beside it, or in `--data DIR`.
"""


def kinds_of(folders: list[Path]) -> Kinds:
    """The results in folders of GPU days; of two of one kind the later folder's count.

    Raises:
        ValueError: a folder is not there, or a file is not what a day writes.
    """
    found: Kinds = {}
    for folder in folders:
        for path in sorted(folder.glob("*/*.json")):
            if path.parent.name in ("packages", "studies", "studies-tiny") or path.name == "solvers_table.json":
                continue
            content = read_json(path)
            parts = content.get("parts")
            if not isinstance(parts, dict) or not all(
                isinstance(record, dict) and isinstance(record.get("status"), str) for record in parts.values()
            ):
                raise damaged(path, "parts", parts, "a mapping of parts to their results")
            kept = found.setdefault(path.parent.name, {}).setdefault(path.stem, {})
            for name, record in parts.items():
                if name not in kept or record["status"] == "measured" or kept[name]["status"] != "measured":
                    kept[name] = record
    return found


def write_report(folders: list[Path], output: Path) -> None:
    """Write the page. Raises ValueError where a folder is not there, or has something else."""
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder of a GPU day.")
    write_whole(output, page(folders))


def page(folders: list[Path]) -> str:
    """The page as Markdown. Numbers of dry runs and of CPUs are never on it."""
    found = kinds_of(folders)
    real = {kind: results for kind, results in found.items() if is_of_gpu(kind, results)}
    parts = [HEAD]
    if not real:
        parts.append("Nothing has been measured on a GPU yet: all of it is owed.\n")
    parts += [bars(real), *(section(kind, results) for kind, results in real.items())]
    parts += [studies(folders), owed(real), HOW]
    parts += [dry_run(kind, results) for kind, results in found.items() if kind.endswith("-tiny")]
    return "\n".join(part for part in parts if part)


def is_of_gpu(kind: str, results: dict[str, Parts]) -> bool:
    """Whether these are measurements: no dry run, and every machine that is told of has a GPU."""
    machines = [record["machine"] for parts in results.values() for record in parts.values() if "machine" in record]
    return not kind.endswith("-tiny") and bool(machines) and all(machine.get("gpus") for machine in machines)


def bars(real: Kinds) -> str:
    """Each bar with what was found on each kind of GPU."""
    body = []
    for bar in BARS:
        cells = [verdict(results.get(bar.stage, {}).get(bar.part), bar.judge) for results in real.values()]
        body.append([bar.what, bar.target, *(cells or ["owed"])])
    return "## Bars\n\n" + table(["what", "bar", *(real or ["measured"])], body)


def verdict(record: dict[str, Any] | None, judge: Callable[[list[Any]], tuple[str, bool]]) -> str:
    if record is None or record["status"] != "measured":
        return "owed"
    text, holds = judge(record["rows"])
    return f"{text}: {'holds' if holds else '**missed**'}"


def section(kind: str, results: dict[str, Parts]) -> str:
    """All that was measured on one kind of machine."""
    lines = [f"## {name_of(results)}", "", *machines(results), ""]
    for stage, tell in TABLES.items():
        measured = {part: r for part, r in results.get(stage, {}).items() if r["status"] == "measured"}
        if measured:
            lines += [f"### {stage.capitalize()}", "", *tell(measured), "", commands(measured), ""]
    lines += in_the_middle(results.get("studies", {}))
    failed = [
        f"* {stage}, {part}: {record['status']}: {record['reason']}"
        for stage, parts in results.items()
        for part, record in parts.items()
        if record["status"] not in ("measured", "unfinished")
    ]
    return "\n".join([*lines, *(["### Not measured", "", *failed, ""] if failed else [])])


def in_the_middle(parts: Parts) -> list[str]:
    """Runs of studies that have begun and are not finished, with what going on elsewhere takes along."""
    rows = [row for record in parts.values() for row in record.get("rows") or [] if row.get("epochs")]
    lines = [
        f"* {row['run']}: {row['status']} after {row['epochs']:g} epochs, checkpoint of {row['checkpoint_mb']:g} MB"
        for row in rows
        if row["status"] != "finished"
    ]
    return ["### Runs in the middle", "", *lines, ""] if lines else []


def name_of(results: dict[str, Parts]) -> str:
    return next(r["machine"]["device"] for parts in results.values() for r in parts.values() if "machine" in r)


def machines(results: dict[str, Parts]) -> list[str]:
    """Each machine with its versions, and the days of its measurements."""
    days: dict[str, set[str]] = {}
    for record in (record for parts in results.values() for record in parts.values() if "machine" in record):
        machine = record["machine"]
        versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        memory = f"{machine['memory']} GB" if machine.get("memory") else "memory unknown"
        place = f"{machine['device']} ({memory}), CUDA {machine.get('cuda')}, driver {machine.get('driver')}"
        days.setdefault(f"{place}, {machine['cores']} cores; {versions}", set()).add(record["when"][:10])
    return [f"* {place} ({', '.join(sorted(dates))})" for place, dates in days.items()]


def commands(parts: Parts) -> str:
    return "\n".join(f"    {command}" for command in dict.fromkeys(record["command"] for record in parts.values()))


def smoke(parts: Parts) -> list[str]:
    rows = [(part, row) for part, record in parts.items() for row in record["rows"]]
    body = [[part, ", ".join(f"{k}: {short(v)}" for k, v in row.items() if k != "check")] for part, row in rows]
    return [table(["passed", "found"], body)]


def solvers(parts: Parts) -> list[str]:
    rows = next(iter(parts.values()))["rows"]
    names = list(dict.fromkeys(name for row in rows for name in (*row["seconds"], *row["failed"])))
    body = []
    for row in rows:
        middle = {name: 1e3 * statistics.median(times) / row["matrices"] for name, times in row["seconds"].items()}
        fastest = min(middle, key=middle.__getitem__, default="none")
        cells = (f"{middle[name]:.3f}" if name in middle else "-" for name in names)
        body.append([row["dtype"], str(row["side"]), str(row["matrices"]), *cells, fastest])
    reasons = sorted({f"* {n}: {why}" for row in rows for n, why in row["failed"].items()})
    head = table(["dtype", "side", "matrices", *names, "fastest"], body)
    return ["Milliseconds for a matrix.", "", head, "", *reasons]


def analysis(parts: Parts) -> list[str]:
    body = []
    for record in parts.values():
        for row in record["rows"]:
            ours, theirs = row["seconds"]["ours"], row["seconds"]["loop"]
            ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
            medians = (f"{statistics.median(times):.3f} s" for times in (ours, theirs))
            error = f"{row['accuracy']['worst']:.0e}"
            body.append([row["model"], *medians, spread(ratios), str(len(ours)), error])
    return [table(["model", "ours", "loop", "ratio", "rounds", "error of alpha"], body)]


def share(parts: Parts) -> list[str]:
    rows = [row for record in parts.values() for row in record["rows"]]
    body = [[row["model"], spread(row["look"], ".3f"), str(row["steps"]), spread(row["step"], ".4f")] for row in rows]
    return [table(["model", "a look, s", "steps between two", "a step, s"], body)]


def training(parts: Parts) -> list[str]:
    lines: list[str] = []
    if "throughput" in parts:
        rows = parts["throughput"]["rows"]
        body = [[row["contender"], spread(row["images_per_second"], ".0f")] for row in rows]
        lines += [table(["contender", "images per second"], body), ""]
    if "overlap" in parts:
        rows = parts["overlap"]["rows"]
        numbers = ("seconds", "look", "waited", "between")
        body = [[row["mode"], *(short(row[number]) for number in numbers)] for row in rows]
        lines += [table(["mode", "seconds", "a look, s", "waited, s", "between two looks, s"], body), ""]
    if "step" in parts:
        rows = parts["step"]["rows"]
        lines += [table(list(rows[0]), [[str(value) for value in row.values()] for row in rows]), ""]
    if "methods" in parts:
        rows = parts["methods"]["rows"]
        body = [[row["model"], *(spread(times, ".3f") for times in row["seconds"].values())] for row in rows]
        lines += [table(["a look, s", *rows[0]["seconds"]], body)]
    return lines


def trainer(parts: Parts) -> list[str]:
    rows = [row for record in parts.values() for row in record["rows"]]
    return [table(["through", "processes"], [[row["task"], str(row["processes"])] for row in rows])]


def jobs(parts: Parts) -> list[str]:
    rows = parts.get("jobs", {}).get("rows") or []
    body = [[str(row["jobs"]), f"{row['images_per_second']:.0f}"] for row in rows]
    chosen = f"Studies are run with {best(rows)} at a time." if rows else ""
    return [table(["trainings at a time", "images per second, together"], body), "", chosen] if rows else []


TABLES: dict[str, Callable[[Parts], list[str]]] = {
    "smoke": smoke,
    "solvers": solvers,
    "analysis": analysis,
    "share": share,
    "training": training,
    "trainer": trainer,
    "studies": jobs,
}


def studies(folders: list[Path]) -> str:
    """The studies' own reports, of the finished runs."""
    lines = ["## Studies", ""]
    for folder in folders:
        for name in STUDIES:
            target = folder / "studies" / name
            if not (target / "study.json").is_file():
                continue
            try:
                collected = collect(target)
            except ValueError as error:  # no run is finished yet
                lines += [f"### {name}", "", str(error), ""]
                continue
            if any(measured.environment["device"] == "cpu" for measured in collected.finals):
                lines += [f"### {name}", "", "Left out: some of its runs are of a CPU.", ""]
            else:
                lines += [re.sub("^#", "###", markdown(collected), flags=re.MULTILINE)]
    if len(lines) == 2:
        lines += [f"{' and '.join(f'`{name}`' for name in STUDIES)}: owed, no run is finished.", ""]
    return "\n".join(lines)


def owed(real: Kinds) -> str:
    """Every part that no GPU has measured."""
    day = Day("cuda", tiny=False, folder=Path("day"), studies=Path("day"), data=None, gpus=2)
    lines = []
    for stage in stages(day):
        found = [item for results in real.values() for item in results.get(stage.name, {}).items()]
        done = {part for part, record in found if record["status"] == "measured"}
        left = [part.name for part in stage.parts if part.name not in done]
        if left:
            lines.append(f"* {stage.name} ({stage.about}): {'all of it' if not done else '; '.join(left)}")
    return "\n".join(["## Owed", "", *(lines or ["Nothing."]), ""])


def dry_run(kind: str, results: dict[str, Parts]) -> str:
    """That everything ran in tiny sizes; no number of it is one about a GPU."""
    records = [record for parts in results.values() for record in parts.values()]
    ran = sum(record["status"] == "measured" for record in records)
    skipped = sum(record["status"] == "skipped" for record in records)
    where = "a GPU" if is_of_gpu(kind.removesuffix("-tiny"), results) else "a CPU"
    when = max((record["when"][:10] for record in records if "when" in record), default="an unknown day")
    rest = f", {skipped} were skipped" if skipped else ""
    through = f"{ran} of {len(records)} parts ran through{rest}"
    return f"The last dry run on {where}, {when}: {through}. It measures nothing.\n"


def short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} ({short(item)})" for key, item in value.items()) or "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else "-" if value is None else str(value)


def table(names: list[str], body: list[list[str]]) -> str:
    return "\n".join(_lines(names, body)) + "\n"


def _lines(names: list[str], body: list[list[str]]) -> Iterator[str]:
    for row in (names, ["---"] * len(names), *body):
        yield "| " + " | ".join(cell.replace("|", "/") for cell in row) + " |"
