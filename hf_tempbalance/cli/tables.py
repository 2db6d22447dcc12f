"""Tables for a terminal: columns leave whole, the least important first; only a name is cut, in its middle."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from ..terminal import printable


GAP = "  "
FEWEST, ENOUGH = 20, 40  # cells that a name keeps before a column leaves: an important one, any other
DOTS = "..."
LONGEST_LINE = 100  # of sentences
Heads = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Lines of text. notes: what was taken out of the names; left_out: headings of the columns that had no room."""

    header: str
    rows: list[str]
    notes: list[str]
    left_out: list[str]

    @property
    def lines(self) -> list[str]:
        """Notes, header and rows."""
        return [*self.notes, self.header, *self.rows]


def lay_out(
    columns: Mapping[str, Sequence[str]],
    width: int | None,
    *,
    first: Sequence[str | Heads] = (),
    left: Collection[str] = (),
    has_parts: bool = True,
) -> Table:
    """Put columns side by side.

    Args:
        columns: heading -> a text for each row. The first column has the names.
        width: cells of a line; None: as wide as it gets, with whole names.
        first: headings in the order of their importance, in a tuple those that stay or leave together; the others
            follow from left to right. A name is shortened for these, down to 20 cells, and for the others to 40.
        left: headings of columns whose texts begin on the left, beside the first.
        has_parts: whether the names have parts between dots, of which a beginning that is shared can be taken out.
    """
    head, *others = columns
    names, notes = list(columns[head]), list[str]()
    chosen = others
    if width is not None:
        names, notes = _without_shared_start(names) if has_parts else (names, [])
        chosen = _fitting(columns, max(map(cell_len, [head, *names])), width, first)
        room = max(width - sum(_width(columns, name) + len(GAP) for name in chosen), 1)
        if max(map(cell_len, names), default=0) > room:
            names, more = _with_a_sign(names) if has_parts else (names, [])
            names, notes = shortened(names, room), notes + more
    table = {head: names} | {name: columns[name] for name in chosen}
    widths = {name: _width(table, name) for name in table}
    texts = [_line(dict(zip(table, table, strict=True)), widths, {head, *left})]
    texts += [
        _line(dict(zip(table, row, strict=True)), widths, {head, *left}) for row in zip(*table.values(), strict=True)
    ]
    return Table(texts[0], texts[1:], notes, [name for name in others if name not in chosen])


def shortened(names: Sequence[str], room: int) -> list[str]:
    """Names of at most so many cells, without their middle. What differs stays different, by its number if need be."""
    tried = [[_cut(name, room, share, DOTS) for name in names] for share in (0.3, 0.5, 0.1, 0.7)]
    for cut in tried:
        if len(set(cut)) == len(set(names)):
            return cut
    return [_cut(name, room, 0.3, f"..{number}..") for number, name in enumerate(names, start=1)]


def show(table: Table, *, caption: str | None = None, styles: Sequence[str | None] | None = None) -> None:
    """Print a table; colours, bold and dim where the output is a terminal. styles: of the rows."""
    console = Console(highlight=False, markup=False, emoji=False)
    lines = [] if caption is None else [Text(caption, "bold")]
    lines += [*(Text(note, "dim") for note in table.notes), Text(table.header, "bold")]
    lines += [
        Text(row, style or "") for row, style in zip(table.rows, styles or [None] * len(table.rows), strict=True)
    ]
    for line in lines:
        console.print(line, soft_wrap=True)  # rich folds nothing: what does not fit has left already


def sentences(text: str, width: int | None, mark: str = "") -> list[str]:
    """A text of words as lines that are broken between words; a word that is longer than a line loses its middle."""
    if width is None:
        return [f"{mark}{text}"]
    width = min(width, LONGEST_LINE)
    words = [shortened([word], width - len(mark))[0] for word in text.split()]
    return textwrap.wrap(
        " ".join(words),
        width,
        initial_indent=mark,
        subsequent_indent=" " * len(mark),
        break_long_words=False,
        break_on_hyphens=False,
    )


def short_name(name: object, room: int | None) -> str:
    """One name from outside, printable, without its middle where it is longer than the room."""
    return printable(name) if room is None else shortened([printable(name)], max(room, FEWEST))[0]


def _fitting(columns: Mapping[str, Sequence[str]], name: int, width: int, first: Sequence[str | Heads]) -> list[str]:
    """The headings, beside the first, that fit next to names of so many cells; in the order of the columns."""
    _, *others = columns
    groups: list[tuple[Heads, int]] = []
    for heads in first:
        groups.append(((heads,) if isinstance(heads, str) else heads, FEWEST))
    known = {head for heads, _ in groups for head in heads}
    groups += [((head,), ENOUGH) for head in others if head not in known]
    chosen: set[str] = set()
    taken = 0
    for heads, fewest in groups:
        present = [head for head in heads if head in others]
        more = sum(_width(columns, head) + len(GAP) for head in present)
        if taken + more + min(name, fewest) <= width:
            chosen |= set(present)
            taken += more
    return [head for head in others if head in chosen]


def _without_shared_start(names: list[str]) -> tuple[list[str], list[str]]:
    """The names without the parts that all of them begin with, and a line that says so."""
    start = os.path.commonprefix(names).rpartition(".")[0] + "."
    if len(set(names)) < 2 or start == ".":
        return names, []
    return [name.removeprefix(start) for name in names], [f"names after {start}"]


def _with_a_sign(names: list[str]) -> tuple[list[str], list[str]]:
    """The names with ~ for the beginning that saves most, such as "bert.encoder.layer."; the head has another."""
    starts: dict[str, int] = {}
    for name in names:
        for position, character in enumerate(name[:-1]):
            if character == ".":
                starts[name[: position + 1]] = starts.get(name[: position + 1], 0) + 1
    saved = {start: (len(start) - 1) * count for start, count in starts.items() if 2 * count > len(names)}
    if not saved or any(name.startswith("~") for name in names):
        return names, []
    start = max(saved, key=saved.__getitem__)
    return [f"~{name.removeprefix(start)}" if name.startswith(start) else name for name in names], [f"~ is {start}"]


def _cut(name: str, room: int, share: float, dots: str) -> str:
    if cell_len(name) <= room:
        return name
    kept = room - len(dots)
    if kept < 2:
        return set_cell_size(name, room)
    start = max(int(share * kept), 1)
    end = set_cell_size(name[::-1], kept - start)[::-1]
    return f"{set_cell_size(name, start).rstrip('. ')}{dots}{end.lstrip('. ')}"


def _width(columns: Mapping[str, Sequence[str]], head: str) -> int:
    return max(map(cell_len, (head, *columns[head])))


def _line(row: Mapping[str, str], widths: Mapping[str, int], left: Collection[str]) -> str:
    cells = []
    for head, text in row.items():
        space = " " * (widths[head] - cell_len(text))
        cells.append(f"{text}{space}" if head in left else f"{space}{text}")
    return GAP.join(cells).rstrip()
