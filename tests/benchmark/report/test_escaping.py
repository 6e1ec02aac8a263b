"""Payloads in names neither act nor break the table."""

import pytest

from benchmark.report.escaping import for_markdown, for_terminal

PAYLOADS = [
    "\x1b[2J\x1b[31mred",
    "\x1b]8;;http://evil\x07click\x1b]8;;\x07",
    "\x9b31m",
    "a\rb\nc\td",
    "\u202egnp.exe",
    "a\u2028b",
    "a\u200bb\x00\x7f",
]


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("escape", [for_terminal, for_markdown])
def test_nothing_that_a_terminal_obeys_is_left(payload, escape):
    assert escape(payload).isprintable()


def test_what_was_escaped_is_still_shown():
    assert for_terminal("\x1b[31mred") == "\\x1b[31mred"
    assert for_terminal("Größe 模型 ±") == "Größe 模型 ±"


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ("a|b", "a\\|b"),
        ("a\\|b", "a\\\\\\|b"),
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("[x](javascript:y)", "\\[x\\](javascript:y)"),
        ("![x](http://evil/p.png)", "\\!\\[x\\](http:\\/\\/evil/p.png)"),
        ("http://evil www.evil @someone at 2 @ 3", "http:\\/\\/evil www\\.evil \\@someone at 2 @ 3"),
        ("**b** `c` ~~d~~ $e$ &lt;", "\\*\\*b\\*\\* \\`c\\` \\~\\~d\\~\\~ \\$e\\$ &amp;lt;"),
        ("_b_ test_2016_flickr", "\\_b\\_ test_2016_flickr"),
        ("# heading", "\\# heading"),
        ("transformer-small", "transformer-small"),
    ],
)
def test_markdown_shows_the_text_itself(payload, text):
    assert for_markdown(payload) == text
