"""Hostile texts end as texts: a renderer of Markdown finds no element in them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from modelway_runtime.detection.sanitise import code, fence, plain, text

HOSTILE = [
    "<script>alert(1)</script>", "<!-- modelway key=verdict/prod/a/b -->", "-->", "![x](https://evil.example/x.png)",
    "[x](https://evil.example)", "https://evil.example", "www.evil.example", "@shop/everyone", "#1", "`code`", "``", "```\n# x",
    "a|b", "**x**", "_x_", "~~x~~", "# x", "> x", "- x", "1. x", "---", "\\", "\\`x`", "&lt;b&gt;", "a\n\n# b", "a\r\nb",
    "\u202egnp.exe", "\u200b@x", "\x00\x1b[31m", "<details>", "</details>", "[[x]]", ":tada:", "$$x$$", "[^1]", "mail@evil.example", "`|`",
]  # fmt: skip
RENDERER = MarkdownIt("gfm-like")


@pytest.mark.parametrize("value", HOSTILE)
def test_text_is_shown_as_it_is(value: str) -> None:
    html = RENDERER.render(f"before {text(value)} after")
    assert re.sub(r"</?p>", "", html).count("<") == 0
    assert not re.search(r"@[A-Za-z0-9]|#[0-9]", html)
    shown = html.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")
    assert f"before {plain(value)} after" in shown.replace("\u2060", "")


@pytest.mark.parametrize("value", HOSTILE)
def test_text_and_code_stay_in_their_cell(value: str) -> None:
    html = RENDERER.render(f"| a | b |\n|---|---|\n| {text(value)} | {code(value)} |\n")
    elements = re.findall(r"<(/?[a-z0-9]+)", html)
    assert set(elements) <= {
        "table",
        "/table",
        "thead",
        "/thead",
        "tbody",
        "/tbody",
        "tr",
        "/tr",
        "th",
        "/th",
        "td",
        "/td",
        "code",
        "/code",
    }
    assert html.count("<tr>") == 2
    assert html.count("<code>") == 1


@given(st.text(max_size=60))
def test_any_text_is_text(value: str) -> None:
    html = RENDERER.render(f"x {text(value)} x {code(value)} x")
    assert set(re.findall(r"<(/?[a-z0-9]+)", html)) == {"p", "/p", "code", "/code"}


@given(st.text(alphabet="`~ab\n <", max_size=60))
def test_a_block_ends_where_it_ends(value: str) -> None:
    html = RENDERER.render(f"{fence(value, 'text')}\n\nafter")
    assert html.count("<pre>") == 1
    assert html.endswith("<p>after</p>\n")


def test_what_is_not_seen_is_made_visible() -> None:
    assert plain("a\u202eb\u200bc\x07d\ne") == "a\ufffdb\ufffdc\ufffdd e"
    assert plain("x" * 300) == "x" * 199 + "…"
