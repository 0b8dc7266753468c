"""What the detector remembers: verdicts, the evidence they were made from, and what was done about them.

One SQLite file. Every change is one transaction, so that a process that is killed at any point leaves
either all or nothing of it; several processes may share the file. What has to be done outside (publish,
restart) is written down before it is done and marked when it was, and is harmless if done twice.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from modelway_runtime.detection import verdict as verdicts
from modelway_runtime.detection.verdict import Comparison, Rollout, State, Verdict, WrongVerdict

SCHEMA = 1
WAIT_S = 3.0
"""How long to wait for another process that writes."""
VERDICTS_S = 180 * 86400.0
EVIDENCE_S = 30 * 86400.0
EVIDENCE_BYTES = 400 << 20
"""The compiler's volume has a gibibyte; while a file is written it holds what is deleted, too."""
DUE_S = 7 * 86400.0
"""Older news is published no more."""
LEASE_S = 120.0
"""Whoever publishes has so long; then another may. Mostly the first was killed; if not, both say the same."""
_MIGRATIONS = (
    """
    CREATE TABLE verdicts (
        id TEXT PRIMARY KEY,
        namespace TEXT NOT NULL,
        model TEXT NOT NULL,
        comparison TEXT NOT NULL,
        state TEXT NOT NULL,
        pod_hash TEXT,
        started_at REAL,
        judged_at REAL NOT NULL,
        final INTEGER NOT NULL,
        digest TEXT NOT NULL,
        document BLOB NOT NULL,
        publication TEXT NOT NULL,
        published_state TEXT,
        leased_until REAL NOT NULL DEFAULT 0,
        result BLOB
    );
    CREATE INDEX verdicts_of_model ON verdicts (namespace, model, judged_at);
    CREATE TABLE evidence (digest TEXT PRIMARY KEY, packed BLOB NOT NULL, stored_at REAL NOT NULL);
    CREATE TABLE looks (
        namespace TEXT NOT NULL, model TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY (namespace, model)
    );
    CREATE TABLE restarts (
        namespace TEXT NOT NULL,
        model TEXT NOT NULL,
        occasion TEXT NOT NULL,
        at TEXT NOT NULL,
        done INTEGER NOT NULL,
        PRIMARY KEY (namespace, model, occasion)
    );
    """,
)
Publication: TypeAlias = Literal["none", "due", "done"]


class MemoryFailed(Exception):
    """The file cannot be used; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """A verdict as it is listed."""

    id: str
    namespace: str
    model: str
    comparison: Comparison
    state: State
    judged_at: float


@dataclass(frozen=True, slots=True)
class Standing:
    """The latest verdict on a rollout. ``told`` is the state that was published, or is due to be."""

    state: State
    final: bool
    told: State | None


class Memory:
    """One file; may be used by several threads. All methods raise MemoryFailed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        with self._failing():
            os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
            self._database = sqlite3.connect(
                path, timeout=WAIT_S, isolation_level=None, check_same_thread=False
            )
        try:
            with self._failing():
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute("PRAGMA synchronous = NORMAL")
            self._migrate()
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def remember(
        self, verdict: Verdict, packed: bytes | None, *, final: bool, publication: Publication = "none"
    ) -> None:
        """Store a verdict in place of an earlier one of its id, never in place of a later one.

        ``packed`` is the evidence; ``final`` says that no later look will find more. ``due``: it is to be
        published, which stays so until ``published`` is called.
        """
        judged_at = verdict.judged_at.timestamp()
        rollout = verdict.rollout
        with self._transaction() as database:
            standing = database.execute(
                "SELECT judged_at, publication FROM verdicts WHERE id = ?", (verdict.id,)
            ).fetchone()
            if standing and standing[0] > judged_at:
                return
            if standing and standing[1] == "due":
                publication = "due"
            database.execute(
                "INSERT INTO verdicts (id, namespace, model, comparison, state, pod_hash, started_at,"
                " judged_at, final, digest, document, publication)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET state = excluded.state, judged_at = excluded.judged_at,"
                " final = excluded.final, digest = excluded.digest, document = excluded.document,"
                " publication = iif(excluded.publication = 'none', publication, excluded.publication)",
                (
                    verdict.id,
                    verdict.namespace,
                    verdict.model,
                    verdict.comparison,
                    verdict.state,
                    rollout.hash if rollout else None,
                    rollout.started_at.timestamp() if rollout else None,
                    judged_at,
                    final,
                    verdict.series_digest,
                    verdicts.to_json(verdict),
                    publication,
                ),
            )
            if packed is not None:
                row = (verdict.series_digest, packed, time.time())
                database.execute("INSERT OR IGNORE INTO evidence VALUES (?, ?, ?)", row)
            if verdict.comparison == "watch":
                _forget_quiet_looks(database, verdict)
            database.execute("DELETE FROM evidence WHERE digest NOT IN (SELECT digest FROM verdicts)")

    def verdict(self, identity: str) -> Verdict | None:
        """The verdict of an id."""
        found = self._one("SELECT document FROM verdicts WHERE id = ?", identity)
        return _verdict(found[0]) if found else None

    def verdicts(
        self, limit: int = 100, model: str | None = None, namespace: str | None = None
    ) -> list[Remembered]:
        """The latest first; of one model or one namespace."""
        rows = self._all(
            "SELECT id, namespace, model, comparison, state, judged_at FROM verdicts"
            " WHERE (?1 IS NULL OR namespace = ?1) AND (?2 IS NULL OR model = ?2)"
            " ORDER BY judged_at DESC, id LIMIT ?3",
            namespace,
            model,
            limit,
        )
        return [Remembered(*row) for row in rows]

    def evidence(self, digest: str) -> bytes | None:
        """Packed; None once it is older than is kept."""
        found = self._one("SELECT packed FROM evidence WHERE digest = ?", digest)
        return bytes(found[0]) if found else None

    def standing(self, rollout: Rollout, comparison: Comparison) -> Standing | None:
        """What is known of a rollout."""
        found = self._one(
            "SELECT state, final, iif(publication = 'due', state, published_state) FROM verdicts"
            " WHERE namespace = ? AND model = ? AND comparison = ? AND started_at = ? AND pod_hash IS ?"
            " ORDER BY judged_at DESC LIMIT 1",
            rollout.namespace,
            rollout.model,
            comparison,
            rollout.started_at.timestamp(),
            rollout.hash,
        )
        return Standing(found[0], bool(found[1]), found[2]) if found else None

    def last_of(self, namespace: str, model: str, comparison: Comparison) -> State | None:
        """State of the latest verdict of a model by one comparison."""
        found = self._one(
            "SELECT state FROM verdicts WHERE namespace = ? AND model = ? AND comparison = ?"
            " ORDER BY judged_at DESC LIMIT 1",
            namespace,
            model,
            comparison,
        )
        return found[0] if found else None

    def canary_state(self, rollout: Rollout) -> State | None:
        """What the gate said last of a rollout's pods since they started."""
        found = self._one(
            "SELECT state FROM verdicts WHERE namespace = ? AND model = ? AND comparison = 'canary'"
            " AND pod_hash = ? AND judged_at >= ? ORDER BY judged_at DESC LIMIT 1",
            rollout.namespace,
            rollout.model,
            rollout.hash,
            rollout.started_at.timestamp(),
        )
        return found[0] if found else None

    def looked(self, namespace: str, model: str) -> float | None:
        """When a model was looked at last (Unix seconds)."""
        found = self._one("SELECT at FROM looks WHERE namespace = ? AND model = ?", namespace, model)
        return found[0] if found else None

    def look(self, namespace: str, model: str, at: float) -> None:
        with self._transaction() as database:
            database.execute(
                "INSERT INTO looks VALUES (?1, ?2, ?3)"
                " ON CONFLICT (namespace, model) DO UPDATE SET at = max(at, excluded.at)",
                (namespace, model, at),
            )

    def lease_due(self) -> Verdict | None:
        """A verdict that is to be published, the earliest, which nobody else will be given for a while."""
        now = time.time()
        with self._transaction() as database:
            found = database.execute(
                "UPDATE verdicts SET leased_until = ?1 WHERE id = (SELECT id FROM verdicts"
                " WHERE publication = 'due' AND leased_until < ?2 ORDER BY judged_at, id LIMIT 1)"
                " RETURNING document",
                (now + LEASE_S, now),
            ).fetchall()
        return _verdict(found[0][0]) if found else None

    def release(self, verdict: Verdict) -> None:
        """It could not be published now; it stays due. Times out by itself if this is never called."""
        self._change("UPDATE verdicts SET leased_until = 0 WHERE id = ?", verdict.id)

    def published(self, verdict: Verdict, result: bytes) -> None:
        """It was published with ``result`` (JSON). A later one of its id that came meanwhile stays due."""
        judged_at = verdict.judged_at.timestamp()
        with self._transaction() as database:
            database.execute(
                "UPDATE verdicts SET published_state = ?2, result = ?3, leased_until = 0,"
                " publication = iif(judged_at <= ?4, 'done', publication),"
                " document = iif(judged_at = ?4, ?5, document) WHERE id = ?1",
                (verdict.id, verdict.state, result, judged_at, verdicts.to_json(verdict)),
            )

    def results(self, identity: str) -> bytes | None:
        """What was published where, as ``published`` was told."""
        found = self._one("SELECT result FROM verdicts WHERE id = ?", identity)
        return bytes(found[0]) if found and found[0] is not None else None

    def plan_restart(self, namespace: str, model: str, occasion: str, at: str) -> str | None:
        """The time to restart with, once for an occasion; None if that was done. The first time that is
        planned stays, so that a restart which is repeated after a crash is the same one."""
        with self._transaction() as database:
            key = (namespace, model, occasion)
            database.execute("INSERT OR IGNORE INTO restarts VALUES (?, ?, ?, ?, 0)", (*key, at))
            found = database.execute(
                "SELECT at, done FROM restarts WHERE namespace = ? AND model = ? AND occasion = ?", key
            ).fetchone()
        return None if found[1] else str(found[0])

    def restarted(self, namespace: str, model: str, occasion: str) -> None:
        self._change(
            "UPDATE restarts SET done = 1 WHERE namespace = ? AND model = ? AND occasion = ?",
            namespace,
            model,
            occasion,
        )

    def tidy(self) -> None:
        """Forget what is older or more than is kept."""
        now = time.time()
        with self._transaction() as database:
            database.execute(
                "DELETE FROM verdicts WHERE judged_at < ? AND publication != 'due'", (now - VERDICTS_S,)
            )
            database.execute(
                "UPDATE verdicts SET publication = 'none' WHERE publication = 'due' AND judged_at < ?",
                (now - DUE_S,),
            )
            database.execute("DELETE FROM evidence WHERE stored_at < ?", (now - EVIDENCE_S,))
            database.execute(
                "DELETE FROM evidence WHERE digest IN (SELECT digest FROM (SELECT digest,"
                " sum(length(packed)) OVER (ORDER BY stored_at DESC, digest) AS upto FROM evidence)"
                " WHERE upto > ?)",
                (EVIDENCE_BYTES,),
            )
            database.execute("DELETE FROM evidence WHERE digest NOT IN (SELECT digest FROM verdicts)")

    def _migrate(self) -> None:
        with self._transaction() as database:
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA:
                raise MemoryFailed(
                    f"{self._path} was written by a newer detector (schema {version}; this one knows "
                    f"{SCHEMA}): run that version again, or name another `memory_file`"
                )
            for number in range(version, SCHEMA):
                for statement in _MIGRATIONS[number].split(";"):
                    database.execute(statement)
            database.execute(f"PRAGMA user_version = {SCHEMA:d}")

    def _change(self, statement: str, *values: Any) -> None:
        with self._transaction() as database:
            database.execute(statement, values)

    def _one(self, query: str, *values: Any) -> Any:
        with self._lock, self._failing():
            return self._database.execute(query, values).fetchone()

    def _all(self, query: str, *values: Any) -> list[Any]:
        with self._lock, self._failing():
            return self._database.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """The lock of the file is taken at the beginning: what is read in it stays true until its end."""
        with self._lock, self._failing():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                if self._database.in_transaction:  # a full disk has ended it already
                    self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise MemoryFailed(
                f"the memory {self._path} cannot be used: {error}; check `memory_file`, its volume and who "
                "owns it"
            ) from None


def _forget_quiet_looks(database: sqlite3.Connection, latest: Verdict) -> None:
    """Of looks that found nothing the latest is enough: there is one every few minutes."""
    database.execute(
        "DELETE FROM verdicts WHERE namespace = ? AND model = ? AND comparison = 'watch' AND id != ?"
        " AND state NOT IN ('regressed', 'improved') AND publication = 'none'",
        (latest.namespace, latest.model, latest.id),
    )


def _verdict(document: bytes) -> Verdict:
    try:
        return verdicts.from_json(bytes(document))
    except WrongVerdict as error:
        raise MemoryFailed(f"a stored verdict cannot be read: {error}") from None
