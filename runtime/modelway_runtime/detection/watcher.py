"""Looks at all watched models, again and again, and sees to what follows from a verdict.

A rollout whose windows are not over is pending; once they are, it is judged for good, once. A model with no
such rollout is compared with its own past. What has to be published is written down with the verdict and
done after the looks, so that neither a crash nor a forge that is away loses it or does it twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial

import msgspec
from cronsim import CronSim, CronSimError

from modelway_runtime.detection.anomaly_log import AnomalyLog
from modelway_runtime.detection.detector import Detector, Look, decided_at, of_model, with_cause
from modelway_runtime.detection.evidence import pack
from modelway_runtime.detection.follow_up import revert_command
from modelway_runtime.detection.forge import ForgeFailed, connect
from modelway_runtime.detection.gate import page_url
from modelway_runtime.detection.history import HistoryFailed
from modelway_runtime.detection.memory import Memory, MemoryFailed
from modelway_runtime.detection.monitoring import Monitoring
from modelway_runtime.detection.prometheus import PrometheusHistory
from modelway_runtime.detection.publish import publish
from modelway_runtime.detection.report import markdown
from modelway_runtime.detection.restart import RestartFailed, respond_restart
from modelway_runtime.detection.service import plots_of
from modelway_runtime.detection.settings import Settings, Watched
from modelway_runtime.detection.verdict import Rollout, Verdict
from modelway_runtime.settings import WrongSettings

log = logging.getLogger(__name__)

CALL_S = 120.0
"""The longest that reading one history may take."""
LONGEST_AWAY_S = 7 * 86400.0
"""Releases that were decided while the detector was away are judged if that was not longer ago."""
SAME_S = 86400.0
"""A model that regressed with a release is still worse so much later, which is no news."""
_NAP_S = 1.0


class Watcher:
    """One environment. ``settings`` may be replaced by newer ones at any time; ``stop`` ends it soon."""

    def __init__(
        self, settings: Settings, memory: Memory, monitoring: Monitoring, anomalies: AnomalyLog
    ) -> None:
        self.settings = settings
        self.stop = threading.Event()
        self._memory = memory
        self._monitoring = monitoring
        self._anomalies = anomalies

    def run(self) -> None:
        """Until ``stop`` is set, at the times of the schedule. The settings have one."""
        while not self.stop.is_set():
            settings = self.settings
            at = next_time(settings, datetime.now(UTC))
            while not self.stop.is_set() and self.settings is settings:
                self._monitoring.beat()
                left = at.timestamp() - time.time() if at else _NAP_S
                if left <= 0:
                    self.look(time.time())
                    break
                self.stop.wait(min(left, _NAP_S))

    def look(self, now: float) -> bool:
        """At each model once, then publish what is due. Whether all of it went well."""
        settings = self.settings
        self._monitoring.expect(settings.watched)
        server = settings.prometheus
        history = PrometheusHistory(server, {one.namespace for one in settings.watched}, CALL_S)
        detector = Detector(settings.environment, history, server.history_s)
        rollouts: list[Rollout] = []
        if not self._carefully(settings.watched, "look", lambda: rollouts.extend(detector.rollouts(now))):
            return False
        well = True
        for watched in settings.watched:
            if self.stop.is_set():
                return well
            self._monitoring.beat()
            work = partial(self._model, detector, watched, rollouts, now)
            well &= self._carefully((watched,), "look", work)
        well &= self._publish_due(settings, rollouts)
        return well & self._carefully((), "tidy", self._memory.tidy)

    def _carefully(self, concerned: Sequence[Watched], what: str, work: Callable[[], None]) -> bool:
        """One model's trouble is no other's. Whether it went well."""
        began = time.monotonic()
        try:
            work()
        except (HistoryFailed, MemoryFailed, ForgeFailed, RestartFailed) as failed:
            message = str(failed)
            log.warning("%s failed: %s", what, message)
        except Exception:
            message = "an error of the detector itself; its log says more"
            log.exception("%s failed", what)
        else:
            return True
        for watched in concerned:
            if what == "look":
                self._monitoring.failed(watched, time.monotonic() - began)
            self._anomalies.failure(watched, what, message)
        return False

    def _model(self, detector: Detector, watched: Watched, rollouts: Sequence[Rollout], now: float) -> None:
        undecided = self._undecided(watched, rollouts, now)
        for rollout in undecided:
            began = time.monotonic()
            look = detector.look_at_release(watched, rollout, now, rollouts)
            final = look.evidence.now >= decided_at(watched, rollout)
            standing = self._memory.standing(rollout, "release")
            tell = final or standing is None or standing.told != look.verdict.state
            self._seen(look, began, final=final, tell=tell)
        if not undecided:
            began = time.monotonic()
            before = self._memory.last_of(watched.namespace, watched.model, "watch")
            look = detector.look_at_now(watched, now, rollouts)
            news = before != "regressed" and not self._known(watched, rollouts, now)
            tell = look.verdict.state == "regressed" and news
            self._seen(look, began, final=True, tell=tell)
        self._memory.look(watched.namespace, watched.model, now)

    def _undecided(self, watched: Watched, rollouts: Sequence[Rollout], now: float) -> list[Rollout]:
        """Rollouts whose windows are not over, or ended since the last look; without those that are judged
        for good, or whose canary the gate has turned away."""
        last = self._memory.looked(watched.namespace, watched.model)
        since = now if last is None else max(last, now - LONGEST_AWAY_S)
        found = []
        for rollout in of_model(rollouts, watched):
            standing = self._memory.standing(rollout, "release")
            if decided_at(watched, rollout) <= since and (standing is None or standing.final):
                continue
            if (standing is None or not standing.final) and self._memory.canary_state(rollout) != "regressed":
                found.append(rollout)
        return found

    def _known(self, watched: Watched, rollouts: Sequence[Rollout], now: float) -> bool:
        """Whether a regression now is that of a release which was judged."""
        recent = [one for one in of_model(rollouts, watched) if one.started_at.timestamp() > now - SAME_S]
        standing = [self._memory.standing(one, "release") for one in recent]
        return any(one is not None and one.state == "regressed" for one in standing)

    def _seen(self, look: Look, began: float, *, final: bool, tell: bool) -> None:
        settings, verdict = self.settings, look.verdict
        watched = _watched(settings, verdict)
        if tell and settings.publish and verdict.rollout:
            verdict = self._caused(settings, verdict)
        due = tell and watched is not None and (settings.publish is not None or "restart" in watched.response)
        packed = pack(look.evidence)
        self._memory.remember(verdict, packed, final=final, publication="due" if due else "none")
        self._monitoring.looked(verdict, time.monotonic() - began)
        self._anomalies.verdict(verdict)

    def _caused(self, settings: Settings, verdict: Verdict) -> Verdict:
        """With what caused it, if the forge answers now; else it is asked again before publishing."""
        assert settings.publish is not None
        try:
            forge = connect(settings.publish)
            try:
                return with_cause(verdict, forge, settings.publish, settings.argocd)
            finally:
                forge.close()
        except ForgeFailed as failed:
            log.warning("what caused the rollout of %s is not known yet: %s", verdict.model, failed)
            return verdict

    def _publish_due(self, settings: Settings, rollouts: Sequence[Rollout]) -> bool:
        tried: list[Verdict] = []
        while not self.stop.is_set() and (verdict := self._leased()) is not None:
            watched = _watched(settings, verdict)
            work = partial(self._publish, settings, watched, verdict, rollouts)
            if not self._carefully((watched,) if watched else (), "publish", work):
                tried.append(verdict)
        for verdict in tried:  # only now: each is tried once a round
            self._carefully((), "publish", partial(self._memory.release, verdict))
        return not tried

    def _leased(self) -> Verdict | None:
        try:
            return self._memory.lease_due()
        except MemoryFailed as failed:
            log.warning("publish failed: %s", failed)
            return None

    def _publish(
        self, settings: Settings, watched: Watched | None, verdict: Verdict, rollouts: Sequence[Rollout]
    ) -> None:
        """All that follows from a verdict. Nothing where the model is watched no more."""
        result, failed = b"null", None
        if watched is not None:
            restarted = None
            try:
                restarted = self._restart(watched, verdict, rollouts)
            except RestartFailed as error:  # no reason to keep the verdict from people
                failed = error
            if settings.publish:
                verdict, result = self._post(settings, watched, verdict, restarted)
        if failed is not None:
            raise failed
        self._memory.published(verdict, result)

    def _post(
        self, settings: Settings, watched: Watched, verdict: Verdict, restarted: str | None
    ) -> tuple[Verdict, bytes]:
        assert settings.publish is not None
        if verdict.comparison == "canary":  # the stable pods are well: nothing to fail over from
            kept = tuple(each for each in watched.response if each != "failover")
            watched = msgspec.structs.replace(watched, response=kept)
        forge = connect(settings.publish)
        try:
            if verdict.commit is None:
                verdict = with_cause(verdict, forge, settings.publish, settings.argocd)
            plots = plots_of(self._memory, verdict)

            def body(of: Verdict) -> str:
                revert = revert_command(of.commit) if of.commit else None
                text = markdown.comment(of, plots, page_url=page_url(settings, of), revert=revert)
                return f"{text}\nIts pods were restarted: {restarted}.\n" if restarted else text

            done = publish(forge, settings.publish, watched, verdict, body)
        finally:
            forge.close()
        self._anomalies.published(verdict, done.problems)
        for each in done.follow_ups:
            self._anomalies.follow_up(verdict, each)
        for problem in done.problems:
            log.warning("%s: %s", verdict.id, problem)
        return verdict, msgspec.json.encode(done)

    def _restart(self, watched: Watched, verdict: Verdict, rollouts: Sequence[Rollout]) -> str | None:
        """Once a release. An aborted canary needs none. The time of the restart where there was one."""
        if (
            verdict.state != "regressed"
            or verdict.comparison == "canary"
            or "restart" not in watched.response
        ):
            return None
        key = (watched.namespace, watched.model, occasion(of_model(rollouts, watched), verdict))
        at = self._memory.plan_restart(*key, verdict.judged_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        if at is not None:
            respond_restart(watched, at)
            self._memory.restarted(*key)
            self._anomalies.restart(verdict, at)
        return at


def occasion(rollouts: Sequence[Rollout], verdict: Verdict) -> str:
    """What a restart is for: the version that runs, since it began to. A restarted Deployment looks like a
    rollout of the same version, which must not be restarted again."""
    chain: list[Rollout] = []
    for rollout in rollouts:
        if rollout.started_at > verdict.judged_at:
            break
        if chain and chain[-1].version != rollout.version:
            chain = []
        chain.append(rollout)
    return f"{chain[0].version} {chain[0].started_at.isoformat()}" if chain else "no rollout"


def next_time(settings: Settings, now: datetime) -> datetime | None:
    """When to look next, in UTC; None without a schedule. Raises WrongSettings."""
    if settings.schedule is None:
        return None
    try:
        return next(CronSim(settings.schedule, now))
    except (CronSimError, StopIteration) as error:
        raise WrongSettings(f"`$.schedule` names no time: {settings.schedule}: {error}") from None


def _watched(settings: Settings, verdict: Verdict) -> Watched | None:
    wanted = (verdict.namespace, verdict.model)
    return next((one for one in settings.watched if (one.namespace, one.model) == wanted), None)
