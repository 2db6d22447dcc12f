"""Values in the templates of a card: a Markdown reader finds the text that they are, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from hf_tempbalance.runs.markdown import block, code, escape, link, one_line


NASTY = st.text(alphabet="a1 _*`[]()<>!|#~\\-+=.:/&;$@\n\r\t\x1b‮") | st.text()
READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def texts(markdown: str) -> list[str]:
    """The text of each inline part; anything in it that is no text is an error."""
    found = []
    for token in READER.parse(markdown):
        assert token.type not in ("html_block", "fence", "code_block", "hr", "blockquote_open", "bullet_list_open")
        if token.type == "inline":
            assert {child.type for child in token.children} <= {"text", "text_special"}, token.content
            found.append("".join(child.content for child in token.children))
    return found


@given(NASTY)
@example("<script>alert(1)</script>")
@example("a | b\n| --- |")
@example("1. one")
@example("---")
@example("[a](javascript:b) ![c](d) `e` **f** ~~g~~ &lt; <http://h.i>")
def test_a_value_is_text_in_a_heading_a_paragraph_and_a_table(value):
    page = f"# {escape(value)}\n\n{escape(value)}\n\n| | |\n| --- | --- |\n| {escape(value)} | end |\n"
    expected = one_line(value)
    assert [text for text in texts(page) if text] == [*[expected] * 3, "end"] if expected else ["end"]


@given(NASTY)
def test_a_block_of_code_ends_where_it_should(value):
    tokens = READER.parse(f"{block(value, 'yaml')}\n\n# end\n")
    assert [token.type for token in tokens] == ["fence", "heading_open", "inline", "heading_close"]


@given(NASTY)
def test_code_in_a_line_and_the_target_of_a_link_are_one_part_each(value):
    (paragraph,) = [
        token for token in READER.parse(f"x [{code('y' + value)}]({link(value)})") if token.type == "inline"
    ]
    assert [child.type for child in paragraph.children] == ["text", "link_open", "code_inline", "link_close"]


@pytest.mark.parametrize("value", ["eval_test_accuracy", "0.05", "1e-05", "-1.5", "google/bert-base", "2.14.1+cpu", 3])
def test_what_needs_no_escape_has_none(value):
    assert escape(value) == str(value)


def test_control_characters_are_written_as_python_writes_them_and_addresses_are_no_links():
    assert one_line("\x1b]52;c;QQ\x07\na\ud800") == "\\x1b]52;c;QQ\\x07 a\\ud800"
    assert escape("see http://a.b or www.c.d") == "see http:&#47;&#47;a.b or www&#46;c.d"
