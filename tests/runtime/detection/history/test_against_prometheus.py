"""A file and a real Prometheus that has the same samples give the same history."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from modelway_runtime.detection import promapi
from modelway_runtime.detection.evidence import Array, Buckets, Measured, Series
from modelway_runtime.detection.history import HistoryFailed
from modelway_runtime.detection.prometheus import PrometheusHistory
from modelway_runtime.detection.series_files import FileHistory
from modelway_runtime.detection.settings import ClientTls
from tests.runtime.detection.history.history_data import (
    CANARY,
    HOUR,
    STABLE,
    T0,
    VALUES,
    past,
    server,
    watched,
)  # fmt: skip
from tests.runtime.security.certificates import Authority
from tests.support.prometheus import prometheus, series, text

NAMESPACES = ("search-prod", "ads-prod")
HOSTILE = 'a"b\\c\n} or vector(1) # {{ $labels }} <b>é'


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PrometheusHistory, FileHistory]]:
    folder = tmp_path_factory.mktemp("prometheus")
    with prometheus(folder, openmetrics=past()) as running:
        yield (
            PrometheusHistory(server(running.url), NAMESPACES),
            FileHistory(folder / "past.om", watched(), 15.0),
        )


def same(one: Array, other: Array) -> None:
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


def same_buckets(one: Buckets | None, other: Buckets | None) -> None:
    assert (one is None) == (other is None)
    if one and other:
        assert one.bounds.tolist() == other.bounds.tolist()
        same(one.counts, other.counts)


def same_measured(one: Measured, other: Measured) -> None:
    assert (one.name, one.queries, one.series.start) == (other.name, other.queries, other.series.start)
    same(one.series.values, other.series.values)
    same_buckets(one.buckets, other.buckets)
    same_buckets(one.stable_buckets, other.stable_buckets)
    if one.stable and other.stable:
        same(one.stable.values, other.stable.values)


def present(series: Series) -> float:
    return float(np.mean(~np.isnan(series.values)))


def test_release(both: tuple[PrometheusHistory, FileHistory]) -> None:
    asked = watched()
    (load, found), (file_load, file_found) = (
        history.release(asked, list(asked.patterns), T0 - 600.0, T0 + 3 * HOUR + 600) for history in both
    )
    assert load.start == T0 - 600
    assert len(load.values) == 200
    same(load.values, file_load.values)
    for one, other in zip(found, file_found, strict=True):
        same_measured(one, other)
        assert 0.75 < present(one.series) < 0.98, one.name  # the outage and the edges are missing
    by_name = {one.name: one for one in found}
    errors = by_name["errors"].series
    assert (errors.values[errors.index(T0 + 7000) : errors.index(T0 + 7900)] == 0).all()
    late = errors.values[errors.index(T0 + 9000) : errors.index(T0 + 10000)]
    assert 0.1 < np.nanmean(late) < 0.13  # of the 5xx a third more are 429
    quiet = errors.values[errors.index(T0 + 5100) : errors.index(T0 + 5880)]
    assert np.isnan(quiet).all()  # no traffic is no ratio
    assert (load.values[load.index(T0 + 5100) : load.index(T0 + 5880)] == 0).all()
    assert np.nanmax(load.values) < 3 * 40 / 15 * 1.5  # a reset is no peak


def test_a_version_that_changes_is_aggregated_away(both: tuple[PrometheusHistory, FileHistory]) -> None:
    for history in both:
        load, _ = history.release(watched(), [], T0 + 6000, T0 + 3 * HOUR)
        after = load.values[load.index(T0 + 1.6 * HOUR) : load.index(T0 + 2.4 * HOUR)]
        assert np.mean(after) == pytest.approx(3 * 40 / 15, rel=0.1)


def test_canary(both: tuple[PrometheusHistory, FileHistory]) -> None:
    asked = watched()
    results = [
        history.canary(asked, list(asked.patterns), T0 + 1.5 * HOUR, T0 + 3 * HOUR, CANARY, STABLE)
        for history in both
    ]
    (load, stable_load, found), (file_load, file_stable_load, file_found) = results
    same(load.values, file_load.values)
    same(stable_load.values, file_stable_load.values)
    assert np.nanmean(stable_load.values[10:50]) == pytest.approx(2 * np.nanmean(load.values[10:50]), rel=0.1)
    for one, other in zip(found, file_found, strict=True):
        same_measured(one, other)
    by_name = {one.name: one for one in found}
    memory = by_name["memory"]
    assert memory.stable is not None
    assert np.nanmean(memory.series.values) > np.nanmean(memory.stable.values) > 1e9
    assert np.nanmax(memory.series.values) < 2e9  # another container does not count
    gpu = by_name["gpu-memory"]
    assert gpu.stable is not None
    assert np.nanmedian(gpu.series.values) == pytest.approx(6e9)
    assert np.nanmedian(gpu.stable.values[:50]) == pytest.approx(3e9)


def test_buckets_are_new_observations_by_step(both: tuple[PrometheusHistory, FileHistory]) -> None:
    _, (scores,) = both[0].release(watched(), ["scores"], T0 + 300, T0 + 1800)
    assert scores.buckets is not None
    assert tuple(scores.buckets.bounds) == VALUES
    assert scores.buckets.counts.shape == (25, len(VALUES) + 1)
    per_minute = scores.buckets.counts.sum(axis=1)
    assert np.mean(per_minute) == pytest.approx(2 * 2 * 40 * 4, rel=0.1)  # pods, outputs, requests, scrapes
    assert np.median(scores.series.values) == pytest.approx(0.45, abs=0.15)


def test_rollouts(both: tuple[PrometheusHistory, FileHistory]) -> None:
    server_found, file_found = (history.rollouts(T0 + HOUR, T0 + 3 * HOUR) for history in both)
    assert server_found == file_found
    (one,) = server_found
    assert (one.model, one.version, one.hash, one.previous_hash) == ("ranker", "1.1.0", CANARY, STABLE)
    assert one.started_at.timestamp() == T0 + 1.5 * HOUR + 60
    assert all(history.rollouts(T0 + 2 * HOUR, T0 + 3 * HOUR) == () for history in both)


def test_nothing_is_missing_data(both: tuple[PrometheusHistory, FileHistory]) -> None:
    for history in both:
        load, found = history.release(
            watched("no-such", job="no-such"), list(watched().patterns), T0, T0 + HOUR
        )
        assert np.isnan(load.values).all()
        assert all(np.isnan(one.series.values).all() and one.buckets is None for one in found)
        load, _ = history.release(watched(), [], T0, T0)
        assert len(load.values) == 0


def test_classes(tmp_path: Path) -> None:
    def rows(version: str, name: str, each: float, first: int = 0) -> list[str]:
        labels = {
            "namespace": "search-prod",
            "model": "ranker",
            "version": version,
            "output": "y",
            "class": name,
        }
        labels["rollouts_pod_template_hash"] = version
        return series("inference_output_class_total", labels, [
            (T0 + 7 + 15 * i, each * (i - first)) for i in range(first, 120)
        ])  # fmt: skip

    content = text(rows("a", "2", 3), rows("a", "10", 1), rows("b", "2", 1), rows("b", "other", 3, 60))
    with prometheus(tmp_path / "p", openmetrics=content) as running:
        histories = (
            PrometheusHistory(server(running.url), NAMESPACES),
            FileHistory(tmp_path / "p" / "past.om", watched(), 15.0),
        )
        for history in histories:
            _, _, (one,) = history.canary(watched(), ["scores"], T0 + 120, T0 + 1740, "b", "a")
            assert one.buckets is not None
            assert one.stable_buckets is not None
            assert one.stable is not None
            assert one.buckets.bounds.tolist() == [0.0, 1.0]  # 2, 10, other
            np.testing.assert_allclose(one.stable_buckets.counts[-1], [12, 4, 0], rtol=1e-6)
            np.testing.assert_allclose(one.buckets.counts[-1], [4, 0, 12], rtol=1e-6)
            assert one.stable.values[-1] == pytest.approx(0.75)  # of class 2, the most frequent of both
            assert one.series.values[-1] == pytest.approx(0.25)
            assert one.series.values[0] == pytest.approx(1.0)


def test_hostile_labels_are_data(tmp_path: Path) -> None:
    labels = {
        "namespace": "search-prod",
        "model": HOSTILE,
        "version": HOSTILE,
        "method": "infer",
        "code": "200",
    }
    ready = {name: labels[name] for name in ("namespace", "model", "version")}
    ready["rollouts_pod_template_hash"] = HOSTILE
    content = text(
        series("inference_requests_total", labels, [(T0 + 7 + 15 * i, 30.0 * i) for i in range(100)]),
        series("model_ready", ready, [(T0 + 7 + 15 * i, 1.0) for i in range(60, 100)]),
    )
    with prometheus(tmp_path / "p", openmetrics=content) as running:
        for history in (
            PrometheusHistory(server(running.url), [*NAMESPACES, ".*|a(b", HOSTILE]),
            FileHistory(tmp_path / "p" / "past.om", watched(), 15.0),
        ):
            load, (throughput,) = history.release(watched(HOSTILE), ["throughput"], T0 + 120, T0 + 1200)
            np.testing.assert_allclose(load.values, 2.0)
            np.testing.assert_allclose(throughput.series.values, 2.0)
            (one,) = history.rollouts(T0 + 600, T0 + 1500)
            assert (one.model, one.version, one.hash) == (HOSTILE, HOSTILE, HOSTILE)
            none, _, _ = history.canary(watched(HOSTILE), [], T0 + 120, T0 + 1200, HOSTILE, "\ud800")
            assert np.isnan(none.values).all()


def test_more_points_than_one_request_may_have(tmp_path: Path) -> None:
    days = 12
    labels = {"namespace": "search-prod", "model": "ranker", "version": "1"}
    points = [(T0 + 240.0 * i + 1, 1.0) for i in range(days * 360)]
    away = [(t, v) for t, v in points if not T0 + 7 * 86400 < t < T0 + 8 * 86400]
    gauge = {
        "namespace": "search-prod",
        "job": "kubernetes-pods",
        "gpu": "0",
        "pod": f"ranker-{STABLE}-aaaaa",
    }
    content = text(
        series("model_ready", labels, away),
        series("inference_gpu_memory_used_bytes", gauge, [(t, t) for t, _ in points]),
    )
    with prometheus(tmp_path / "p", openmetrics=content) as running:
        asked = server(running.url, scrape_interval_s=60.0)
        history = PrometheusHistory(asked, NAMESPACES)
        _, (memory,) = history.release(watched(), ["gpu-memory"], T0 + 3600, T0 + days * 86400)
        assert len(memory.series.values) == days * 1440 - 60 > promapi.MOST_POINTS
        assert not np.isnan(memory.series.values).any()
        assert (abs(memory.series.values - memory.series.times) <= 240).all()
        assert history.rollouts(T0 + 3600, T0 + days * 86400) == ()  # away for a day, and nothing else ran


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'model_ready{model="ranker",version="1.0.0"} 1\n'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


def test_a_real_scrape(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as page:
        thread = threading.Thread(target=page.serve_forever)
        thread.start()
        labels = {"namespace": "search-prod", "rollouts_pod_template_hash": STABLE}
        target = {"targets": [f"127.0.0.1:{page.server_port}"], "labels": labels}
        scrape = {
            "job_name": "ranker",
            "scrape_interval": "1s",
            "scrape_timeout": "1s",
            "static_configs": [target],
        }
        try:
            with prometheus(tmp_path / "p", scrape=[scrape]) as running:
                history = PrometheusHistory(server(running.url), NAMESPACES)
                end = time.monotonic() + 30
                while not (found := history.rollouts(time.time() - 60, time.time() + 120)):
                    assert time.monotonic() < end, running.log()
                    time.sleep(0.2)
        finally:
            page.shutdown()
            thread.join()
    assert [(one.model, one.version, one.hash, one.previous_hash) for one in found] == [
        ("ranker", "1.0.0", STABLE, None)
    ]


def test_mutual_tls(tmp_path: Path) -> None:
    """Both sides show certificates; a client without one is not let in."""
    authority = Authority("prometheus")
    certificate, key, _ = authority.write(tmp_path, "both")
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    context.load_cert_chain(certificate, key)
    tls_config = {"cert_file": str(certificate), "key_file": str(key)}
    web = {
        "tls_server_config": {
            **tls_config, "client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": str(tmp_path / "ca.pem")
        }
    }  # fmt: skip
    with prometheus(tmp_path / "p", web_config=web, ready_by=context) as running:
        tls = ClientTls(
            ca_file=str(tmp_path / "ca.pem"), certificate_file=str(certificate), key_file=str(key)
        )
        history = PrometheusHistory(server(running.url, tls=tls), NAMESPACES)
        assert np.isnan(history.release(watched(), [], T0, T0 + 600)[0].values).all()
        for wrong in (ClientTls(ca_file=tls.ca_file, certificate_file=None, key_file=None), None):
            with pytest.raises(HistoryFailed, match="Prometheus at"):
                PrometheusHistory(server(running.url, tls=wrong), NAMESPACES).release(
                    watched(), [], T0, T0 + 60
                )
        missing = ClientTls(ca_file="/no/ca.pem", certificate_file=None, key_file=None)
        with pytest.raises(HistoryFailed, match=r"/no/ca\.pem.*Check `prometheus\.tls`"):
            PrometheusHistory(server(running.url, tls=missing), NAMESPACES).release(
                watched(), [], T0, T0 + 60
            )
