"""A shop whose ranker got slower with a release and whose encoder did not: ten days in a real Prometheus, made
of what the real server did, the pull requests in a real emulator of GitHub, and the settings that the compiler
wrote for its prod."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.support.github import GitHub
from tests.support.prometheus import Server
from tests.support.rollout_world import DAY, HOUR, MINUTE, Lived, Pod, minutes, whole

ROOT = Path(__file__).resolve().parents[4]
NAMESPACE = "search-prod"
RANKER_OLD, RANKER_NEW = (
    Pod(NAMESPACE, "ranker", "46.0.0", "7d9f8c6b5"),
    Pod(NAMESPACE, "ranker", "46.1.0", "5c4b3a2f1"),
)
ENCODER_OLD, ENCODER_NEW = (
    Pod(NAMESPACE, "encoder", "3.0.0", "6b8d5f7c9"),
    Pod(NAMESPACE, "encoder", "3.0.1", "84c7d6b5f"),
)
GOOD, FRESH, GONE = "66d5c4b3f", "9f8e7d6c5", "0a1b2c3d4"
"""Template hashes of canaries: as fast as the stable pods, three minutes old, without a sample."""
OF_ENCODER = ("latency-p50", "errors", "throughput")
"""Its patterns; with the low sensitivity chance alone changes none of them in thousands of runs of a test."""
PAST = 10 * DAY
GATE_TOKEN = "gate-token-that-nobody-may-see"
Json = dict[str, Any]


@dataclass(frozen=True)
class Times:
    """Unix seconds; whole minutes."""

    now: float

    @property
    def ranker(self) -> float:
        """Its release: its longest window, two hours, is over."""
        return self.now - 125 * MINUTE

    @property
    def encoder(self) -> float:
        return self.now - 130 * MINUTE


def this_minute() -> Times:
    return Times(math.floor(time.time() / MINUTE) * MINUTE)


@dataclass(frozen=True)
class Shop:
    """``past`` is the OpenMetrics text that was back-filled; after ``times.now`` the servers are scraped."""

    prometheus: Server
    times: Times
    lived: Mapping[Pod, Lived]
    past: str


def past(
    lived: Mapping[Pod, Lived], times: Times, *, until: float, since: float | None = None, seed: int = 0
) -> str:
    """Ranker and encoder, with their releases, as a Prometheus would have scraped them once a minute: ten
    days, if nothing else is said. The old pods live a minute beside the new ones."""
    random = np.random.default_rng(seed)
    encoder = lived[ENCODER_NEW]
    first = times.now - PAST if since is None else since
    parts = [
        (lived[RANKER_OLD], first, times.ranker + MINUTE),
        (lived[RANKER_NEW], times.ranker, until),
        (encoder.as_pod(ENCODER_OLD.version, ENCODER_OLD.hash), first, times.encoder + MINUTE),
        (encoder, times.encoder, until),
    ]
    return whole([one.past(random, minutes(start, min(end, until))) for one, start, end in parts])


def with_canary(lived: Mapping[Pod, Lived], times: Times, canary: str, seed: int = 0) -> str:
    """Three hours of the ranker with a canary beside it, scraped as often as the compiled PodMonitor says."""
    random = np.random.default_rng(seed)
    stable, slow = lived[RANKER_OLD], lived[RANKER_NEW]
    beside = {
        RANKER_NEW.hash: (slow, 40 * MINUTE, 10.0),
        GOOD: (stable.as_pod("46.0.1", GOOD), 40 * MINUTE, 10.0),
        FRESH: (stable.as_pod("46.0.2", FRESH), 3 * MINUTE, 10.0),
    }
    pods = [
        stable.as_pod(stable.pod.version, stable.pod.hash, name)
        for name in ("x7k2p", "b4d8n", "m2q9z", "w6t5j")
    ]
    parts = [*((pod, 3 * HOUR, 10.0) for pod in pods), beside[canary]]
    until = times.now + 15 * MINUTE  # into the future: tests take minutes
    return whole(
        [one.past(random, minutes(times.now - since, until, 15.0), load) for one, since, load in parts]
    )


def compiled() -> Json:
    """The settings in the compiled ConfigMap of prod."""
    folder = ROOT / "generated" / "prod" / "_platform" / "modelway"
    [file] = folder.glob("configmap-detector-settings-*.yaml")
    return dict(json.loads(yaml.safe_load(file.read_text())["data"]["settings.json"]))


def settings(
    folder: Path,
    url: str,
    github: GitHub | None = None,
    patterns: Sequence[str] = (),
    history_s: float = 14 * DAY,
    timeout_s: float = 60.0,
    **changes: Any,
) -> Path:
    """The compiled settings as a file in ``folder``: with other addresses, secrets and ports, the schedule
    off, Argo CD left out, and the encoder watched, too. ``changes`` are of the ranker's entry, of whose
    ``patterns`` all are kept if none is named."""
    folder.mkdir(parents=True, exist_ok=True)
    document = compiled()
    # It is back-filled once a minute, and this machine does much else at the same time.
    document["prometheus"] |= {
        "url": url,
        "scrape_interval_s": 30,
        "timeout_s": timeout_s,
        "history_s": history_s,
    }
    document |= {"schedule": None, "argocd": None, "metrics": {"port": 0}}
    document["memory_file"] = str(folder / "memory" / "detector.sqlite")
    files = {"search-prod": str(secret(folder / "gate-token", GATE_TOKEN))}
    document["gate"] |= {"port": 0, "token_files": files}
    ranker = next(one for one in document["watched"] if one["model"] == "ranker")
    few = {name: {**ranker["patterns"][name], "sensitivity": "low"} for name in OF_ENCODER}
    encoder = {**ranker, "model": "encoder", "job": "encoder", "standby": None, "patterns": few}
    encoder["response"] = ["notify"]
    ranker["patterns"] = {name: ranker["patterns"][name] for name in patterns or ranker["patterns"]}
    ranker |= changes
    document["watched"] = [ranker, encoder]
    if github is None:
        document["publish"] = None
        ranker["response"] = ["notify"]
    else:
        token = str(secret(folder / "forge-token", github.token))
        document["publish"] |= {"api_url": github.api_url, "repository": github.name, "token_file": token}
    file = folder / "settings.json"
    file.write_text(json.dumps(document))
    return file


def secret(file: Path, value: str) -> Path:
    file.write_text(f"{value}\n")
    file.chmod(0o600)
    return file


@dataclass(frozen=True)
class Clock:
    """Of the emulator."""

    file: Path

    def turn_to(self, at: float | None) -> None:
        """Unix seconds; None: the right time."""
        behind = 0.0 if at is None else (time.time() - at) * 1000
        fresh = self.file.with_suffix(".new")
        fresh.write_text(f"{behind:.0f}")
        fresh.replace(self.file)


@dataclass(frozen=True)
class Pulls:
    """Numbers of pull requests. ``others`` have nothing to do with either release."""

    ranker: int
    encoder: int
    others: tuple[int, ...]
    merged: str
    """The merge commit of the ranker's."""


def pull_requests(github: GitHub, clock: Clock, times: Times) -> Pulls:
    """A history with pull requests of which two caused the releases; the others are near them in time, in
    the names of their folders, or in both."""

    def committed(at: float) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))

    def change(
        branch: str, folder: str, merged_at: float, file: str = "rollout.yaml", old: float = 5 * MINUTE
    ) -> tuple[int, str]:
        """A pull request of a commit that was ``old`` seconds old when it was merged."""
        path = f"generated/{folder}/{file}"
        github.commit({path: f"# {branch}\n"}, on=branch, date=committed(merged_at - old))
        clock.turn_to(merged_at)
        number = github.pull(branch, f"{branch} <img src=x onerror=alert(1)> @everyone")
        return number, github.merge(number, "merge")

    earlier, _ = change("ranker-46.0.0", "prod/search/ranker", times.now - 3 * DAY)
    encoder, _ = change("encoder-3.0.1", "prod/search/encoder", times.encoder - 9 * MINUTE)
    staging, _ = change("ranker-in-staging", "staging/search/ranker", times.ranker - 6 * MINUTE)
    ranker, merged = change("ranker-46.1.0", "prod/search/ranker", times.ranker - 8 * MINUTE)
    lite, _ = change("lite", "prod/search/ranker-lite", times.ranker - 5 * MINUTE)
    changes, _ = change("alert", "prod/search/ranker-changes", times.ranker - 4 * MINUTE)
    later, _ = change("late", "prod/search/ranker", times.ranker + 20 * MINUTE, "podmonitor.yaml", HOUR)
    path = "generated/prod/search/ranker/more.yaml"
    github.commit({path: "x\n"}, on="open", date=committed(times.ranker - HOUR))
    still_open = github.pull("open")
    clock.turn_to(None)
    return Pulls(ranker, encoder, (earlier, staging, lite, changes, later, still_open), merged)
