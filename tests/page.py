"""An HTML page of ours as the tests look at it."""

from __future__ import annotations

import base64
import html.parser


class Page(html.parser.HTMLParser):
    """The parts of a page that the tests look at.

    Attributes:
        links: what would be loaded from elsewhere; links inside of the page, as of a picture's markers, are not in it.
        pictures: what each <svg> says that it is.
        images: the PNG files inside of them.
        titles: what the mouse on a part of a picture shows.
        text: all text.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.pictures: list[str] = []
        self.images: list[bytes] = []
        self.titles: list[str] = []
        self.text = ""
        self.inside: list[str] = []
        self.feed(text)
        assert not self.inside, self.inside  # every element has its end

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert tag not in ("script", "link", "iframe", "object")
        assert not [name for name in found if name.startswith("on")]
        if tag not in ("meta", "img", "br"):
            self.inside.append(tag)
        if tag == "svg":
            self.pictures.append(found["aria-label"])
        if tag == "image":
            kind, data = found["xlink:href"].split(",", 1)
            assert kind == "data:image/png;base64"
            self.images.append(base64.b64decode(data))
        links = [found[name] for name in ("href", "src", "xlink:href") if name in found]
        self.links += [link for link in links if not link.startswith(("data:", "#"))]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in ("meta", "img", "br"):
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.inside.pop() != tag:  # <p> and <li> need no end
            pass

    def handle_data(self, data: str) -> None:
        if self.inside[-1:] == ["title"] and "svg" in self.inside:
            self.titles.append(data)
        self.text += data
