"""A picture as SVG inside of a page: it takes the page's colours, light or dark, and its text is text."""

from __future__ import annotations

import html
import io
import re

from matplotlib import rc_context
from matplotlib.figure import Figure

from ..terminal import printable


# Colours of our pictures -> those of templates/head.html. What is drawn upon colours, as the numbers in the cells of a
# heat map, has others and stays as it is.
_COLOURS = {
    "#000000": "var(--ink)",
    "#ffffff": "var(--paper)",
    "#737373": "var(--soft)",
    "#b0b0b0": "var(--line)",  # grids
    "#bfbfbf": "var(--line)",  # hatches
    "#cccccc": "var(--line)",  # frames of legends, layers that are not tuned
    "#0072b2": "var(--blue)",
}
_COLOUR = re.compile("|".join(_COLOURS))
# What only matplotlib reads, and what head.html says once for all pictures.
_NOISE = re.compile(
    r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>|(?<=<g) id=\"[\w.]+_\d+\"| transform=\"rotate\(-0 [^\"]*\""
    r"|font-family: [^;\"]*;? ?| xmlns(?::xlink)?=\"[^\"]*\"",
    re.DOTALL,
)
_FONT = re.compile(r"(?<=font: )((?:[\w.]+ )*?[\d.]+px) [^;\"]*")
_TITLE = re.compile(r"<g id=([\"'])title:(.*?)\1>")
_PATH = re.compile(r"(?<= d=\")[^\"]*")
_LONG = 400  # letters; a longer path has one decimal, which is a tenth of a point


def inline_svg(figure: Figure, title: str) -> str:
    """The picture as an ``<svg>`` element. Nothing is loaded from anywhere, and names in it are escaped.

    Args:
        figure: any; an artist with a gid of `drawing.told` has a title, which a browser shows under the mouse.
        title: of the whole, for those who don't see it. Pictures of one page need different ones.
    """
    stream = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    start = text.index("<svg")
    box = re.compile(r"viewBox=\"([^\"]*)\"").search(text, start)
    assert box is not None
    text = _NOISE.sub("", text[text.index(">", start) + 1 :])
    text = _FONT.sub(r"\1 system-ui, sans-serif", text)
    text = _PATH.sub(lambda found: _shortened(found[0]), text)
    text = _COLOUR.sub(lambda found: _COLOURS[found[0]], text)
    text = _TITLE.sub(r"<g><title>\2</title>", text)
    text = re.sub(r">\s+<", "><", text)
    return f'<svg viewBox="{box[1]}" role="img" aria-label="{html.escape(printable(title))}">{text.strip()}'


def _shortened(path: str) -> str:
    """A path with fewer decimals, and without the letters that may be left out."""
    decimals = 1 if len(path) > _LONG else 2
    path = re.sub(rf"(\.\d{{{decimals}}})\d+", r"\1", path)
    if "C" not in path and "Q" not in path:
        path = path.replace("L", " ")  # numbers that follow a move or a line are lines
    return " ".join(path.split())
