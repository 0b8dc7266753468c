"""`watch`: looks at a real Prometheus, publishes to the GitHub emulator, repeats nothing, stops in time."""

from __future__ import annotations

import io
import json
import re
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from modelway_runtime.detection import settings as detector_settings
from modelway_runtime.detection import watcher as watchers
from modelway_runtime.detection.anomaly_log import AnomalyLog
from modelway_runtime.detection.memory import Memory
from modelway_runtime.detection.monitoring import Monitoring
from modelway_runtime.detection.restart import RestartFailed, respond_restart
from modelway_runtime.detection.settings import Watched
from modelway_runtime.detection.watcher import Watcher, next_time
from modelway_runtime.settings import WrongSettings
from tests.contract.metrics import LABEL_VALUES, METRICS
from tests.runtime.detection.service.processes import (
    command,
    environment,
    eventually,
    proxy,
    run,
    serving,
    staying,
)
from tests.runtime.detection.service.shop_past import (
    HOUR,
    MINUTE,
    NEW,
    NOW,
    OLD,
    RELEASED,
    settings,
    watched,
    write,
)
from tests.support.github import Answer, Fault, GitHub
from tests.support.prometheus import Server

Json = dict[str, Any]


def publication(github: GitHub, folder: Path) -> Json:
    token = folder / "forge-token"
    token.write_text(github.token)
    return {
        "api_url": github.api_url,
        "repository": github.name,
        "branch": "main",
        "folder": "generated",
        "comment": "always",
        "token_file": str(token),
        "app": None,
    }


def changed_before(github: GitHub, model: str, at: float) -> tuple[str, int]:
    """The commit and pull request that released a model; the emulator's clock cannot be set back, so its
    answer is."""
    github.commit({f"specs/search/{model}.yaml": "2\n"}, on=f"change-{model}")
    number = github.pull(f"change-{model}")
    github.merge(number)
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
    sha = github.commit({f"generated/prod/search/{model}/a.yaml": "2\n"}, date=when)

    def earlier(_path: str, _answer: Answer) -> Answer:
        pull = next(each for each in github.pulls() if each["number"] == number)
        pull |= {"merged_at": when, "merge_commit_sha": sha}
        return 200, {"content-type": "application/json"}, json.dumps([pull]).encode()

    github.faults.append(Fault(rf"GET /repos/.*/commits/{sha}/pulls", times=10**6, change=earlier))
    return sha, number


def writes(github: GitHub) -> list[str]:
    return [one for one in github.requests if not one.startswith("GET")]


def looked_before(document: Json, model: str, at: float) -> None:
    memory = Memory(document["memory_file"])
    memory.look("search-prod", model, at)
    memory.close()


def events(text: str, event: str) -> list[Json]:
    return [line for line in map(json.loads, text.splitlines()) if line["event"] == event]


def states(github: GitHub, number: int) -> list[str]:
    found = [re.match(r"<!-- modelway .* state=(\w+) -->", each["body"]) for each in github.comments(number)]
    return [each[1] for each in found if each]


def test_a_release_is_published_once_whatever_is_restarted(
    shop: Server, github: GitHub, tmp_path: Path
) -> None:
    sha, number = changed_before(github, "ranker", RELEASED - 10 * MINUTE)
    document = settings(tmp_path, shop.url, ["ranker", "encoder"], publish=publication(github, tmp_path))
    looked_before(document, "ranker", NOW - 4 * HOUR)
    file = write(tmp_path, document)
    done = run("watch", "--once", "--settings", file)
    assert done.returncode == 0, done.stderr
    assert states(github, number) == ["regressed"]
    assert "git revert" in github.comments(number)[0]["body"]
    assert github.labels(number) == {"modelway:regressed"}
    assert [each["conclusion"] for each in github.checks(sha)] == ["failure"]
    ranker, encoder = events(done.stdout, "verdict")
    assert (ranker["model"], ranker["state"], ranker["comparison"]) == ("ranker", "regressed", "release")
    assert (encoder["model"], encoder["state"], encoder["comparison"]) == ("encoder", "unchanged", "watch")
    (level,) = [one for one in ranker["changed"] if one["test"] == "level"]
    assert (level["name"], level["state"]) == ("latency-p50", "regressed")
    assert 0.3 < level["effect"] < 0.8
    assert level["p"] < 0.001
    assert ranker["commit"] == sha
    assert ranker["pull_request"].endswith(f"/pull/{number}")
    assert [one["id"] for one in events(done.stdout, "published")] == [ranker["id"]]
    before = writes(github)
    again = run("watch", "--once", "--settings", file)
    assert again.returncode == 0, again.stderr
    assert not events(again.stdout, "published")
    assert writes(github) == before
    assert github.token not in done.stdout + done.stderr


def test_what_was_cut_off_by_a_kill_is_done_after_the_restart(
    shop: Server, github: GitHub, tmp_path: Path
) -> None:
    _, number = changed_before(github, "ranker", RELEASED - 10 * MINUTE)
    document = settings(tmp_path, shop.url, ["ranker"], publish=publication(github, tmp_path))
    looked_before(document, "ranker", NOW - 4 * HOUR)
    file = write(tmp_path, document)
    github.faults.append(Fault(r"POST .*/check-runs", delay_s=8.0))  # the comment stands, its check does not
    process = subprocess.Popen(
        command("watch", "--once", "--settings", file),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    eventually(lambda: any("POST" in one and "/check-runs" in one for one in github.requests), 60)
    process.kill()
    process.wait(10)
    assert states(github, number) == ["regressed"]
    with sqlite3.connect(document["memory_file"]) as database:  # two minutes later
        database.execute("UPDATE verdicts SET leased_until = 0")
    database.close()
    done = run("watch", "--once", "--settings", file)
    assert done.returncode == 0, done.stderr
    assert len(events(done.stdout, "published")) == 1
    assert states(github, number) == ["regressed"]
    assert github.labels(number) == {"modelway:regressed"}


class Here:
    """The watcher in this process, so that it can be told the time."""

    def __init__(self, document: Json, output: io.StringIO | None = None) -> None:
        parsed = detector_settings.parse(json.dumps(document).encode())
        self.memory = Memory(document["memory_file"])
        self.monitoring = Monitoring()
        self.watcher = Watcher(parsed, self.memory, self.monitoring, AnomalyLog(output))

    def close(self) -> None:
        self.memory.close()


def test_pending_then_decided_in_one_comment(shop: Server, github: GitHub, tmp_path: Path) -> None:
    _, number = changed_before(github, "ranker", RELEASED - 10 * MINUTE)
    document = settings(tmp_path, shop.url, ["ranker"], publish=publication(github, tmp_path))
    here = Here(document)
    assert here.watcher.look(RELEASED + 10 * MINUTE)
    assert states(github, number) == ["pending"]
    before = writes(github)
    assert here.watcher.look(RELEASED + 20 * MINUTE)
    assert writes(github) == before  # still pending: nothing new to say
    assert here.watcher.look(RELEASED + 70 * MINUTE)
    assert states(github, number) == ["regressed"]
    assert github.labels(number) == {"modelway:regressed"}
    before = writes(github)
    assert here.watcher.look(RELEASED + 80 * MINUTE)
    assert writes(github) == before
    found = [(one.comparison, one.state) for one in here.memory.verdicts()]
    assert ("release", "regressed") in found
    here.close()


def test_a_forge_that_is_away_is_asked_again(shop: Server, github: GitHub, tmp_path: Path) -> None:
    _, number = changed_before(github, "ranker", RELEASED - 10 * MINUTE)
    document = settings(tmp_path, shop.url, ["ranker"], publish=publication(github, tmp_path))
    here = Here(document)
    gone = Fault(r".*", times=10**6, status=401)
    github.faults.insert(0, gone)
    looked_before(document, "ranker", RELEASED)
    assert not here.watcher.look(RELEASED + 70 * MINUTE)
    assert states(github, number) == []
    gone.times = 0
    assert here.watcher.look(RELEASED + 80 * MINUTE)
    assert states(github, number) == ["regressed"]
    here.close()


def test_a_canary_that_the_gate_turned_away_is_told_and_not_judged_as_a_release(
    shop: Server, github: GitHub, tmp_path: Path
) -> None:
    """The gate's process and the watcher's share one memory."""
    _, number = changed_before(github, "sorter", NOW - HOUR)
    one = watched("sorter", standby="lite", response=["failover"])
    document = settings(tmp_path, shop.url, ["sorter"], watched=[one], publish=publication(github, tmp_path))
    file = write(tmp_path, document)
    asked = {
        "environment": "prod", "namespace": "search-prod", "model": "sorter", "canary_hash": NEW,
        "stable_hash": OLD,
    }  # fmt: skip
    with staying(tmp_path / "gate", "gate", "--settings", file) as gate:
        assert gate.ask(asked).json["outcome"] == "failure"
        done = run("watch", "--once", "--settings", file)
        assert done.returncode == 0, done.stderr
        assert states(github, number) == ["regressed"]
        assert [one["comparison"] for one in events(done.stdout, "verdict")] == ["watch"]
        assert not events(done.stdout, "follow_up")  # the stable pods serve: no failover
        assert "failover" not in github.comments(number)[0]["body"]
        before = writes(github)
        assert gate.ask(asked).json["outcome"] == "failure"
        here = Here(document)
        assert here.watcher.look(time.time())
        here.close()
        assert writes(github) == before


def test_one_model_that_fails_stops_no_other(shop: Server, tmp_path: Path) -> None:
    with proxy(shop.url, refuse='model="encoder"') as url:
        file = write(tmp_path, settings(tmp_path, url, ["encoder", "ranker"]))
        done = run("watch", "--once", "--settings", file)
    assert done.returncode == 5
    assert [one["model"] for one in events(done.stdout, "verdict")] == ["ranker"]
    (failure,) = events(done.stdout, "failure")
    assert (failure["model"], failure["failed"]) == ("encoder", "look")
    assert "refused here" in failure["message"]


def test_without_a_prometheus_all_fail_and_say_so(tmp_path: Path) -> None:
    output = io.StringIO()
    here = Here(settings(tmp_path, "http://127.0.0.1:9", ["encoder", "ranker"]), output)
    assert not here.watcher.look(NOW)
    here.close()
    failures = events(output.getvalue(), "failure")
    assert [one["model"] for one in failures] == ["encoder", "ranker"]
    assert "connection failed" in failures[0]["message"]


def metrics(text: str) -> dict[str, Any]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_the_metrics_are_those_of_the_contract(shop: Server, tmp_path: Path) -> None:
    here = Here(settings(tmp_path, shop.url, ["encoder", "ranker"]))
    assert here.watcher.look(NOW)
    from prometheus_client import generate_latest

    found = metrics(generate_latest(here.monitoring.registry).decode())
    wanted = {name: metric for name, metric in METRICS.items() if metric.when == "detector"}
    assert set(found) == {name.removesuffix("_total") for name in wanted}
    for name, metric in wanted.items():
        family = found[name.removesuffix("_total")]
        assert family.type == metric.type
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels)
    counted = {
        (one.labels["model"], one.labels["state"]): one.value
        for one in found["modelway_detector_verdicts"].samples
    }
    all_states = LABEL_VALUES["modelway_detector_verdicts_total", "state"]
    assert set(counted) == {(model, state) for model in ("encoder", "ranker") for state in all_states}
    assert counted["encoder", "unchanged"] == 1
    assert sum(counted.values()) == 2
    (last, *_) = found["modelway_detector_last_success_timestamp_seconds"].samples
    assert abs(last.value - time.time()) < 60
    assert all(0 <= one.value <= 1 for one in found["modelway_detector_missing_ratio"].samples)
    here.close()


def test_a_failed_look_is_no_success(tmp_path: Path) -> None:
    here = Here(settings(tmp_path, "http://127.0.0.1:9", ["encoder"]))
    assert not here.watcher.look(NOW)
    from prometheus_client import generate_latest

    text = generate_latest(here.monitoring.registry).decode()
    assert 'last_success_timestamp_seconds{model="encoder"}' not in text
    assert 'modelway_detector_run_duration_seconds_count{model="encoder"} 1.0' in text
    here.close()


def test_it_listens_reads_its_settings_again_and_stops(shop: Server, tmp_path: Path) -> None:
    document = settings(tmp_path, shop.url, ["encoder"], schedule="0 0 1 1 *")
    file = write(tmp_path, document)
    with staying(tmp_path / "run", "watch", "--settings", file, "--log-format", "json") as running:
        assert running.get("/healthz", {}, "metrics").body == b"ok\n"
        assert running.get("/else", {}, "metrics").status == 404
        text = running.get("/metrics", {}, "metrics").body.decode()
        assert 'modelway_detector_verdicts_total{model="encoder",state="regressed"} 0.0' in text
        asked = {
            "environment": "prod", "namespace": "search-prod", "model": "mixer", "canary_hash": NEW,
            "stable_hash": OLD,
        }  # fmt: skip
        assert "is not watched" in running.ask(asked).json["reason"]

        file.write_text("{")
        running.process.send_signal(signal.SIGHUP)
        eventually(lambda: "the settings were not read again" in running.log())
        assert "is not watched" in running.ask(asked).json["reason"]
        write(tmp_path, {**document, "memory_file": "/elsewhere"})
        running.process.send_signal(signal.SIGHUP)
        eventually(lambda: "change with a restart only" in running.log())

        write(tmp_path, {**document, "watched": [watched("encoder"), watched("mixer")]})
        running.process.send_signal(signal.SIGHUP)
        eventually(lambda: "2 models are watched" in running.log())
        assert running.ask(asked).json["outcome"] == "success"
        assert 'model="mixer"' in running.get("/metrics", {}, "metrics").body.decode()
        for line in running.log().splitlines():
            json.loads(line)
        began = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - began < 6


def test_sigterm_ends_a_look_that_hangs_within_seconds(shop: Server, tmp_path: Path) -> None:
    with proxy(shop.url, delay_s=30.0) as url:
        document = settings(tmp_path, url, ["encoder"])
        document["prometheus"]["timeout_s"] = 60
        process = subprocess.Popen(
            command("watch", "--once", "--settings", write(tmp_path, document)),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
        eventually(lambda: Path(document["memory_file"]).exists())
        time.sleep(0.5)
        began = time.monotonic()
        process.terminate()
        assert process.wait(10) == 143
        assert time.monotonic() - began < 5
        assert process.stdout is not None
        process.stdout.close()


def test_a_loop_looks_at_each_time_of_the_schedule_and_stops(
    shop: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The schedule's own clock has minutes; here the times come faster."""
    here = Here(settings(tmp_path, shop.url, ["encoder"], schedule="* * * * *"))
    monkeypatch.setattr(watchers, "next_time", lambda _settings, now: now)
    looked: set[float | None] = {None}

    def thrice() -> bool:
        looked.add(here.memory.looked("search-prod", "encoder"))
        return len(looked - {None}) >= 3

    thread = threading.Thread(target=here.watcher.run)
    thread.start()
    eventually(thrice)
    here.watcher.stop.set()
    thread.join(5)
    assert not thread.is_alive()
    here.close()


@pytest.mark.parametrize(
    ("schedule", "now", "wanted"),
    [
        ("*/10 * * * *", "2026-11-21T10:03:00+00:00", "2026-11-21T10:10:00+00:00"),
        ("*/10 * * * *", "2026-11-21T10:10:00+00:00", "2026-11-21T10:20:00+00:00"),
        ("0 6 * * MON", "2026-11-21T10:00:00+00:00", "2026-11-23T06:00:00+00:00"),
        ("30 2 29 2 *", "2026-11-21T10:00:00+00:00", "2028-02-29T02:30:00+00:00"),
    ],
)
def test_times_of_a_schedule(schedule: str, now: str, wanted: str) -> None:
    text = json.dumps(settings(Path("/tmp"), "http://x", ["encoder"], schedule=schedule)).encode()
    at = next_time(detector_settings.parse(text), datetime.fromisoformat(now).astimezone(UTC))
    assert at == datetime.fromisoformat(wanted)


@pytest.mark.parametrize("schedule", ["61 * * * *", "* * 31 2 *", "a b c d e"])
def test_a_schedule_that_names_no_time_is_wrong(tmp_path: Path, schedule: str) -> None:
    document = settings(tmp_path, "http://x", ["encoder"], schedule=schedule)
    with pytest.raises(WrongSettings, match=r"\$\.schedule"):
        next_time(detector_settings.parse(json.dumps(document).encode()), datetime.now(UTC))


def test_a_wrong_schedule_ends_at_once(tmp_path: Path) -> None:
    document = settings(tmp_path, "http://x", ["encoder"], schedule="61 * * * *")
    done = run("watch", "--settings", write(tmp_path, document))
    assert done.returncode == 2
    assert "$.schedule" in done.stderr


class ApiServer:
    """What a restart needs of Kubernetes' API: it takes merge patches."""

    def __init__(self) -> None:
        self.patches: list[tuple[str, Json]] = []
        self.statuses: list[int] = []
        state = self

        class Handler(BaseHTTPRequestHandler):
            def do_PATCH(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert self.headers["Content-Type"] == "application/merge-patch+json"
                assert self.headers["Authorization"] == "Bearer cluster-secret"
                state.patches.append((self.path.split("?")[0], body))
                status = state.statuses.pop(0) if state.statuses else 200
                content = json.dumps({"kind": "Status", "message": "cluster-secret"}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self.handler = Handler

    def kubeconfig(self, folder: Path, url: str) -> Path:
        file = folder / "kubeconfig"
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": url}}],
            "users": [{"name": "detector", "user": {"token": "cluster-secret"}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "detector"}}],
        }
        file.write_text(yaml.safe_dump(document))
        return file


def test_a_regression_restarts_the_workload_once(shop: Server, tmp_path: Path) -> None:
    one = watched("ranker", response=["notify", "restart"])
    document = settings(tmp_path, shop.url, ["ranker"], watched=[one])
    looked_before(document, "ranker", NOW - 4 * HOUR)
    file = write(tmp_path, document)
    api = ApiServer()
    api.statuses = [503]  # a busy server is asked again
    with serving(api.handler) as url:
        config = str(api.kubeconfig(tmp_path, url))
        done = run("watch", "--once", "--settings", file, KUBECONFIG=config)
        assert done.returncode == 0, done.stderr
        here = Here(document)
        assert here.watcher.look(time.time())  # it sees the same regression
        assert here.memory.last_of("search-prod", "ranker", "watch") == "regressed"
        here.close()
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(RELEASED + HOUR))
    path = "/apis/argoproj.io/v1alpha1/namespaces/search-prod/rollouts/ranker"
    assert api.patches == [(path, {"spec": {"restartAt": at}})] * 2
    (told,) = events(done.stdout, "follow_up")
    assert (told["kind"], told["restart_at"]) == ("restart", at)


def test_a_deployment_is_restarted_as_kubectl_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kubernetes.config import kube_config

    one = msgspec.convert(watched("ranker", workload="Deployment"), Watched)
    api = ApiServer()
    with serving(api.handler) as url:
        config = str(api.kubeconfig(tmp_path, url))
        monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", config)
        respond_restart(one, "2026-11-21T10:00:00Z")
        api.statuses = [404]
        with pytest.raises(RestartFailed, match="Deployment search-prod/ranker; there is none"):
            respond_restart(one, "2026-11-21T10:00:00Z")
    annotations = {"kubectl.kubernetes.io/restartedAt": "2026-11-21T10:00:00Z"}
    path, body = api.patches[0]
    assert path == "/apis/apps/v1/namespaces/search-prod/deployments/ranker"
    assert body == {"spec": {"template": {"metadata": {"annotations": annotations}}}}
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    with pytest.raises(RestartFailed, match="no way to the API server"):
        respond_restart(one, "2026-11-21T10:00:00Z")


def test_a_restart_that_is_refused_keeps_the_verdict_from_nobody(
    shop: Server, github: GitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kubernetes.config import kube_config

    _, number = changed_before(github, "ranker", RELEASED - 10 * MINUTE)
    one = watched("ranker", response=["notify", "restart"])
    document = settings(tmp_path, shop.url, ["ranker"], watched=[one], publish=publication(github, tmp_path))
    looked_before(document, "ranker", NOW - 4 * HOUR)
    api, output = ApiServer(), io.StringIO()
    api.statuses = [403]
    here = Here(document, output)
    with serving(api.handler) as url:
        config = str(api.kubeconfig(tmp_path, url))
        monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", config)
        assert not here.watcher.look(time.time())
        assert states(github, number) == ["regressed"]
        (failure,) = events(output.getvalue(), "failure")
        assert "its Role does not allow it" in failure["message"]
        assert "cluster-secret" not in output.getvalue()
        assert here.watcher.look(time.time())  # somebody has mended the Role
    here.close()
    assert api.patches[0] == api.patches[1]
    (comment,) = github.comments(number)
    assert "pods were restarted" in comment["body"]


def rollouts(*told: tuple[str, float]) -> Sequence[Any]:
    from modelway_runtime.detection.verdict import Rollout, moment

    return [
        Rollout(
            namespace="n", model="m", version=version, hash=None, previous_hash=None, started_at=moment(at)
        )
        for version, at in told
    ]


def test_a_restarted_deployment_is_the_same_occasion(tmp_path: Path) -> None:
    """Its new pods look like a rollout of the same version: without this it would be restarted for ever."""
    from tests.runtime.detection.service.test_memory import verdict

    now = verdict().judged_at.timestamp()
    first = rollouts(("1", now - 900), ("2", now - 600))
    restarted = rollouts(("1", now - 900), ("2", now - 600), ("2", now - 60))
    mended = rollouts(("1", now - 900), ("2", now - 600), ("3", now - 60))
    later = rollouts(("1", now - 900), ("2", now - 600), ("3", now + 60))
    occasion = watchers.occasion(first, verdict())
    assert watchers.occasion(restarted, verdict()) == occasion
    assert watchers.occasion(later, verdict()) == occasion
    assert watchers.occasion(mended, verdict()) != occasion
    assert watchers.occasion([], verdict()) == "no rollout"
