from __future__ import annotations

import re
import subprocess
from pathlib import Path

import html5lib
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings

from modelway_runtime.detection import sanitise
from modelway_runtime.detection.report import html, words
from modelway_runtime.detection.verdict import PullRequest, from_json, to_json
from tests.runtime.detection.report.examples import CASES, metric, plot, regressed, verdict
from tests.runtime.detection.report.test_markdown import HOSTILE, NAMES, Structure, named
from tests.support.tools import require_tool

ROOT = Path(__file__).parents[4]
SAFE = {"https://github.com/shop/models/pull/412"}


def valid(page: str) -> Structure:
    """Raises for what is no HTML; the page must not ask for anything from elsewhere."""
    html5lib.HTMLParser(strict=True).parse(page)
    found = Structure(page)
    assert not {"script", "iframe", "object", "embed", "form", "base", "img", "image", "style src"} & {
        tag.split(" ")[0] for tag in found.tags
    }
    for tag, name, value in found.attributes:
        assert not name.startswith("on")
        if name in ("src", "srcset", "action", "data", "poster", "background"):
            pytest.fail(f"{tag} {name}={value}")
        if name in ("href", "xlink:href"):
            assert value.startswith("#") or value == "data:," or (tag == "a" and value in SAFE), value
        if name == "style":
            assert not re.search(r"url\((?!#)", value)
    style = page[page.index("<style>") : page.index("</style>")]
    assert not re.search(r"url\(|@import|https?:", style)
    ids = [value for _, name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_page_is_whole_by_itself(case: str) -> None:
    judged, plots = CASES[case]()
    page = html.page(judged, plots)
    found = valid(page)
    assert words.headline(judged, sanitise.name) in found.text
    assert found.tags.count("figure ") == len(plots)
    for picture in re.findall(r"<svg xmlns.*?</svg>", page, re.DOTALL):
        assert 'role="img"' in picture
        assert re.search(r"<title id=.*?</title>\s*<desc id=", picture)
    assert all("scope" in tag for tag in found.tags if tag.startswith("th "))
    for metric_ in judged.metrics:
        assert words.value(metric_.before, metric_.unit) in found.text
        assert all(query in found.text for query in metric_.queries)
    document = re.search(r"<pre><code>(\{.*?\n\})\s*</code></pre>", page, re.DOTALL)
    assert document
    assert from_json(Structure(document[1]).text.encode()) == judged


def test_the_same_verdict_gives_the_same_page() -> None:
    assert html.page(*regressed()) == html.page(*regressed())


def test_the_policy_forbids_all_but_inline_styles() -> None:
    page = html.page(*regressed())
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert set(rules) == {"default-src", "style-src", "img-src", "base-uri", "form-action"}
    assert page.index("Content-Security-Policy") < page.index("<style>")


HARMLESS = Structure(html.page(named("ranker"), ()))


@given(NAMES)
@settings(deadline=None, max_examples=100)
def test_names_end_as_text(name: str) -> None:
    found = Structure(html.page(named(name), ()))
    assert found.tags == HARMLESS.tags
    assert found.text.count(sanitise.name(name)) >= 5
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00]", found.text)


def test_hostile_names_in_pictures() -> None:
    for name in HOSTILE[:6]:
        found = valid(html.page(named(name), (plot(name),)))
        assert found.tags.count("figure ") == 1


@pytest.mark.parametrize("url", ["javascript:alert(1)", 'https://a/"onclick=x', "data:text/html,x", "//a/b"])
def test_odd_addresses_are_no_links(url: str) -> None:
    judged = msgspec.structs.replace(regressed()[0], pull_request=PullRequest(number=7, url=url))
    found = valid(html.page(judged, ()))
    assert "pull request 7" in found.text


def test_unchanged_metrics_are_folded_and_counted() -> None:
    page = html.page(*regressed())
    assert "<h2>2 unchanged</h2>" in page
    told, folded = page.split("<h2>2 unchanged</h2>")
    assert "<span>throughput</span>" in told
    assert "<span>memory</span>" in folded
    assert "<details>\n<summary>Show the unchanged" in folded


def test_many_metrics_and_none() -> None:
    names = [f"metric-{index}" for index in range(40)]
    judged = verdict("regressed", [metric(name, "regressed", 0.04, 0.3) for name in names])
    found = valid(html.page(judged, [plot(name) for name in names[:3]]))
    assert all(name in found.text for name in names)
    assert "No metric was judged" in valid(html.page(verdict("unchanged", ()), ())).text


def test_the_bar_stands_where_the_effect_is() -> None:
    metrics = [
        metric("a", "regressed", 1.0, 0.94),
        metric("b", "improved", 1.0, -0.25),
        metric("c", "pending", None, None),
    ]
    big, small, none = html._bars(metrics)
    assert big is not None
    assert small is not None
    assert none is None
    assert big.high == 100  # 0.94 + 0.06 is the largest
    assert small.at == -50  # the root of a quarter
    assert small.low < small.at < small.high < 0


def contrast(one: str, other: str) -> float:
    """By WCAG 2.2, relative luminance."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(char * 2 for char in colour[1:])
        parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_in_light_and_dark() -> None:
    css = (Path(html.__file__).parent / "templates" / "page.css.j2").read_text()
    light, dark = (
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6})", part)) for part in css.split("@media (prefers")[:2]
    )
    for theme in (light, light | dark):
        text = [
            ("ink", "card"),
            ("ink", "bg"),
            ("muted", "card"),
            ("muted", "bg"),
            ("link", "card"),
            ("ink", "code"),
            ("plot-muted", "card"),
        ]
        text += [(state, f"{state}-bg") for state in html.MARKS]
        for front, back in text:
            assert contrast(theme[front], theme[back]) >= 4.5, (front, back)
        for line in ("plot-values", "plot-level", "plot-release", "plot-stable", "plot-change"):
            assert contrast(theme[line], theme["card"]) >= 3, line
            assert contrast(theme[line], theme["plot-band"]) >= 2.4, line


def chromium(page: Path, profile: Path) -> tuple[str, str]:
    """What the document became, and what its console and log said."""
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND",
        "--enable-logging=stderr", f"--user-data-dir={profile}", "--dump-dom",
    ]  # fmt: skip
    done = subprocess.run(
        ["chromium", *flags, page.as_uri()], capture_output=True, text=True, timeout=90, check=True
    )
    return done.stdout, done.stderr


def test_a_browser_shows_it_offline_without_a_complaint(tmp_path: Path) -> None:
    require_tool("chromium", "chromium")
    page = tmp_path / "page.html"
    made = html.page(*regressed())
    page.write_text(made, encoding="utf-8")
    shown, said = chromium(page, tmp_path / "profile")
    assert "CONSOLE" not in said
    assert "got worse: the spread of latency-p99" in shown
    assert shown.count("<figure>") == 3
    # And it would have been heard: the policy of the page refuses what somebody adds.
    page.write_text(
        made.replace("</main>", "<img src='https://evil.example/x.png'></main>"), encoding="utf-8"
    )
    _, said = chromium(page, tmp_path / "profile")
    assert "CONSOLE" in said
    assert "Content Security Policy" in said


def test_the_example_of_the_schema() -> None:
    judged = from_json((ROOT / "policies" / "schemas" / "examples" / "verdict-v1.json").read_bytes())
    assert to_json(judged).decode().strip() in Structure(html.page(judged, ())).text
