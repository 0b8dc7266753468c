"""One comment a model and environment: kept current, never repeated, whatever goes wrong meanwhile."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modelway_runtime.detection.forge import ForgeFailed
from modelway_runtime.detection.publish import compose, publish
from modelway_runtime.detection.verdict import Verdict
from tests.runtime.detection.publish.publish_helpers import (
    app_settings,
    body,
    changed,
    forge,
    later,
    live,
    run,
    settings,
    verdict,
    watched,
)
from tests.support.github import DETECTOR, Answer, Emulator, Fault, GitHub

LIMITED = b'{"message": "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."}'


def test_a_comment_is_made_once_and_updated_after(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    given = settings(github, tmp_path)
    first = run(given, verdict(sha, number))
    again = run(given, verdict(sha, number))
    after = run(given, verdict(sha, number, state="unchanged", **later(5)))
    assert (first.comment, again.comment, after.comment) == ("created", "unchanged", "updated")
    (comment,) = github.comments(number)
    assert comment["user"]["login"] == DETECTOR
    marker, text = comment["body"].split("\n", 1)
    assert marker.startswith(
        "<!-- modelway key=verdict/prod/search/ranker run=prod-search-ranker-1005 at=2026-11-21T11:05:00Z"
    )
    assert text == body(verdict(sha, number, state="unchanged", **later(5)))


def test_an_equal_verdict_writes_nothing(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    run(settings(github, tmp_path), verdict(sha, number))
    github.requests.clear()
    run(settings(github, tmp_path), verdict(sha, number))
    assert [each for each in github.requests if not each.startswith("GET")] == []


def test_an_older_run_changes_nothing(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    given = settings(github, tmp_path)
    run(given, verdict(sha, number, state="unchanged", **later(5)))
    late = run(given, verdict(sha, number, state="regressed"), "rollback")
    assert late.comment == "older"
    assert "unchanged" in live(github, number)[0]
    assert github.labels(number) == {"modelway:unchanged"}
    assert len(github.pulls()) == 1


def test_a_later_verdict_that_comes_meanwhile_is_not_overwritten(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    given = settings(github, tmp_path)
    run(given, verdict(sha, number, state="unchanged", **later(5)))
    github.faults.append(Fault("GET .*/comments", change=lambda *_: (200, {}, b"[]")))  # it came after
    assert run(given, verdict(sha, number)).comment == "older"
    assert "unchanged" in live(github, number)[0]


def test_models_and_environments_have_their_own(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    given = settings(github, tmp_path)
    for fields in ({}, {"model": "encoder"}, {"environment": "dev"}, {"team": "ads"}):
        run(given, verdict(sha, number, **fields))
    assert len(live(github, number)) == 4


def test_a_marker_of_another_author_is_no_comment_of_ours(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    given = settings(github, tmp_path)
    run(given, verdict(sha, number, **later(60)))
    forged = live(github, number)[0]
    other, other_number = changed(github, "other")
    github.comment(other_number, forged, github.other_token)
    assert run(given, verdict(other, other_number)).comment == "created"
    bodies = [(each["user"]["login"], each["body"]) for each in github.comments(other_number)]
    assert bodies[0] == ("mallory", forged)
    assert bodies[1][0] == DETECTOR


def test_a_marker_below_the_first_line_is_text(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    given = settings(github, tmp_path)
    run(given, verdict(sha, number))
    github.ask(
        "PATCH",
        f"issues/comments/{github.comments(number)[0]['id']}",
        {"body": "see\n" + live(github, number)[0]},
    )
    assert run(given, verdict(sha, number)).comment == "created"


@pytest.mark.parametrize(
    ("policy", "state", "made"),
    [
        ("always", "inconclusive", True),
        ("changed", "improved", True),
        ("changed", "unchanged", False),
        ("regressed", "improved", False),
        ("regressed", "regressed", True),
    ],
)
def test_the_policy_says_whether_a_comment_is_made(
    github: GitHub, tmp_path: Path, policy: str, state: str, made: bool
) -> None:
    sha, number = changed(github)
    given = settings(github, tmp_path, comment=policy)
    assert run(given, verdict(sha, number, state=state)).comment == ("created" if made else "none")
    assert len(live(github, number)) == made


def test_a_comment_that_stands_is_kept_current_whatever_the_policy(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    given = settings(github, tmp_path, comment="regressed")
    run(given, verdict(sha, number))
    assert run(given, verdict(sha, number, state="unchanged", **later(5))).comment == "updated"
    assert "unchanged" in live(github, number)[0]


def test_twenty_runs_at_once_leave_one_comment(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    given = settings(github, tmp_path)
    _inject(github, 3)
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda _: run(given, verdict(sha, number), "rollback"), range(20)))
    run(given, verdict(sha, number), "rollback")  # a restart
    assert len(live(github, number)) == 1
    assert github.comments(number)[0]["body"] == live(github, number)[0]  # the lowest id
    assert all("state=duplicate" in each["body"] for each in github.comments(number)[1:])
    assert len(github.pulls()) == 2  # the change, and one that reverts it
    assert github.labels(number) == {"modelway:regressed"}


def test_of_runs_at_once_the_latest_verdict_stands(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    given = settings(github, tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda at: run(given, verdict(sha, number, **later(at))), range(8)))
    run(given, verdict(sha, number, **later(7)))
    assert len(live(github, number)) == 1
    assert "run=prod-search-ranker-1007 " in live(github, number)[0]


def _inject(github: GitHub, times: int) -> None:
    soon = {"Retry-After": "0"}
    github.faults += [
        Fault("POST .*/comments", times=times, status=403, headers=soon, body=LIMITED),
        Fault("POST .*/comments", times=times, status=502, after=True),
        Fault("GET .*/comments", times=times, status=429, headers=soon),
        Fault("(PATCH|POST) .*", times=times, status=500),
        Fault("GET .*", times=times, status=503, body=b"<html>busy</html>"),
        Fault("GET .*", times=times, cut=True),
    ]


def test_a_lost_answer_makes_no_second_comment(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    github.faults.append(Fault("POST .*/comments", status=502, after=True))
    assert run(settings(github, tmp_path), verdict(sha, number)).comment == "created"
    assert len(live(github, number)) == 1
    assert "this comment](#issuecomment-" in github.comments(number)[1]["body"]


def test_what_a_run_that_was_killed_left_is_mended(github: GitHub, tmp_path: Path) -> None:
    """Two live comments, the newer verdict in the one with the higher id; then a run with an older one."""
    sha, number = changed(github)
    given = settings(github, tmp_path)
    run(given, verdict(sha, number, **later(1)))
    newest = verdict(sha, number, **later(9))
    github.comment(number, compose(newest, body(newest)))
    assert run(given, verdict(sha, number, **later(5))).comment == "older"
    run(given, newest)
    assert len(live(github, number)) == 1
    assert "run=prod-search-ranker-1009 " in github.comments(number)[0]["body"]


def test_a_pointer_that_is_alone_becomes_the_comment(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    given = settings(github, tmp_path)
    run(given, verdict(sha, number))
    comment = github.comments(number)[0]
    github.ask(
        "PATCH",
        f"issues/comments/{comment['id']}",
        {"body": comment["body"].replace("state=regressed", "state=duplicate")},
    )
    run(given, verdict(sha, number))
    assert len(live(github, number)) == 1


def test_a_long_body_loses_its_last_sections_and_says_so(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    given = settings(github, tmp_path)
    long = "\n".join(
        f"<details><summary>part {n}</summary>\n\n```\n{'x' * 20_000}\n```\n</details>" for n in range(5)
    )

    def of(_: Verdict) -> str:
        return f"HEADER\n\n{long}\n\nFOOTER"

    publish(forge(given), given, watched(), verdict(sha, number), of)
    (written,) = live(github, number)
    assert len(written) <= 65_536
    assert "left out: `part 3`; `part 4`" in written.split("\n")[2]
    assert "HEADER" in written
    assert "FOOTER" in written
    assert written.count("<details>") == written.count("</details>") == 3


def test_a_long_text_without_sections_is_cut_with_its_fence_closed(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    given = settings(github, tmp_path)
    publish(
        forge(given),
        given,
        watched(),
        verdict(sha, number),
        lambda _: "HEADER\n```\n" + "x\n" * 60_000 + "```\n",
    )
    (written,) = live(github, number)
    assert 60_000 < len(written) <= 65_536
    assert "the end of the text" in written
    assert written.endswith("\n```")


def test_pages_without_end_are_an_error(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    for _ in range(3):
        github.comment(number, "hello")
    lie = {"link": '<http://localhost/next>; rel="next"'}
    github.faults.append(
        Fault(
            "GET .*/comments",
            times=1000,
            change=lambda path, answer: (
                (answer[0], lie, answer[2]) if "?page=1&" in path else (200, lie, b'[{"id": 7}]')
            ),
        )
    )
    with pytest.raises(ForgeFailed, match="same page"):
        run(settings(github, tmp_path), verdict(sha, number))
    assert len(github.requests) < 10


def test_ever_new_pages_are_an_error(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    lie = {"link": '<http://localhost/next>; rel="next"'}
    ids = iter(range(10**6))
    github.faults.append(
        Fault("GET .*/comments", times=1000, change=lambda *_: (200, lie, b'[{"id": %d}]' % next(ids)))
    )
    with pytest.raises(ForgeFailed, match="does not end"):
        run(settings(github, tmp_path), verdict(sha, number))


def test_an_empty_page_is_not_the_end_and_a_next_of_nothing_is(github: GitHub, tmp_path: Path) -> None:
    """Our comment stands behind a page that is empty; without it a second one would be made."""
    sha, number = changed(github)
    given = settings(github, tmp_path)
    run(given, verdict(sha, number))
    lie = {"link": '<http://localhost/next>; rel="next"'}

    def change(path: str, _: Answer) -> Answer:
        page = github.comments(number) if "?page=2&" in path else []
        return 200, lie, json.dumps(page).encode()

    github.faults.append(Fault("GET .*/comments", times=1000, change=change))
    assert run(given, verdict(sha, number)).comment == "unchanged"


@pytest.mark.parametrize("answer", [b"{}", b'"text"', b"[1]", b"<html>", b'[{"id": "x"}]'])
def test_answers_that_are_none_are_an_error(github: GitHub, tmp_path: Path, answer: bytes) -> None:
    sha, number = changed(github)
    github.faults.append(Fault("GET .*/comments", times=1000, change=lambda *_: (200, {}, answer)))
    with pytest.raises(ForgeFailed, match="not what its API promises"):
        run(settings(github, tmp_path), verdict(sha, number))
    assert github.comments(number) == []


def test_an_app_writes_as_its_bot(running: Emulator, github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    given = app_settings(github, tmp_path, running.private_key)
    first, again = run(given, verdict(sha, number)), run(given, verdict(sha, number))
    assert (first.comment, again.comment) == ("created", "unchanged")
    assert first.problems == ()
    assert [each["user"]["login"] for each in github.comments(number)] == ["modelway-detector[bot]"]


def test_without_a_pull_request_only_the_commit_is_marked(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    done = run(settings(github, tmp_path), verdict(sha, None))
    assert (done.comment, done.check, done.label) == ("none", "created", None)
    assert github.comments(number) == []
