"""An HTML page of ours as the tests look at it."""

from __future__ import annotations

import base64
import html.parser


class Page(html.parser.HTMLParser):
    """The parts of a page that the tests look at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.images: list[bytes] = []
        self.text = ""
        self.alternatives: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert tag not in ("script", "link", "iframe")
        if tag == "img":
            kind, data = found["src"].split(",", 1)
            assert kind == "data:image/png;base64"
            self.images.append(base64.b64decode(data))
            self.alternatives.append(found["alt"])
        self.links += [
            found[name] for name in ("href", "src") if name in found and not found[name].startswith("data:")
        ]

    def handle_data(self, data: str) -> None:
        self.text += data
