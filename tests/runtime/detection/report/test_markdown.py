from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import product
from typing import get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from modelway_runtime.detection import sanitise
from modelway_runtime.detection import verdict as verdicts
from modelway_runtime.detection.report import markdown, text, words
from modelway_runtime.detection.verdict import PullRequest, Verdict
from tests.runtime.detection.report.examples import CASES, OTHER, ROLLOUT, metric, plot, regressed, verdict

# As GitHub: tables, HTML, addresses become links.
PARSER = MarkdownIt("gfm-like", {"html": True})
HOSTILE = (
    "<img src=x onerror=alert(1)>", "<script>alert(1)</script>", "```\n# x\n```", "`", "``` `` `", "a|b\\|c\\\\|d",
    "@octocat #1 octo/repo#2", "-->", "<!-- modelway key=verdict/prod/ranker -->", "[x](javascript:alert(1))",
    "![x](https://evil.example/x.png)", "www.evil.example https://evil.example", "\u202eabc\u2066", "**b** _i_ ~~s~~",
    "\n\n# heading\n\n- list", "</details></sub></code>", "&lt;b&gt; &#64;octocat", ":smile:", "$x^2$", "a" * 253, "", " ",
    "\x1b[31mred\x00", "[^1]: note", "name\\",
)  # fmt: skip
NAMES = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.one_of(st.sampled_from("<>&\"'`|@\\*_[]()#!~:-/.\n\r\t$%{} \u202e"), st.characters(codec="utf-8")), max_size=260),
)  # fmt: skip


class Structure(HTMLParser):
    """The tags of a document with their attributes, and its text."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(document)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(f"{tag} {' '.join(name for name, _ in attrs)}")
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.tags.append("comment")

    def handle_decl(self, decl: str) -> None:
        self.tags.append("declaration")


def structure(comment: str) -> Structure:
    return Structure(PARSER.render(comment))


def named(name: str) -> Verdict:
    """Everything that somebody else writes is ``name``."""
    rollout = msgspec.structs.replace(
        ROLLOUT, namespace=name, model=name, version=name, hash=f"x{name}", previous_hash=name
    )
    metrics = (
        metric(name, "regressed", 0.041, 0.268, queries=(f"a{name}", f"b{name}")),
        metric(f"{name}2", "unchanged", 0.041, 0.0, test="spread", queries=(f"c{name}",)),
    )
    return verdict(
        "regressed", metrics, id=name, environment=name, team=name, namespace=name, model=name, rollout=rollout,
        other_rollouts=(rollout,), detector_version=name, series_digest=f"sha256:{name}",
        commit=verdicts.Commit(sha=f"z{name}", found_by="history"),
    )  # fmt: skip


HARMLESS = structure(markdown.comment(named("ranker"), (plot("ranker"),), revert="git revert ranker"))


@given(NAMES)
@settings(deadline=None, max_examples=60)
def test_names_end_as_text(name: str) -> None:
    made = markdown.comment(named(name), (plot(name),), revert=f"git revert {name}")
    found = structure(made)
    assert found.tags == HARMLESS.tags
    assert found.text.count(sanitise.name(name)) >= 8
    outside = re.sub(r"^(`{3,}).*?^\1$", "", made, flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"@|<!--|-->|!\[(?!CAUTION)|javascript:", outside)
    assert "<!--" not in made


@given(NAMES)
def test_names_in_a_terminal_do_not_move_it(name: str) -> None:
    made = text.report(named(name), (), colour=False)
    assert all(line.isprintable() and len(line) <= text.WIDTH for line in made.splitlines())
    assert made.isascii() or set(made) - {chr(i) for i in range(128)} <= set("→±–✗=…▁▂▃▄▅▆▇█µ")


@given(NAMES)
def test_code_in_a_cell_is_one_cell(name: str) -> None:
    found = structure(f"| a | b |\n|---|---|\n| {sanitise.code(name)} | {sanitise.html_code(name)} |\n")
    assert found.tags.count("td ") == 2
    assert re.sub(r"\s", "", found.text) == re.sub(r"\s", "", f"ab{sanitise.name(name)}{sanitise.name(name)}")


@given(NAMES)
def test_a_fence_holds_what_it_was_given(name: str) -> None:
    (token,) = PARSER.parse(sanitise.fence(name, "promql"))
    assert token.type == "fence"
    assert token.content == sanitise.visible(name.strip("\n"), keep="\n").replace("<!--", "<!\\u002d-") + "\n"


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "https://a/b)c",
        "https://a/>x",
        'https://a/"x',
        "//a/b",
        "https://a/b c",
        "data:text/html,x",
    ],
)
def test_odd_addresses_are_no_links(url: str) -> None:
    changed = msgspec.structs.replace(regressed()[0], pull_request=PullRequest(number=1, url=url))
    links = [
        value
        for tag, name, value in structure(markdown.comment(changed, (), page_url=url)).attributes
        if tag == "a"
    ]
    assert links == []


def test_addresses_are_links() -> None:
    made = structure(markdown.comment(*regressed(), page_url="https://ci.example/7/report.html?a=1&b=2"))
    links = [value for tag, _, value in made.attributes if tag == "a"]
    assert links == ["https://github.com/shop/models/pull/412", "https://ci.example/7/report.html?a=1&b=2"]


@pytest.mark.parametrize("name", CASES)
def test_all_details_are_closed_and_all_rows_whole(name: str) -> None:
    found = structure(markdown.comment(*CASES[name](), revert="git revert x"))
    assert found.tags.count("details ") == found.tags.count("/details")
    rows = re.split("/tr", "\n".join(found.tags))[:-1]
    assert {len(re.findall(r"^t[dh] ", row, re.MULTILINE)) for row in rows} == {7}


STATES = list(product(*map(get_args, (verdicts.State, verdicts.Comparison, verdicts.Test))))


@pytest.mark.parametrize(("state", "comparison", "test"), STATES)
def test_every_state_is_said(
    state: verdicts.State, comparison: verdicts.Comparison, test: verdicts.Test
) -> None:
    extra = {"reason": "too_many_gaps"} if state == "inconclusive" else {}
    decided = {"decided_at": ROLLOUT.started_at} if state == "pending" else {}
    rollout = None if comparison == "watch" else ROLLOUT
    one = metric("latency-p99", state, 0.041, 0.268, test=test, **extra)
    judged = verdict(state, (one,), comparison=comparison, rollout=rollout, **extra, **decided)
    alert = {
        "regressed": "CAUTION",
        "improved": "TIP",
        "unchanged": "NOTE",
        "pending": "NOTE",
        "inconclusive": "WARNING",
    }
    made = markdown.comment(judged, (plot("latency-p99"),), revert="git revert x")
    terminal = text.report(judged, (), colour=False)
    assert made.startswith(f"> [!{alert[state]}]\n> **")
    assert ("git revert" in made) == (state == "regressed")
    for form in (made, terminal):
        assert "41 ms" in form
        assert "52 ms" in form
        assert "+26.8 %" in form
        assert ("stable" in form.split("\n\n")[0]) == (comparison == "canary")
        assert test == "level" or test in form
        assert judged.outcome in form
    if state == "pending":
        assert "decided at 2026-11-21 10:00 UTC" in made
    if state == "inconclusive":
        assert "too many of its samples are missing" in made.split("\n\n")[0]


@pytest.mark.parametrize("reason", get_args(verdicts.Reason))
def test_every_reason_is_said_with_what_comes_next(reason: verdicts.Reason) -> None:
    judged = verdict("inconclusive", (metric("x", "inconclusive", None, None, reason=reason),), reason=reason)
    for form in (markdown.comment(judged, ()), text.report(judged, (), colour=False)):
        assert words.reason(judged) in " ".join(form.split())
        assert " ".join(form.split()).count("It is decided") == 1


STATE_PAIRS: list[verdicts.State] = ["regressed", "unchanged"] * 20


def many() -> Verdict:
    metrics = [
        metric(f"metric-{index}-{test}", state, 0.04, 0.3, test=test, queries=(f"{index}" * 900,))
        for index, (state, test) in enumerate(product(STATE_PAIRS, get_args(verdicts.Test)))
    ]
    return verdict("regressed", metrics, other_rollouts=(OTHER,) * 200)


@pytest.mark.parametrize("budget", [12_000, 20_000, 40_000, 60_000, 10**6])
def test_what_does_not_fit_is_left_out_whole_and_said(budget: int) -> None:
    made = markdown.comment(
        many(), (plot("metric-0-level"),), budget=budget, revert="git revert x", page_url="https://a/b"
    )
    assert len(made) <= budget
    assert "and 59 more metrics got worse" in made
    assert "Revert it with" in made
    found = structure(made)
    assert found.tags.count("details ") == found.tags.count("/details")
    named = re.search(
        r"^Left out, as this comment would be too long: (.*)\. The \[full report]", made, re.MULTILINE
    )
    assert bool(named) == (budget < 10**6)
    for section, mark in {
        "the PromQL of further metrics": "PromQL of the others",
        "windows and counts": "Windows and counts",
        "unchanged metrics": "Unchanged metrics",
        "the chart": "```mermaid",
        "further metrics": "45 more",
    }.items():
        left_out = named is not None and section in named[1].split(", ")
        assert left_out != (mark in made)


def test_the_longest_names_fit_the_smallest_budget() -> None:
    made = markdown.comment(named("\U0001f525" * 253), (), budget=markdown.SMALLEST_BUDGET)
    assert len(made) <= markdown.SMALLEST_BUDGET
    with pytest.raises(ValueError, match="12000 characters, not 500"):
        markdown.comment(named("x"), (), budget=500)


CHART = re.compile(
    r'%%\{init: \{"xyChart": \{"width": \d+, "height": \d+\}, "themeVariables": \{"xyChart": \{"plotColorPalette": '
    r'"(?P<palette>#[0-9a-f]{6}(?:, #[0-9a-f]{6})*)"\}\}\}\}%%\n'
    r"xychart-beta\n"
    r'    title "[A-Za-z0-9._-]{1,63}"\n'
    r'    x-axis "minutes from the (?:release|end)" -?[\d.]+ --> -?[\d.]+\n'
    r'    y-axis "[A-Za-z0-9/%^µ -]+" -?[\d.]+ --> -?[\d.]+\n'
    r"(?P<lines>(?:    line \[-?\d+(?:\.\d+)?(?:, -?\d+(?:\.\d+)?)*\]\n)+)"
)


def charts(comment: str) -> list[re.Match[str]]:
    blocks = [
        token.content for token in PARSER.parse(comment) if token.type == "fence" and token.info == "mermaid"
    ]
    found = [CHART.fullmatch(block) for block in blocks]
    assert all(found)
    return [one for one in found if one]


@pytest.mark.parametrize(
    "plots",
    [
        plot("m"),
        plot("m", "1", 3e-12),
        plot("m", "1", 4e15),
        plot("m", "bytes", 3e9),
        plot("m", "1", -5.0),
        plot("m", "ratio", 0.0),
        plot("m", stable=plot("m").values),
        plot("m", released_at=None),
        plot('x"\n%%{init'),
        plot("m", values=np.where(np.arange(420) % 7 < 3, np.nan, 1.0)),
    ],
)
def test_the_chart_is_what_mermaid_reads(plots: object) -> None:
    name = plots.name  # type: ignore[attr-defined]
    judged = verdict("regressed", (metric(name, "regressed", None, None),))
    (found,) = charts(markdown.comment(judged, (plots,)))  # type: ignore[arg-type]
    lines = [re.findall(r"-?\d+(?:\.\d+)?", line) for line in found["lines"].splitlines()]
    assert len(found["palette"].split(", ")) == len(lines) > 1
    assert {len(line) for line in lines} == {60}
    assert all(float(number) < 1e7 for line in lines for number in line)


def test_the_chart_shows_the_change() -> None:
    (found,) = charts(markdown.comment(*regressed()))
    measured, levels, _ = [
        [float(n) for n in re.findall(r"[\d.]+", line)] for line in found["lines"].splitlines()
    ]
    assert levels == [41.0] * 48 + [pytest.approx(52, abs=0.1)] * 12
    assert min(measured[48:]) > max(measured[:48])
    assert "%%{init" in found[0]


@pytest.mark.parametrize("count", [0, 1])
def test_no_chart_of_less_than_two_points(count: int) -> None:
    full = plot("latency-p99")
    small = {name: getattr(full, name)[:count] for name in ("times", "values", "expected", "low", "high")}
    nothing = {"values": np.full(420, np.nan)}
    for changes in (small, nothing):
        assert charts(markdown.comment(regressed()[0], (plot("latency-p99", **changes),))) == []


def test_colour_is_the_only_difference_in_a_terminal() -> None:
    verdict, plots = regressed()
    coloured = text.report(verdict, plots, colour=True)
    assert "\x1b[1;31mREGRESSED\x1b[0m" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == text.report(verdict, plots, colour=False)


def test_no_metric_at_all() -> None:
    judged = verdict("unchanged", ())
    assert "did not change" in markdown.comment(judged, ())
    assert "did not change" in text.report(judged, (), colour=False)
