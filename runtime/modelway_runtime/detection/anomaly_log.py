"""The anomaly log: a line of JSON on standard output for each verdict, follow-up and failure.

It is for machines. Names in it are data of others, which JSON escapes; no token gets this far.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import IO, Any

import msgspec

from modelway_runtime.detection.follow_up import FollowUp
from modelway_runtime.detection.settings import Watched
from modelway_runtime.detection.verdict import MetricVerdict, Verdict


class AnomalyLog:
    """Lines are whole, whatever threads write; without an output they go nowhere."""

    def __init__(self, output: IO[str] | None) -> None:
        self._output = output
        self._lock = threading.Lock()

    def verdict(self, verdict: Verdict) -> None:
        self._write(
            "verdict",
            verdict.namespace,
            verdict.model,
            id=verdict.id,
            environment=verdict.environment,
            team=verdict.team,
            comparison=verdict.comparison,
            state=verdict.state,
            reason=None if verdict.reason is msgspec.UNSET else verdict.reason,
            decided_at=None if verdict.decided_at is msgspec.UNSET else verdict.decided_at,
            severity=verdict.severity,
            judged_at=verdict.judged_at,
            rollout=verdict.rollout,
            changed=list(_changed(verdict.metrics)),
            series_digest=verdict.series_digest,
            **_cause(verdict),
        )

    def published(self, verdict: Verdict, problems: Iterable[str]) -> None:
        """After a verdict was published: where, and what went wrong beside it."""
        self._write(
            "published",
            verdict.namespace,
            verdict.model,
            id=verdict.id,
            state=verdict.state,
            **_cause(verdict),
            problems=list(problems),
        )

    def follow_up(self, verdict: Verdict, done: FollowUp) -> None:
        self._write(
            "follow_up",
            verdict.namespace,
            verdict.model,
            id=verdict.id,
            kind=done.kind,
            state=done.state,
            pull_request=done.url,
        )

    def restart(self, verdict: Verdict, at: str) -> None:
        self._write(
            "follow_up", verdict.namespace, verdict.model, id=verdict.id, kind="restart", restart_at=at
        )

    def failure(self, watched: Watched, what: str, message: str) -> None:
        """``what`` could not be done; ``message`` is for a person and holds no secret."""
        self._write("failure", watched.namespace, watched.model, failed=what, message=message)

    def _write(self, event: str, namespace: str, model: str, **fields: Any) -> None:
        if self._output is None:
            return
        line = {
            "time": datetime.now(UTC), "event": event, "namespace": namespace, "model": model, **fields,
        }  # fmt: skip
        text = msgspec.json.encode(line).decode("utf-8", "replace")
        with self._lock:
            self._output.write(f"{text}\n")
            self._output.flush()


def _cause(verdict: Verdict) -> dict[str, str | None]:
    return {
        "commit": verdict.commit.sha if verdict.commit else None,
        "pull_request": verdict.pull_request.url if verdict.pull_request else None,
    }


def _changed(metrics: Iterable[MetricVerdict]) -> Iterable[dict[str, Any]]:
    for one in metrics:
        if one.state in ("regressed", "improved"):
            effect = one.effect.relative if one.effect else None
            yield {"name": one.name, "test": one.test, "state": one.state, "effect": effect, "p": one.p}
