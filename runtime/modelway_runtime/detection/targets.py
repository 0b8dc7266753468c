"""What a person asks `detect` about: a model of the settings or of a laptop, and a time or a commit."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np

from modelway_runtime.detection.detector import (
    UNKNOWN_VERSION,
    Detector,
    Look,
    of_model,
    with_cause,
)
from modelway_runtime.detection.forge import ForgeFailed, connect
from modelway_runtime.detection.history import STEP_S, History, HistoryFailed, NothingSeen
from modelway_runtime.detection.measuring import Grid
from modelway_runtime.detection.promapi import Api
from modelway_runtime.detection.prometheus import PrometheusHistory
from modelway_runtime.detection.promql import READY, Matcher, Running, Selector, one_of
from modelway_runtime.detection.sanitise import plain
from modelway_runtime.detection.series_files import FileHistory
from modelway_runtime.detection.settings import Pattern, Prometheus, Settings, Watched
from modelway_runtime.detection.verdict import Commit, Rollout, Verdict

HISTORY_S = 14 * 86400.0
COMMIT = re.compile(r"[0-9a-f]{7,40}")
_SLACK_S = 300.0
"""A release that is told by a person or read from samples may be off by so much."""
_ROLLED_OUT_S = 86400.0
"""A commit that is not rolled out within so long is not looked for."""


class WrongQuestion(Exception):
    """The options do not fit together, or name what is not there; the text says what to give."""


@dataclass(frozen=True, slots=True)
class Target:
    """What to look at. ``settings`` is None on a laptop."""

    detector: Detector
    watched: Watched
    now: float
    settings: Settings | None


@dataclass(frozen=True, slots=True)
class Release:
    """A commit, as a repository knows it."""

    sha: str
    at: datetime


class _Who(msgspec.Struct, frozen=True):
    date: datetime


class _GitCommit(msgspec.Struct, frozen=True):
    committer: _Who


class _Commit(msgspec.Struct, frozen=True):
    sha: str
    commit: _GitCommit


def of_settings(settings: Settings, model: str | None, series: Path | None) -> Target:
    """Raises WrongQuestion and HistoryFailed."""
    watched = _chosen(settings.watched, model)
    server = settings.prometheus
    if series is None:
        namespaces = {one.namespace for one in settings.watched}
        return _target(
            settings.environment, PrometheusHistory(server, namespaces), server.history_s, watched, settings
        )
    history = FileHistory(series, watched, server.scrape_interval_s)
    return _target(settings.environment, history, server.history_s, watched, settings, _end(history, watched))


def of_laptop(
    environment: str,
    model: str,
    team: str | None,
    namespace: str | None,
    url: str | None,
    series: Path | None,
) -> Target:
    """Sensible patterns of a model, from a Prometheus without authentication or from a file.

    Raises WrongQuestion and HistoryFailed.
    """
    server = Prometheus(
        url=url or "http://localhost",
        timeout_s=30.0,
        history_s=HISTORY_S,
        scrape_interval_s=60.0,  # rates over four minutes, whatever the interval is
        token_file=None,
        tls=None,
        tenant=None,
    )
    if namespace is None and team is not None:
        namespace = f"{team}-{environment}"
    history: History
    if series is None:
        namespace = namespace or _namespace(server, environment, model)
        watched, now = _laptop_watched(environment, model, team, namespace), time.time()
        history = PrometheusHistory(server, [namespace])
    else:
        watched = _laptop_watched(environment, model, team, namespace or f"local-{environment}")
        history = FileHistory(series, watched, server.scrape_interval_s)
        if namespace is None:
            last = history.last()
            seen = history.rollouts(last - HISTORY_S, last + STEP_S)
            names = {one.namespace for one in seen if one.model == model}
            if names:
                watched = _laptop_watched(environment, model, team, _only_one(names, model))
        now = _end(history, watched)
    return _target(environment, history, HISTORY_S, _measured(history, watched, now), None, now)


def look(target: Target, at: str | None, since_s: float) -> tuple[Look, Release | None]:
    """At a release, or at now where there was none within ``since_s``; and the commit that was asked for.

    ``at`` is a commit or an RFC 3339 time. Raises WrongQuestion, NothingSeen, HistoryFailed and ForgeFailed.
    """
    detector, watched, now = target.detector, target.watched, target.now
    if at is None:
        rollouts = detector.rollouts(now)
        recent = [one for one in of_model(rollouts, watched) if one.started_at.timestamp() >= now - since_s]
        if not recent:
            return detector.look_at_now(watched, now, rollouts), None
        return detector.look_at_release(watched, recent[-1], now), None
    if COMMIT.fullmatch(at):
        commit = _commit(target, at)
        return detector.look_at_release(watched, _rolled_out(target, commit), now), commit
    return detector.look_at_release(watched, _released(target, at), now), None


def caused(target: Target, verdict: Verdict, commit: Release | None) -> Verdict:
    """With commit and pull request where the settings name a forge. Raises ForgeFailed."""
    settings = target.settings
    if settings and settings.publish:
        forge = connect(settings.publish)
        try:
            verdict = with_cause(verdict, forge, settings.publish, settings.argocd)
        finally:
            forge.close()
    if verdict.commit is None and commit is not None:
        return msgspec.structs.replace(verdict, commit=Commit(sha=commit.sha, found_by="history"))
    return verdict


def _target(
    environment: str,
    history: History,
    history_s: float,
    watched: Watched,
    settings: Settings | None,
    now: float | None = None,
) -> Target:
    return Target(Detector(environment, history, history_s), watched, now or time.time(), settings)


def _chosen(watched: Sequence[Watched], model: str | None) -> Watched:
    """By ``model``, ``team/model`` or ``namespace/model``; the only one without a name."""
    names = ", ".join(f"{one.namespace}/{one.model}" for one in watched)
    if model is None:
        if len(watched) == 1:
            return watched[0]
        raise WrongQuestion(f"several models are watched: name one of {names} with --model")
    where, _, name = model.rpartition("/")
    found = [
        one for one in watched if one.model == name and (not where or where in (one.team, one.namespace))
    ]
    if len(found) == 1:
        return found[0]
    problem = "is not watched" if not found else "is watched in several namespaces"
    raise WrongQuestion(f"{plain(model, 130)} {problem}: name one of {names} with --model")


def laptop_patterns() -> dict[str, Pattern]:
    """What is worth a look at any model."""

    def pattern(metric: str, quantile: float | None, worse: str, effect: float) -> Pattern:
        value = {
            "metric": metric, "quantile": quantile, "worse": worse, "minimum_effect": effect,
            "window_s": 3600.0, "sensitivity": "normal",
        }  # fmt: skip
        return msgspec.convert(value, Pattern)

    return {
        "latency-p50": pattern("latency", 0.5, "up", 0.05),
        "latency-p99": pattern("latency", 0.99, "up", 0.05),
        "errors": pattern("error_ratio", None, "up", 0.2),
        "throughput": pattern("throughput", None, "both", 0.05),
        "output-value": pattern("output_value", None, "both", 0.2),
    }


def _laptop_watched(environment: str, model: str, team: str | None, namespace: str) -> Watched:
    value = {
        "namespace": namespace,
        "team": team or namespace.removesuffix(f"-{environment}"),
        "model": model,
        "job": model,
        "workload": None,
        "standby": None,
        "patterns": msgspec.to_builtins(laptop_patterns()),
        "severity": "info",
        "response": ["notify"],
    }
    try:
        return msgspec.convert(value, Watched)
    except msgspec.ValidationError as error:
        raise WrongQuestion(f"these are no names of Kubernetes: {error}") from None


def _measured(history: History, watched: Watched, now: float) -> Watched:
    """Without the patterns that its series have nothing for: nobody asked for them by name."""
    names = tuple(watched.patterns)
    if isinstance(history, FileHistory):
        kept = [name for name in names if _has(history, watched, name, now)]
    else:
        _, measured = history.release(watched, names, now - _ROLLED_OUT_S, now)
        kept = [one.name for one in measured if np.isfinite(one.series.values).any()]
    if not kept:
        raise WrongQuestion(f"the series of {watched.model} have none of {', '.join(names)}")
    return msgspec.structs.replace(watched, patterns={name: watched.patterns[name] for name in kept})


def _has(history: History, watched: Watched, name: str, now: float) -> bool:
    """Whether a file has a pattern; a table without its column raises."""
    try:
        _, (measured,) = history.release(watched, (name,), now - _ROLLED_OUT_S, now)
    except HistoryFailed:
        return False
    return bool(np.isfinite(measured.series.values).any())


def _namespace(server: Prometheus, environment: str, model: str) -> str:
    """Where the model runs: ``<team>-<environment>``, of whatever team."""
    wanted = (
        Matcher("model", model),
        Matcher("namespace", f".+-{one_of([environment])}", pattern=True),
    )
    now = time.time()
    answer = Api(server).query_range(Running(Selector(READY, wanted)), Grid.within(now - 86400.0, now))
    names = {key[0] for key in answer}
    if not names:
        raise WrongQuestion(f"no {model} was seen in a namespace ending in -{environment}: give --namespace")
    return _only_one(names, model)


def _only_one(names: set[str], model: str) -> str:
    if len(names) > 1:
        shown = ", ".join(plain(name, 63) for name in sorted(names)[:10])
        raise WrongQuestion(f"{model} runs in several namespaces ({shown}): give --namespace")
    return next(iter(names))


def _end(history: FileHistory, watched: Watched) -> float:
    """After the model's last sample in a file: what "now" is there. Raises WrongQuestion."""
    last = history.last()
    load, _ = history.release(watched, (), last - HISTORY_S, last + 2 * STEP_S)
    known = np.flatnonzero(np.isfinite(load.values))
    if not len(known):
        raise WrongQuestion(f"the file has no requests of {watched.model} in {watched.namespace}")
    return float(load.times[known[-1]] + STEP_S)


def _released(target: Target, text: str) -> Rollout:
    """The rollout at a time; where the series show none, one of an unknown version."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = datetime.min
    if at.tzinfo is None:
        raise WrongQuestion(
            "--at takes a commit (7 to 40 hexadecimal digits) or a time such as 2026-11-21T10:00:00Z"
        )
    moment = at.timestamp()
    if moment >= target.now:
        raise WrongQuestion(f"{text} is later than the last sample")
    found = _rollouts(target, moment - _SLACK_S, moment + _SLACK_S)
    if found:
        return min(found, key=lambda one: abs(one.started_at.timestamp() - moment))
    watched = target.watched
    return Rollout(
        namespace=watched.namespace,
        model=watched.model,
        version=UNKNOWN_VERSION,
        hash=None,
        previous_hash=None,
        started_at=at.astimezone(UTC).replace(microsecond=0),
    )


def _rolled_out(target: Target, commit: Release) -> Rollout:
    at = commit.at.timestamp()
    found = _rollouts(target, at - _SLACK_S, min(at + _ROLLED_OUT_S, target.now))
    if not found:
        hours = _ROLLED_OUT_S / 3600
        raise NothingSeen(
            f"no rollout of {target.watched.model} began within {hours:.0f} hours after {commit.sha[:12]} "
            f"({commit.at.astimezone(UTC):%Y-%m-%dT%H:%MZ}): give the time of the release with --at"
        )
    return found[0]


def _rollouts(target: Target, start: float, end: float) -> list[Rollout]:
    if start >= end:
        return []
    return of_model(target.detector.history.rollouts(start, end), target.watched)


def _commit(target: Target, sha: str) -> Release:
    """From the forge of the settings, else from the Git repository of the current folder."""
    settings = target.settings
    if not (settings and settings.publish):
        return _of_git(sha)
    forge = connect(settings.publish)
    try:
        found = forge.get(f"/commits/{sha}", _Commit)
    except ForgeFailed as failed:
        if failed.status in (404, 422):
            raise WrongQuestion(f"{settings.publish.repository} has no commit {sha}") from None
        raise
    finally:
        forge.close()
    return Release(found.sha, found.commit.committer.date)


def _of_git(sha: str) -> Release:
    command = [
        "git",
        "show",
        "--no-patch",
        "--no-show-signature",
        "--format=%H %cI",
        f"{sha}^{{commit}}",
        "--",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WrongQuestion(
            f"git does not answer ({type(error).__name__}): give the time with --at"
        ) from None
    full, _, date = done.stdout.strip().partition(" ")
    if done.returncode != 0 or not COMMIT.fullmatch(full):
        raise WrongQuestion(
            f"the Git repository here has no commit {sha}: give the time of the release with --at"
        )
    return Release(full, datetime.fromisoformat(date))
