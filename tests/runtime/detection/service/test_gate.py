"""The gate over HTTP, asked as Argo Rollouts asks it, of a real Prometheus."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.runtime.detection.service.processes import BASIC, BEARER, Running, proxy, staying
from tests.runtime.detection.service.shop_past import CANARY_SINCE, NEW, OLD, TOKEN, TOKENS, settings, write
from tests.support.prometheus import Server
from tests.support.serving import ask

Json = dict[str, Any]


@pytest.fixture(scope="module")
def gate(shop: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("gate")
    with staying(folder, "gate", "--settings", write(folder, settings(folder, shop.url))) as running:
        yield running


def question(model: str = "sorter", **changes: Any) -> Json:
    return {
        "environment": "prod",
        "namespace": "search-prod",
        "model": model,
        "canary_hash": NEW,
        "stable_hash": OLD,
        "started_at": None,
        "metrics": [],
        **changes,
    }


def answer(gate: Running, **changes: Any) -> Json:
    got = gate.ask(question(**changes))
    assert got.status == 200, got.body
    assert set(got.json) == {"outcome", "state", "reason", "verdict"}
    return dict(got.json)


def test_a_slow_canary_fails_and_a_good_one_succeeds(gate: Running) -> None:
    slow, good = answer(gate, model="sorter"), answer(gate, model="mixer")
    assert (slow["outcome"], slow["state"], slow["reason"]) == ("failure", "regressed", "")
    assert (good["outcome"], good["state"]) == ("success", "unchanged")
    assert re.fullmatch(
        r"A change of ±.* would have been seen by 1 canary pod beside 4 stable pods\.", good["reason"]
    )
    assert slow["verdict"].startswith("https://detector.shop.example/v1/verdicts/prod-search-sorter-canary-")


def test_only_the_patterns_that_are_named_are_judged(gate: Running) -> None:
    assert answer(gate, model="sorter", metrics=["errors"])["outcome"] == "success"
    assert answer(gate, model="sorter", metrics=["errors", "latency-p50"])["outcome"] == "failure"


def test_what_argo_sends_has_no_start(gate: Running) -> None:
    """The AnalysisTemplate of the compiler leaves ``started_at`` out."""
    sent = question("sorter")
    del sent["started_at"]
    assert gate.ask(sent).json["outcome"] == "failure"


def test_a_start_that_is_given_is_used(gate: Running) -> None:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(CANARY_SINCE + 240))
    told = answer(gate, started_at=at)
    identity = told["verdict"].rsplit("/", 1)[1]
    assert identity.endswith(str(int(CANARY_SINCE + 240)))
    found = gate.get(f"/v1/verdicts/{identity}", {**BEARER, "Accept": "application/json"}).json
    assert found["rollout"]["started_at"] == at
    assert found["sensitivity"] == "low"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "nobody"}, "nobody in search-prod is not watched"),
        ({"namespace": "ads-prod"}, "the token is that of search-prod, not of ads-prod"),
        ({"environment": "staging"}, "this detector watches prod, not staging"),
        ({"metrics": ["latency-p50", "nonsense"]}, "has no pattern nonsense"),
        ({"stable_hash": NEW}, "not two pod template hashes"),
        ({"stable_hash": ""}, "not two pod template hashes"),
        ({"canary_hash": "never0seen"}, "no sample yet"),
        ({"started_at": "2126-11-21T10:00:00Z"}, "by its first sample, not at 2126-11-21T10:00Z"),
        ({"canary_hash": OLD, "stable_hash": NEW}, f"the pods {OLD} are no canary: {NEW} began after them"),
        ({"canary_hash": OLD, "stable_hash": NEW, "model": "mixer"}, "are no canary"),
        ({"stable_hash": "never0seen"}, "the stable pods have no sample"),
        ({"model": "ranker"}, "are not the stable ones: they have not run since"),
    ],
)
def test_what_cannot_be_judged_is_inconclusive_with_the_reason(
    gate: Running, changes: Json, words: str
) -> None:
    told = answer(gate, **changes)
    assert (told["outcome"], told["state"], told["verdict"]) == ("inconclusive", "inconclusive", "")
    assert words in told["reason"]


HOSTILE = [
    '<script>alert("x")</script>', '"} or up{job=~".*', "{{ 7*7 }}", "a' OR 1=1 --", "$(id)", "@everyone",
    "\u202egnp.exe", "\x00\x1b[2J", "../../etc/passwd", "ÿ" * 253,
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_data(gate: Running, name: str) -> None:
    for changes in ({"model": name}, {"namespace": name}, {"environment": name}, {"metrics": [name]}):
        told = answer(gate, **changes)
        assert told["outcome"] == "inconclusive"
        assert not re.search("[\x00-\x1f\u202e]", told["reason"])
    assert gate.ask(question(canary_hash=name)).status == 400
    assert gate.process.poll() is None


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer"},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer \xff\xfe"},
        BASIC,
    ],
)
def test_a_wrong_token_is_told_401(gate: Running, headers: dict[str, str]) -> None:
    for body in (question(), b"no json"):
        got = gate.ask(body, headers)
        assert got.status == 401
        assert got.headers["www-authenticate"] == "Bearer"
        assert TOKEN not in got.body.decode()


def test_the_token_may_be_rotated(shop: Server, tmp_path: Path) -> None:
    file = write(tmp_path, settings(tmp_path, shop.url))
    with staying(tmp_path, "gate", "--settings", file) as running:
        (tmp_path / "search-prod-token").write_text("another")
        assert running.ask(question("nobody")).status == 401
        assert running.ask(question("nobody"), {"Authorization": "Bearer another"}).status == 200
        (tmp_path / "search-prod-token").unlink()  # its own trouble is no error of the release
        told = running.ask(question("sorter"), {"Authorization": "Bearer another"})
        assert (told.status, told.json["outcome"]) == (200, "inconclusive")
        assert running.get("/v1/verdicts", {"Authorization": "Bearer another"}).status == 503
        assert str(tmp_path / "search-prod-token") in running.log()
        assert "another" not in running.log()


def test_a_team_sees_and_asks_of_its_own_namespace_only(gate: Running) -> None:
    """And what it may not is without any effect: no verdict, no line in the log of anomalies."""
    ours = answer(gate, model="sorter")["verdict"].rsplit("/", 1)[1]
    before = len(gate.lines)
    ads = {"Authorization": f"Bearer {TOKENS['ads-prod']}"}
    for changes in ({}, {"canary_hash": OLD, "stable_hash": NEW}):
        told = gate.ask(question("sorter", **changes), ads)
        assert (told.status, told.json["outcome"], told.json["verdict"]) == (200, "inconclusive", "")
        assert "the token is that of ads-prod" in told.json["reason"]
    assert gate.get("/v1/verdicts", ads).json == {"verdicts": []}
    assert gate.get(f"/v1/verdicts/{ours}", ads).status == 404
    assert gate.get(f"/v1/verdicts/{ours}").status == 200
    assert len(gate.lines) == before


def test_swapped_hashes_leave_no_verdict(gate: Running) -> None:
    def listed() -> set[str]:
        return {one["id"] for one in gate.get("/v1/verdicts?limit=1000").json["verdicts"]}

    before, lines = listed(), len(gate.lines)
    for model in ("sorter", "mixer", "ranker", "reader", "encoder"):
        told = answer(gate, model=model, canary_hash=OLD, stable_hash=NEW)
        assert (told["outcome"], told["verdict"]) == ("inconclusive", "")
    assert (listed(), len(gate.lines)) == (before, lines)


def test_two_teams_with_one_token_are_told_so_and_neither_may_ask(shop: Server, tmp_path: Path) -> None:
    file = write(tmp_path, settings(tmp_path, shop.url))
    (tmp_path / "ads-prod-token").write_text(TOKEN)
    with staying(tmp_path, "gate", "--settings", file) as running:
        assert "search-prod and ads-prod cannot ask: they have the same token" in running.log()
        told = running.ask(question("sorter"))
        assert (told.status, told.json["outcome"]) == (200, "inconclusive")
        assert running.get("/v1/verdicts").status == 503
        assert TOKEN not in running.log()


def test_a_team_without_a_token_is_named_at_the_start_and_the_others_may_ask(
    shop: Server, tmp_path: Path
) -> None:
    file = write(tmp_path, settings(tmp_path, shop.url))
    (tmp_path / "ads-prod-token").unlink()
    with staying(tmp_path, "gate", "--settings", file) as running:
        assert "ads-prod cannot ask: the gate's token cannot be read" in running.log()
        assert running.ask(question("sorter")).json["outcome"] == "failure"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'{"environment": "prod"}',
        b"\xff\xfe",
        b"[" * 60_000,
        json.dumps(question(more=1)).encode(),
        json.dumps(question(metrics="errors")).encode(),
        json.dumps(question(metrics=["x"] * 101)).encode(),
        json.dumps(question(model=7)).encode(),
        json.dumps(question(model="x" * 254)).encode(),
        json.dumps(question(started_at="2026-11-21T10:00:00")).encode(),
        json.dumps(question(started_at="yesterday")).encode(),
        json.dumps(question(canary_hash="UPPER")).encode(),
    ],
    ids=range(14),
)
def test_a_body_that_is_no_question_is_told_400(gate: Running, body: bytes) -> None:
    got = gate.ask(body)
    assert got.status == 400
    assert set(got.json) == {"error"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
fields = st.dictionaries(st.sampled_from(sorted(question())), json_values, max_size=3)


@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=200) | fields)
def test_whatever_is_sent_is_answered(gate: Running, body: bytes | Json) -> None:
    sent = body if isinstance(body, bytes) else json.dumps({**question("nobody"), **body}).encode()
    assert gate.ask(sent).status in (200, 400)


def test_a_long_body_is_told_413(gate: Running) -> None:
    assert gate.ask(b" " * (64 * 1024) + b"{}").status == 413
    chunked = b"Transfer-Encoding: chunked\r\n\r\n" + (b"8000\r\n" + b" " * 0x8000 + b"\r\n") * 3
    with socket.create_connection(("127.0.0.1", gate.ports["gate"]), timeout=10) as connection:
        head = f"POST /v1/gate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        connection.sendall(head.encode() + chunked)
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


def test_a_slow_body_and_slow_headers_are_ended(gate: Running) -> None:
    head = (
        f"POST /v1/gate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 100\r\n\r\n"
    )
    began = time.monotonic()
    address = ("127.0.0.1", gate.ports["gate"])
    with (
        socket.create_connection(address, timeout=20) as body,
        socket.create_connection(address, timeout=20) as headers,
    ):
        body.sendall(head.encode() + b"{")
        headers.sendall(b"POST /v1/gate HTTP/1.1\r\n")
        assert body.recv(4096).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - began < 5
        assert headers.recv(4096) == b""
        assert time.monotonic() - began < 15


def test_health_is_told_while_strangers_pipeline(gate: Running) -> None:
    address = ("127.0.0.1", gate.ports["gate"])
    with ExitStack() as stack:
        for _ in range(20):
            line = stack.enter_context(socket.create_connection(address, timeout=10))
            line.setblocking(False)
            with suppress(BlockingIOError):
                line.send(b"GET /v1/verdicts HTTP/1.1\r\n\r\n" * 8000)
        for _ in range(10):
            began = time.monotonic()
            assert ask(gate.ports["gate"], "GET", "/healthz").status == 200
            assert time.monotonic() - began < 2


def test_large_headers_are_refused(gate: Running) -> None:
    with socket.create_connection(("127.0.0.1", gate.ports["gate"]), timeout=10) as connection:
        connection.sendall(b"POST /v1/gate HTTP/1.1\r\nHost: x\r\n")
        for index in range(20):
            time.sleep(0.01)  # what is read at once is counted at once
            try:
                connection.sendall(b"X-%d: %s\r\n" % (index, b"x" * 4000))
            except OSError:
                break
        assert connection.recv(4096).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/gate", 405), ("POST", "/v1/verdicts", 405), ("GET", "/", 404), ("GET", "/v1/verdict", 404),
     ("DELETE", "/healthz", 405), ("GET", "/v1/verdicts/../../etc/passwd", 404)],
)  # fmt: skip
def test_other_paths_and_methods(gate: Running, method: str, path: str, status: int) -> None:
    assert ask(gate.ports["gate"], method, path, None, BEARER).status == status


def test_thirty_at_once_are_one_look(gate: Running) -> None:
    """All within five seconds, and all alike; Prometheus is asked once a minute at most."""

    def once(_: int) -> tuple[float, str]:
        began = time.monotonic()
        told = answer(gate, model="mixer", metrics=["latency-p50"])
        return time.monotonic() - began, told["outcome"]

    def looks() -> int:
        lines = [line for line in gate.lines if line["event"] == "verdict" and line["model"] == "mixer"]
        return len(lines)

    before = looks()
    with ThreadPoolExecutor(30) as pool:
        found = list(pool.map(once, range(30)))
    assert max(took for took, _ in found) < 5
    assert {outcome for _, outcome in found} == {"success"}
    assert looks() - before in (1, 2)  # a minute may have ended meanwhile


def test_the_page_and_the_document_of_a_verdict(gate: Running) -> None:
    path = "/v1/verdicts/" + answer(gate, model="sorter")["verdict"].rsplit("/", 1)[1]
    page = gate.get(path, BASIC)  # a browser
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<svg" in page.body.decode()
    assert "<script" not in page.body.decode()
    document = gate.get(path, {**BEARER, "Accept": "application/json"})
    assert (document.json["model"], document.json["state"]) == ("sorter", "regressed")
    listed = gate.get("/v1/verdicts?limit=1000&model=sorter").json["verdicts"]
    assert path in [one["verdict"] for one in listed]
    assert {one["model"] for one in listed} == {"sorter"}
    assert gate.get("/v1/verdicts?limit=0").status == 400
    for wanted in (path, "/v1/verdicts"):
        refused = gate.get(wanted, {})
        assert refused.status == 401
        assert "Basic" in refused.headers["www-authenticate"]
    assert gate.get("/v1/verdicts/%3Cscript%3E").status == 404
    assert gate.get("/healthz", {}).body == b"ok\n"


@pytest.fixture
def hanging() -> Iterator[str]:
    """A Prometheus that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def hold() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=hold, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for connection in held:
            connection.close()
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def test_a_prometheus_that_hangs_is_inconclusive_within_five_seconds(hanging: str, tmp_path: Path) -> None:
    document = settings(tmp_path, hanging)
    document["prometheus"]["timeout_s"] = 6
    with staying(tmp_path, "gate", "--settings", write(tmp_path, document)) as running:
        began = time.monotonic()
        first = running.ask(question())
        assert time.monotonic() - began < 5
        assert (first.status, first.json["outcome"]) == (200, "inconclusive")
        assert "still looking" in first.json["reason"]
        time.sleep(max(0.0, 7 - (time.monotonic() - began)))  # meanwhile the look has failed
        began = time.monotonic()
        second = running.ask(question())
        assert time.monotonic() - began < 5
        assert second.json["outcome"] == "inconclusive"
        assert "did not answer within" in second.json["reason"]
        began = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - began < 10


def test_a_prometheus_that_is_away_is_inconclusive(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with staying(tmp_path, "gate", "--settings", write(tmp_path, settings(tmp_path, url))) as running:
        told = answer(running)
        assert told["outcome"] == "inconclusive"
        assert "still looking" in told["reason"] or "connection failed" in told["reason"]


def test_a_result_that_came_late_is_kept_for_the_next_ask(shop: Server, tmp_path: Path) -> None:
    """A proxy that answers each query after three seconds: the look takes longer than an ask may."""
    with proxy(shop.url, delay_s=3.0) as url:
        file = write(tmp_path, settings(tmp_path, url))
        with staying(tmp_path, "gate", "--settings", file) as running:
            assert "still looking" in running.ask(question("sorter")).json["reason"]
            end = time.monotonic() + 30
            told = running.ask(question("sorter")).json
            while told["outcome"] == "inconclusive" and time.monotonic() < end:
                told = running.ask(question("sorter")).json
            assert told["outcome"] == "failure"
