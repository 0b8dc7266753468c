"""The gate without HTTP: from a question about a canary to an answer, in time whatever happens.

A look at a canary runs in a small pool of threads. Who asks waits for it at most ``ANSWER_S``; a look that
takes longer goes on, and who asks again meanwhile or soon after gets what it found.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from modelway_runtime.detection.anomaly_log import AnomalyLog
from modelway_runtime.detection.detector import Detector, Look
from modelway_runtime.detection.evidence import pack
from modelway_runtime.detection.history import HistoryFailed, NothingSeen
from modelway_runtime.detection.memory import Memory, MemoryFailed, Publication
from modelway_runtime.detection.monitoring import Monitoring
from modelway_runtime.detection.prometheus import PrometheusHistory
from modelway_runtime.detection.report import words
from modelway_runtime.detection.sanitise import plain
from modelway_runtime.detection.settings import Settings, Watched
from modelway_runtime.detection.verdict import Outcome, State, Verdict

log = logging.getLogger(__name__)

ANSWER_S = 4.5
"""The contract says five seconds."""
LOOK_S = 60.0
"""When a look gives up; Rollouts asks once a minute."""
THREADS = 4
MOST_LOOKS = 64
"""At a time, those that wait among them."""
KEPT_S = 180.0
"""How long an answer may stand in for one that is not ready yet."""

Text: TypeAlias = Annotated[str, Meta(max_length=253)]
PodHash: TypeAlias = Annotated[str, Meta(pattern=r"\A[a-z0-9]{0,63}\Z")]


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of ``POST /v1/gate``. ``metrics`` are names of patterns; none means all."""

    environment: Text
    namespace: Text
    model: Text
    canary_hash: PodHash
    stable_hash: PodHash
    started_at: Annotated[datetime, Meta(tz=True)] | None = None
    metrics: Annotated[tuple[Text, ...], Meta(max_length=100)] = ()


class Answer(msgspec.Struct, frozen=True):
    """``reason`` is the verdict's, or what kept the detector from one; ``verdict`` an address, or empty."""

    outcome: Outcome
    state: State
    reason: str = ""
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class _Kept:
    answer: Answer
    minute: int
    at: float


def inconclusive(reason: str) -> Answer:
    """Whatever the trouble is, it is no error of the release."""
    return Answer("inconclusive", "inconclusive", reason)


class Gate:
    """Made and asked in one event loop. ``settings`` may be replaced by newer ones at any time."""

    def __init__(
        self, settings: Settings, memory: Memory, monitoring: Monitoring, anomalies: AnomalyLog
    ) -> None:
        self.settings = settings
        self.memory = memory
        self._monitoring = monitoring
        self._anomalies = anomalies
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="gate")
        self._looking: dict[Question, asyncio.Task[Answer]] = {}
        self._kept: dict[Question, _Kept] = {}

    async def ask(self, question: Question, namespace: str, within_s: float = ANSWER_S) -> Answer:
        """``namespace`` is the caller's, who may ask of no other. Never raises for trouble of the detector's
        own."""
        settings = self.settings
        watched = _watched(settings, question, namespace)
        if isinstance(watched, str):
            return inconclusive(watched)
        kept = self._kept.get(question)
        if kept and kept.minute == _minute():
            return kept.answer
        task = self._looking.get(question)
        if task is None:
            if len(self._looking) >= MOST_LOOKS:
                return inconclusive("the detector is busy with other looks; ask again")
            task = asyncio.create_task(self._look(settings, watched, question))
            self._looking[question] = task
        done, _ = await asyncio.wait((task,), timeout=max(within_s, 0.0))
        if done:
            return task.result()
        if kept and time.monotonic() - kept.at < KEPT_S:
            return kept.answer
        return inconclusive("still looking; ask again")

    def close(self) -> None:
        """Looks that still run are left to the end of the process."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _look(self, settings: Settings, watched: Watched, question: Question) -> Answer:
        minute = _minute()
        loop = asyncio.get_running_loop()
        try:
            answer = await loop.run_in_executor(self._pool, self._carefully, settings, watched, question)
        finally:
            del self._looking[question]
        now = time.monotonic()
        self._kept = {one: kept for one, kept in self._kept.items() if now - kept.at < KEPT_S}
        self._kept[question] = _Kept(answer, minute, now)
        return answer

    def _carefully(self, settings: Settings, watched: Watched, question: Question) -> Answer:
        """In a thread of the pool."""
        began = time.monotonic()
        try:
            look = _looked(settings, watched, question)
        except NothingSeen as nothing:
            return inconclusive(str(nothing))
        except HistoryFailed as failed:
            self._failed(watched, began, str(failed))
            return inconclusive(plain(str(failed), 1000))
        except Exception:
            log.exception("looking at the canary of %s failed", watched.model)
            self._failed(watched, began, "an error of the detector itself; its log says more")
            return inconclusive("an error of the detector itself; its log says more")
        verdict = look.verdict
        self._monitoring.looked(verdict, time.monotonic() - began)
        self._anomalies.verdict(verdict)
        verdict_at = self._remembered(settings, watched, look)
        return Answer(verdict.outcome, verdict.state, _reason(verdict), verdict_at)

    def _failed(self, watched: Watched, began: float, message: str) -> None:
        self._monitoring.failed(watched, time.monotonic() - began)
        self._anomalies.failure(watched, "look", message)

    def _remembered(self, settings: Settings, watched: Watched, look: Look) -> str:
        """The verdict's address; empty where it could not be stored."""
        verdict = look.verdict
        publication: Publication = "none"
        try:
            standing = self.memory.standing(verdict.rollout, "canary") if verdict.rollout else None
            told = standing.told if standing else None
            if settings.publish and verdict.state == "regressed" and told != "regressed":
                publication = "due"
            final = verdict.state != "pending"
            self.memory.remember(verdict, pack(look.evidence), final=final, publication=publication)
        except MemoryFailed as failed:
            log.error("the verdict on %s is not stored: %s", watched.model, failed)  # noqa: TRY400
            return ""
        return page_url(settings, verdict) or ""


def _reason(verdict: Verdict) -> str:
    """Why nothing is decided; of a success, what a canary of so few pods could have shown at all."""
    if verdict.reason is not msgspec.UNSET:
        return verdict.reason
    return words.seen(verdict, lambda name: plain(name, 63)) if verdict.outcome == "success" else ""


def page_url(settings: Settings, verdict: Verdict) -> str | None:
    """Where people read a verdict; None without a gate."""
    gate = settings.gate
    return f"{gate.public_url.rstrip('/')}/v1/verdicts/{verdict.id}" if gate else None


def _minute() -> int:
    return int(time.time() // 60)


def _watched(settings: Settings, question: Question, namespace: str) -> Watched | str:
    """The model that is asked about, or why there is no answer."""
    if question.environment != settings.environment:
        return f"this detector watches {settings.environment}, not {plain(question.environment, 63)}"
    if question.namespace != namespace:
        return f"the token is that of {namespace}, not of {plain(question.namespace, 63)}"
    wanted = (question.namespace, question.model)
    found = next((one for one in settings.watched if (one.namespace, one.model) == wanted), None)
    if found is None:
        return f"{plain(question.model, 63)} in {plain(question.namespace, 63)} is not watched"
    unknown = [name for name in question.metrics if name not in found.patterns]
    if unknown:
        return f"{found.model} has no pattern {plain(unknown[0], 63)}"
    return found


def _looked(settings: Settings, watched: Watched, question: Question) -> Look:
    server = settings.prometheus
    history = PrometheusHistory(server, {one.namespace for one in settings.watched}, LOOK_S / 2)
    return Detector(settings.environment, history, server.history_s).look_at_canary(
        watched,
        question.canary_hash,
        question.stable_hash,
        time.time(),
        question.started_at.timestamp() if question.started_at else None,
        tuple(dict.fromkeys(question.metrics)),
    )
