"""From a release of a slower model to the comment on the pull request that caused it: a real server, a real
Prometheus, the real commands, and a GitHub that remembers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modelway_runtime.detection.memory import Memory
from tests.runtime.detection.end_to_end.shop import (
    ENCODER_NEW,
    GATE_TOKEN,
    NAMESPACE,
    RANKER_NEW,
    RANKER_OLD,
    Pulls,
    Shop,
    past,
    settings,
)
from tests.runtime.detection.service.processes import environment, eventually, run
from tests.support.github import Fault, GitHub
from tests.support.prometheus import Server
from tests.support.rollout_world import COUNTERS, DAY, GAUGES, MINUTE, samples

Json = dict[str, Any]
AT_ONCE = Path(__file__).with_name("at_once.py")
ONE = ("latency-p50",)
"""Fewer patterns where the question is not what is found."""


def at_once(count: int, *arguments: str | Path) -> list[tuple[int, str]]:
    """Exit code and standard error of each run."""
    done = subprocess.run(
        [sys.executable, str(AT_ONCE), str(count), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env=environment(OPENBLAS_NUM_THREADS="1"),
    )
    assert done.returncode == 0, done.stderr
    return [(code, text) for code, text in json.loads(done.stdout)]


def writes(github: GitHub) -> list[str]:
    return [one for one in github.requests if not one.startswith("GET")]


def states(github: GitHub, number: int) -> list[str]:
    """What the comments of ours on a pull request say; ``duplicate`` is a pointer to another."""
    found = [
        re.match(r"<!-- modelway key=\S+ .* state=(\w+) -->\n", each["body"])
        for each in github.comments(number)
    ]
    return [each[1] for each in found if each]


def commented(github: GitHub) -> dict[int, int]:
    """Numbers of comments by pull request, where there are some."""
    counts = {each["number"]: len(github.comments(each["number"])) for each in github.pulls()}
    return {number: count for number, count in counts.items() if count}


def reverts(github: GitHub) -> list[Json]:
    return [each for each in github.pulls() if each["head"]["ref"].startswith("modelway/revert-")]


def looked_before(folder: Path, at: float) -> None:
    """As if the detector had run before the release."""
    memory = Memory(str(folder / "memory" / "detector.sqlite"))
    for model in (RANKER_NEW.model, ENCODER_NEW.model):
        memory.look(NAMESPACE, model, at)
    memory.close()


@pytest.mark.parametrize("pod", [RANKER_NEW, ENCODER_NEW], ids=lambda pod: pod.model)
def test_the_past_has_the_names_and_labels_of_what_is_scraped(shop: Shop, pod: Any) -> None:
    """What is back-filled and what the server shows now are the same series."""

    def names(server: Server, metric: str, when: str) -> set[tuple[tuple[str, str], ...]]:
        query = f'{metric}{{pod="{pod.labels["pod"]}"}}[{when}'
        return {tuple(sorted(labels.items())) for labels, _ in samples(server, query)}

    eventually(lambda: names(shop.prometheus, "up", "5s]"))
    for metric in (*COUNTERS, *GAUGES):
        # The server counts a class when it has seen one: it may have seen more of them since.
        scraped = names(shop.prometheus, metric, "10s]")
        back_filled = names(shop.prometheus, metric, f"2m] @ {shop.times.ranker + 30 * MINUTE:.0f}")
        assert scraped == back_filled, metric
        assert scraped


def test_a_slower_release_is_told_on_the_pull_request_that_caused_it(
    shop: Shop, github: GitHub, pulls: Pulls, tmp_path: Path
) -> None:
    file = settings(tmp_path, shop.prometheus.url, github)
    told = tmp_path / "verdict.json"
    done = run(
        "detect", "--settings", file, "--model", "ranker", "--publish", "--format", "json", "--output", told,
        "--fail-on", "regressed",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert f"/pull/{pulls.ranker}" in done.stderr
    verdict = json.loads(told.read_text())
    assert (verdict["state"], verdict["outcome"], verdict["severity"]) == ("regressed", "failure", "critical")
    assert verdict["commit"] == {"sha": pulls.merged, "found_by": "history"}
    assert verdict["pull_request"]["number"] == pulls.ranker
    rollout = verdict["rollout"]
    assert (rollout["version"], rollout["hash"], rollout["previous_hash"]) == (
        RANKER_NEW.version,
        RANKER_NEW.hash,
        RANKER_OLD.hash,
    )
    assert [one["model"] for one in verdict["other_rollouts"]] == ["encoder"]
    level = {one["name"]: one for one in verdict["metrics"] if one["test"] == "level"}
    worse = {name for name, one in level.items() if one["state"] == "regressed"}
    assert "latency-p50" in worse
    assert worse <= {"latency-p50", "latency-p99"}
    measured = [middle(shop, pod) for pod in (RANKER_OLD, RANKER_NEW)]
    assert level["latency-p50"]["before"] == pytest.approx(measured[0], rel=0.15)
    assert level["latency-p50"]["after"] == pytest.approx(measured[1], rel=0.15)

    assert commented(github) == {pulls.ranker: 1}
    assert states(github, pulls.ranker) == ["regressed"]
    [comment] = github.comments(pulls.ranker)
    assert f"git revert --no-edit -m 1 {pulls.merged}" in comment["body"]
    assert "latency-p50" in comment["body"]
    assert [each["conclusion"] for each in github.checks(pulls.merged)] == ["failure"]
    assert github.labels(pulls.ranker) == {"modelway:regressed"}

    [revert] = reverts(github)
    assert (revert["state"], revert["base"]["ref"], revert["merged_at"]) == ("open", "main", None)
    assert f"#{revert['number']}" in comment["body"]
    reverted, main = github.files(revert["head"]["ref"]), github.files("main")
    path = "generated/prod/search/ranker/rollout.yaml"
    assert (main[path], reverted[path]) == ("# ranker-46.1.0\n", "# ranker-46.0.0\n")
    assert reverted.keys() == main.keys()
    assert {name for name in main if main[name] != reverted[name]} == {path}

    everything = done.stdout + done.stderr + told.read_text() + comment["body"]
    assert not [secret for secret in (github.token, GATE_TOKEN) if secret in everything]


def middle(shop: Shop, pod: Any) -> float:
    """The median that the real server counted, between the bounds of its bucket."""
    lived = shop.lived[pod]
    upto = {
        float(labels["le"]): lived.moments[:, index].sum()
        for index, (metric, labels) in enumerate(lived.counters)
        if metric == "inference_request_duration_seconds_bucket"
    }
    half, below, count = upto[float("inf")] / 2, 0.0, 0.0
    for bound, value in sorted(upto.items()):
        if value >= half:
            return float(below + (bound - below) * (half - count) / (value - count))
        below, count = bound, value
    raise AssertionError


def test_a_release_that_changed_nothing_is_unchanged(
    shop: Shop, github: GitHub, pulls: Pulls, tmp_path: Path
) -> None:
    file = settings(tmp_path, shop.prometheus.url, github)
    done = run(
        "detect", "--settings", file, "--model", "search/encoder", "--publish", "--format", "json",
        *(part for state in ("regressed", "inconclusive", "pending") for part in ("--fail-on", state)),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    verdict = json.loads(done.stdout)
    assert (verdict["state"], verdict["rollout"]["version"]) == ("unchanged", ENCODER_NEW.version)
    assert verdict["pull_request"]["number"] == pulls.encoder
    assert {one["state"] for one in verdict["metrics"]} == {"unchanged"}
    assert commented(github) == {pulls.encoder: 1}
    assert states(github, pulls.encoder) == ["unchanged"]
    assert reverts(github) == []


def trouble() -> list[Fault]:
    """What GitHub does on a bad day, in the order in which a request meets it."""
    limited = {"Retry-After": "1"}
    return [
        Fault(r"GET .*/commits\?", status=502, times=3),
        Fault(r"GET .*/comments", status=429, headers=limited, times=3),
        Fault(r"POST .*/pulls$", status=500, after=True),  # it is opened, but the answer is lost
        Fault(r"POST .*/issues/\d+/comments", status=502, after=True, times=2),
        Fault(r"POST .*/issues/\d+/comments", status=403, headers=limited, times=2),
        Fault(r"POST .*/labels", status=403, headers=limited, body=b'{"message": "secondary rate limit"}'),
        Fault(r"GET .*/check-runs", cut=True),
        Fault(r"GET .*/pulls\?", delay_s=1.0, times=2),
    ]


def test_twenty_at_once_on_a_bad_day_are_one_verdict(
    shop: Shop, github: GitHub, pulls: Pulls, tmp_path: Path
) -> None:
    file = settings(tmp_path, shop.prometheus.url, github, ONE, history_s=2 * DAY)
    github.faults += trouble()
    for code, text in at_once(20, "detect", "--settings", file, "--model", "ranker", "--publish"):
        assert code == 0, text
    assert not [fault for fault in github.faults if fault.times], "each trouble was met"
    assert commented(github).keys() == {pulls.ranker}
    assert [state for state in states(github, pulls.ranker) if state != "duplicate"] == ["regressed"]
    assert len(reverts(github)) == 1
    assert github.labels(pulls.ranker) == {"modelway:regressed"}
    assert len(states(github, pulls.ranker)) == len(github.comments(pulls.ranker))
    before = writes(github), github.comments(pulls.ranker)
    again = run("detect", "--settings", file, "--model", "ranker", "--publish")
    assert again.returncode == 0, again.stderr
    assert "comment: unchanged" in again.stderr
    assert (writes(github), github.comments(pulls.ranker)) == before


def test_twenty_watches_with_one_memory_write_once(
    shop: Shop, github: GitHub, pulls: Pulls, tmp_path: Path
) -> None:
    file = settings(tmp_path, shop.prometheus.url, github, ONE, history_s=2 * DAY)
    looked_before(tmp_path, shop.times.encoder - MINUTE)
    for code, text in at_once(20, "watch", "--once", "--settings", file):
        assert code == 0, text
    assert commented(github) == {pulls.ranker: 1, pulls.encoder: 1}
    assert states(github, pulls.ranker) == ["regressed"]
    assert states(github, pulls.encoder) in (["unchanged"], ["inconclusive"])  # a day is a short history
    assert len(reverts(github)) == 1
    before = writes(github)
    for _ in range(2):  # restarts with the same memory
        again = run("watch", "--once", "--settings", file)
        assert again.returncode == 0, again.stderr
    assert writes(github) == before


def test_a_verdict_that_was_pending_is_written_over(
    shop: Shop, github: GitHub, pulls: Pulls, tmp_path: Path
) -> None:
    """Forty minutes after the release, of which a file tells; later by the Prometheus."""
    file = settings(tmp_path, shop.prometheus.url, github, ONE, history_s=2 * DAY)
    early = tmp_path / "early.om"
    until = shop.times.ranker + 40 * MINUTE
    early.write_text(past(shop.lived, shop.times, since=until - 2.2 * DAY, until=until))
    command = ("detect", "--settings", file, "--model", "ranker", "--publish")
    first = run(*command, "--series", early)
    assert first.returncode == 0, first.stderr
    assert states(github, pulls.ranker) == ["pending"]
    assert reverts(github) == []
    [comment] = github.comments(pulls.ranker)
    second = run(*command)
    assert "comment: updated" in second.stderr
    assert states(github, pulls.ranker) == ["regressed"]
    assert [each["id"] for each in github.comments(pulls.ranker)] == [comment["id"]]
    assert github.labels(pulls.ranker) == {"modelway:regressed"}
    late = run(*command, "--series", early)  # an older run that comes late changes nothing
    assert "comment: older" in late.stderr
    assert states(github, pulls.ranker) == ["regressed"]
