"""From a rollout to its commit and pull request, with real commits."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from modelway_runtime.detection import cause
from modelway_runtime.detection.settings import ArgoCd
from modelway_runtime.detection.verdict import Commit, PullRequest
from tests.runtime.detection.publish.publish_helpers import FOLDER, forge, rollout, settings
from tests.support.github import Answer, Fault, GitHub

Found = tuple[Commit | None, PullRequest | None]
TOKEN = "argo-secret-token"


def find(
    github: GitHub, folder: Path, started_at: datetime, argocd: ArgoCd | None = None, model: str = "ranker"
) -> Found:
    given = settings(github, folder)
    return cause.find(forge(given), given, argocd, rollout(started_at), "prod", "search", model)


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


def change(github: GitHub, branch: str, model: str, method: str = "squash") -> tuple[str, int]:
    github.commit({f"generated/prod/search/{model}/{branch}.yaml": "x\n"}, on=branch)
    number = github.pull(branch)
    return github.merge(number, method), number


@pytest.mark.parametrize("method", ["squash", "merge"])
def test_the_right_one_of_several(github: GitHub, tmp_path: Path, method: str) -> None:
    change(github, "first", "ranker", method)
    sha, number = change(github, "second", "ranker", method)
    change(github, "third", "encoder", method)
    change(github, "fourth", "ranker-lite", method)
    commit, pull = find(github, tmp_path, soon())
    assert commit == Commit(sha=sha, found_by="history")
    assert pull is not None
    assert pull.number == number
    assert pull.url.endswith(f"/{github.name}/pull/{number}")


def test_not_later_than_the_start(github: GitHub, tmp_path: Path) -> None:
    sha = github.commit({f"{FOLDER}/a.yaml": "1"}, date="2026-11-20T08:00:00Z")
    github.commit({f"{FOLDER}/a.yaml": "2"}, date="2026-11-20T09:00:00Z")
    commit, pull = find(github, tmp_path, datetime(2026, 11, 20, 8, 30, tzinfo=UTC))
    assert commit == Commit(sha=sha, found_by="history")
    assert pull is None


def test_an_old_commit_that_was_merged_too_late_is_no_cause(github: GitHub, tmp_path: Path) -> None:
    start = datetime.now(UTC) - timedelta(minutes=10)
    before, within = (f"{start - timedelta(minutes=at):%Y-%m-%dT%H:%M:%SZ}" for at in (60, 30))
    sha = github.commit({f"{FOLDER}/a.yaml": "1"}, date=before)
    github.commit({f"{FOLDER}/b.yaml": "2"}, on="late", date=within)
    github.merge(github.pull("late"), "merge")
    commit, pull = find(github, tmp_path, start)
    assert commit == Commit(sha=sha, found_by="history")
    assert pull is None


def test_a_commit_of_a_merged_branch_gives_the_merge_commit(github: GitHub, tmp_path: Path) -> None:
    """GitHub's history of a folder names the commit of the branch; the merge commit is what can be reverted."""
    merge, number = change(github, "feature", "ranker", "merge")

    def without_merge(_: str, answer: Answer) -> Answer:
        listed = [each for each in json.loads(answer[2]) if each["sha"] != merge]
        return answer[0], answer[1], json.dumps(listed).encode()

    github.faults.append(Fault(r"GET /repos/[^/]+/[^/]+/commits\?", change=without_merge))
    commit, pull = find(github, tmp_path, soon())
    assert commit == Commit(sha=merge, found_by="history")
    assert pull is not None
    assert pull.number == number


def test_the_merge_commit_tells_where_the_forge_names_none(github: GitHub, tmp_path: Path) -> None:
    sha, number = change(github, "feature", "ranker")
    change(github, "other", "encoder")
    github.faults.append(Fault("GET .*/commits/[0-9a-f]+/pulls", change=lambda *_: (200, {}, b"[]")))
    commit, pull = find(github, tmp_path, soon())
    assert commit == Commit(sha=sha, found_by="history")
    assert pull is not None
    assert pull.number == number


def test_nothing_is_found_where_nothing_is(github: GitHub, tmp_path: Path) -> None:
    assert find(github, tmp_path, soon()) == (None, None)
    given = settings(github, tmp_path, branch="trunk")
    assert cause.find(forge(given), given, None, rollout(soon()), "prod", "search", "ranker") == (None, None)


def test_a_hostile_name_is_only_a_folder(github: GitHub, tmp_path: Path) -> None:
    change(github, "feature", "ranker")
    assert find(github, tmp_path, soon(), model="../../prod?sha=main&x=#") == (None, None)


@contextmanager
def argocd_answers(
    status: int, application: Any, folder: Path, name: str = "shop-prod"
) -> Iterator[tuple[ArgoCd, list[str]]]:
    """An Argo CD API that gives one application to whoever has the token."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            body = application if isinstance(application, bytes) else json.dumps(application).encode()
            self.send_response(status if allowed else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    (folder / "argocd").write_text(TOKEN)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        yield ArgoCd(url=url, application=name, token_file=str(folder / "argocd")), asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def at(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_argocd_tells_what_was_synced_when_it_started(github: GitHub, tmp_path: Path) -> None:
    """Later commits of the folder are not yet synced; the synced one itself changed another model."""
    sha, number = change(github, "first", "ranker")
    synced, _ = change(github, "other", "encoder")
    after, _ = change(github, "second", "ranker")
    start = soon()
    history = [
        {"revision": "0" * 40, "deployedAt": at(start - timedelta(days=1))},
        {
            "revision": synced,
            "deployStartedAt": at(start - timedelta(minutes=1)),
            "deployedAt": at(start + timedelta(hours=1)),
        },
        {"revision": after, "deployedAt": at(start + timedelta(minutes=30))},
    ]
    application = {"status": {"sync": {"revision": after}, "history": history}}
    with argocd_answers(200, application, tmp_path) as (argocd, asked):
        commit, pull = find(github, tmp_path, start, argocd)
    assert asked == ["/api/v1/applications/shop-prod"]
    assert commit == Commit(sha=sha, found_by="argocd")
    assert pull is not None
    assert pull.number == number


@pytest.mark.parametrize(
    ("name", "model", "path"),
    [
        ("prod-{team}-{model}", "ranker", "prod-search-ranker"),
        ("prod-{team}", "ranker", "prod-search"),
        ("{model}", "../../x?y#z", "..%2F..%2Fx%3Fy%23z"),
    ],
)
def test_argocd_is_asked_for_the_application_of_the_model(
    github: GitHub, tmp_path: Path, name: str, model: str, path: str
) -> None:
    with argocd_answers(404, {}, tmp_path, name) as (argocd, asked):
        find(github, tmp_path, soon(), argocd, model)
    assert asked == [f"/api/v1/applications/{path}"]


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (403, {}),
        (500, {}),
        (200, b"<html>"),
        (200, {}),
        (200, {"status": {"sync": {"revision": "v1.2; rm -rf"}}}),
    ],
)
def test_argocd_that_does_not_tell_is_done_without(
    github: GitHub, tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int, answer: Any
) -> None:
    sha, _ = change(github, "first", "ranker")
    with argocd_answers(status, answer, tmp_path) as (argocd, _):
        commit, _ = find(github, tmp_path, soon(), argocd)
    assert commit == Commit(sha=sha, found_by="history")
    assert "history of the main branch is used instead" in caplog.text
    assert TOKEN not in caplog.text
