"""Templates of Markdown: every value comes out as the text that it is, unless it is marked as Markdown."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader


# What Markdown, HTML or a formula could begin with: by a backslash where that reads better, else by its number.
ESCAPES = str.maketrans(
    {character: f"\\{character}" for character in "\\`*[]#~"}
    | {character: f"&#{ord(character)};" for character in "|$@"}
    | {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
)


class Markdown(str):
    """Text that is Markdown already and is put into a template as it is."""


def render(template: str, **values: Any) -> Markdown:
    """A template of the folder templates/ with these values, each escaped (`escape`)."""
    environment = Environment(
        loader=PackageLoader(__package__), trim_blocks=True, autoescape=False, finalize=_finalized
    )
    environment.filters |= {"code": code, "block": block, "link": link}
    return Markdown(environment.get_template(template).render(**values).rstrip() + "\n")


def escape(value: Any) -> Markdown:
    """The text of a value on one line, without a meaning in Markdown, HTML or a table; addresses are no links."""
    text = one_line(value).translate(ESCAPES)
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # inside a word it stands for itself
    text = re.sub(r"(://|www\.)", lambda found: found[0].replace("/", "&#47;").replace(".", "&#46;"), text, flags=re.I)
    text = re.sub(r"^(\d+)([.)])(\s|$)", r"\1\\\2\3", text)  # the item of a list
    return Markdown(re.sub(r"^([-+=])(\s|$|[-=])", r"\\\1\2", text))  # an item, a rule, the line under a heading


def one_line(value: Any) -> str:
    """The text of a value without line breaks; what can't be printed as Python writes it, such as \\x1b."""
    return _printable(" ".join(str(value).split()))


def code(value: Any) -> Markdown:
    """Code within a line."""
    text = one_line(value)
    fence = "`" * (_longest_fence(text) + 1)
    space = " " if "`" in text else ""
    return Markdown(f"{fence}{space}{text}{space}{fence}")


def block(value: Any, language: str) -> Markdown:
    """Lines of code, in a fence longer than every one in them."""
    text = "\n".join(map(_printable, str(value).split("\n")))
    fence = "`" * max(3, _longest_fence(text) + 1)
    return Markdown(f"{fence}{language}\n{text}\n{fence}")


def link(path: Any) -> Markdown:
    """The target of a link to a file of the repository."""
    return Markdown(quote(str(path), errors="replace"))


def _finalized(value: Any) -> Any:
    return value if isinstance(value, Markdown) else escape(value)


def _longest_fence(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
