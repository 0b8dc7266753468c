"""What the detector remembers: over restarts, between processes, and when it is killed."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelway_runtime.detection import memory as memories
from modelway_runtime.detection import verdict as verdicts
from modelway_runtime.detection.memory import Memory, MemoryFailed
from modelway_runtime.detection.verdict import OUTCOMES, Commit, State, Verdict
from tests.runtime.detection.service.processes import environment

EXAMPLES = Path(__file__).resolve().parents[4] / "policies" / "schemas" / "examples"
EXAMPLE = verdicts.from_json((EXAMPLES / "verdict-v1.json").read_bytes())
NOW = datetime.now(UTC).replace(microsecond=0)


def verdict(number: int = 0, state: State = "regressed", minutes: float = 0, **fields: Any) -> Verdict:
    reason: Any = "no_data" if state == "inconclusive" else msgspec.UNSET
    decided: Any = NOW if state == "pending" else msgspec.UNSET
    return msgspec.structs.replace(
        EXAMPLE,
        **{
            "id": f"prod-search-ranker-{number}",
            "state": state,
            "outcome": OUTCOMES[state],
            "reason": reason,
            "decided_at": decided,
            "judged_at": NOW + timedelta(minutes=minutes),
            "series_digest": f"sha256:{number:064x}",
            "commit": None,
            "pull_request": None,
            **fields,
        },
    )


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "deep" / "detector.sqlite")


def test_a_verdict_and_its_evidence_survive_a_restart(path: str) -> None:
    first = Memory(path)
    first.remember(verdict(), b"packed", final=True)
    first.close()
    again = Memory(path)
    assert again.verdict("prod-search-ranker-0") == verdict()
    assert again.evidence(verdict().series_digest) == b"packed"
    assert again.verdict("another") is None
    assert again.evidence("another") is None
    assert EXAMPLE.rollout is not None
    standing = again.standing(EXAMPLE.rollout, "release")
    assert standing == memories.Standing("regressed", final=True, told=None)
    assert again.standing(EXAMPLE.rollout, "canary") is None
    again.close()
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700


def test_of_one_rollout_the_later_verdict_holds(path: str) -> None:
    memory = Memory(path)
    memory.remember(verdict(1, "pending"), b"early", final=False)
    memory.remember(verdict(1, "regressed", 60, series_digest="sha256:" + "f" * 64), b"late", final=True)
    memory.remember(verdict(1, "improved", 30), b"between", final=False)
    found = memory.verdict("prod-search-ranker-1")
    assert found is not None
    assert found.state == "regressed"
    assert memory.evidence("sha256:" + "f" * 64) == b"late"
    assert memory.evidence(verdict(1).series_digest) is None  # of no verdict any more
    assert [one.state for one in memory.verdicts()] == ["regressed"]
    memory.close()


def test_quiet_looks_are_forgotten_but_the_last(path: str) -> None:
    memory = Memory(path)
    states: list[State] = ["unchanged", "regressed", "inconclusive", "unchanged"]
    for minute, state in enumerate(states):
        one = verdict(minute, state, minute, comparison="watch", rollout=None)
        memory.remember(one, b"%d" % minute, final=True)
    assert [one.state for one in memory.verdicts()] == ["unchanged", "regressed"]
    assert memory.last_of("search-prod", "ranker", "watch") == "unchanged"
    assert [memory.evidence(verdict(n).series_digest) for n in range(4)] == [None, b"1", None, b"3"]
    memory.close()


def test_what_is_due_is_given_to_one_and_stays_due_until_it_is_done(path: str) -> None:
    memory, other = Memory(path), Memory(path)
    memory.remember(verdict(1, minutes=1), None, final=True, publication="due")
    memory.remember(verdict(0), None, final=True, publication="due")
    memory.remember(verdict(0), None, final=True)  # seen again before it was published
    first, second = memory.lease_due(), other.lease_due()
    assert first is not None
    assert second is not None
    assert [first.id, second.id] == ["prod-search-ranker-0", "prod-search-ranker-1"]
    assert memory.lease_due() is None
    other.release(second)
    assert memory.lease_due() == second
    commit = Commit(sha="a" * 40, found_by="history")
    memory.published(msgspec.structs.replace(first, commit=commit), b'{"comment": "created"}')
    assert other.results(first.id) == b'{"comment": "created"}'
    stored = other.verdict(first.id)
    assert stored is not None
    assert stored.commit == commit
    memory.release(first)
    other.release(second)
    again = memory.lease_due()
    assert again == second
    memory.close()
    other.close()


def test_a_lease_ends(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(path)
    memory.remember(verdict(), None, final=True, publication="due")
    assert memory.lease_due() is not None
    assert memory.lease_due() is None
    later = time.time() + memories.LEASE_S + 1
    monkeypatch.setattr(memories.time, "time", lambda: later)
    assert memory.lease_due() is not None
    memory.close()


def test_a_later_verdict_that_came_while_the_first_was_published_stays_due(path: str) -> None:
    memory = Memory(path)
    memory.remember(verdict(0, "pending"), None, final=False, publication="due")
    leased = memory.lease_due()
    assert leased is not None
    memory.remember(verdict(0, "regressed", 60), None, final=True, publication="due")
    memory.published(leased, b"{}")
    assert EXAMPLE.rollout is not None
    standing = memory.standing(EXAMPLE.rollout, "release")
    assert standing == memories.Standing("regressed", final=True, told="regressed")
    due = memory.lease_due()
    assert due is not None
    assert due.state == "regressed"
    memory.close()


def test_a_restart_is_planned_once(path: str) -> None:
    memory = Memory(path)
    key = ("search-prod", "ranker", "2.0.0")
    assert memory.plan_restart(*key, "2026-11-21T10:00:00Z") == "2026-11-21T10:00:00Z"
    assert memory.plan_restart(*key, "2026-11-21T11:00:00Z") == "2026-11-21T10:00:00Z"  # it was not done
    memory.restarted(*key)
    assert memory.plan_restart(*key, "2026-11-21T12:00:00Z") is None
    assert memory.plan_restart("search-prod", "ranker", "3.0.0", "2026-11-22T00:00:00Z") is not None
    memory.close()


def test_the_last_look_only_moves_on(path: str) -> None:
    memory = Memory(path)
    assert memory.looked("search-prod", "ranker") is None
    memory.look("search-prod", "ranker", 20.0)
    memory.look("search-prod", "ranker", 10.0)
    assert memory.looked("search-prod", "ranker") == 20.0
    assert memory.looked("ads-prod", "ranker") is None
    memory.close()


def test_old_and_too_much_is_forgotten(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memories, "EVIDENCE_BYTES", 250)
    memory = Memory(path)
    old = -memories.VERDICTS_S / 60 - 1
    memory.remember(verdict(9, minutes=old), b"old", final=True)
    memory.remember(verdict(8, minutes=-memories.DUE_S / 60 - 1), None, final=True, publication="due")
    for number in range(4):
        memory.remember(verdict(number, minutes=number), b"x" * 100, final=True)
    memory.tidy()
    assert memory.verdict("prod-search-ranker-9") is None
    assert memory.lease_due() is None
    assert len(memory.verdicts()) == 5
    kept = [memory.evidence(verdict(number).series_digest) is not None for number in range(4)]
    assert kept == [False, False, True, True]
    later = time.time() + memories.EVIDENCE_S + 1
    monkeypatch.setattr(memories.time, "time", lambda: later)
    memory.tidy()
    assert memory.evidence(verdict(3).series_digest) is None
    memory.close()


def test_a_file_of_a_newer_detector_is_refused(path: str) -> None:
    Memory(path).close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 7")
    database.close()
    with pytest.raises(MemoryFailed, match=r"newer detector \(schema 7; this one knows 1\)"):
        Memory(path)


@pytest.mark.parametrize("content", [b"no database" * 1000, b"SQLite format 3\x00" + b"\xff" * 5000])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(MemoryFailed, match="check `memory_file`"):
        Memory(str(file))
    assert file.read_bytes() == content


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MemoryFailed, match="check `memory_file`"):
        Memory(str(tmp_path / "file" / "detector.sqlite"))


def test_a_closed_memory_fails_and_does_not_crash(path: str) -> None:
    memory = Memory(path)
    memory.close()
    with pytest.raises(MemoryFailed):
        memory.verdicts()


WRITER = """
import sys
from modelway_runtime.detection import verdict as verdicts
from modelway_runtime.detection.memory import Memory
import msgspec
path, name, example = sys.argv[1:]
verdict = verdicts.from_json(open(example, "rb").read())
memory = Memory(path)
print("ready", flush=True)
for number in range(10**6 if name == "killed" else 150):
    one = msgspec.structs.replace(verdict, id=f"{name}-{number}", series_digest=f"sha256:{name.encode().hex():0>44}{number:020x}")
    memory.remember(one, b"x" * 20000, final=True, publication="due")
    if number % 3 == 0:
        leased = memory.lease_due()
        if leased is not None:
            memory.published(leased, leased.id.encode())
"""


def writer(path: str, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, path, name, str(EXAMPLES / "verdict-v1.json")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_two_processes_write_at_once(path: str) -> None:
    both = [writer(path, name) for name in ("one", "two")]
    for process in both:
        assert process.wait(60) == 0
        assert process.stdout is not None
        process.stdout.close()
    memory = Memory(path)
    found = memory.verdicts(1000)
    assert len(found) == 300
    done = [result.decode() for one in found if (result := memory.results(one.id)) is not None]
    assert len(done) == len(set(done)) >= 90
    memory.close()


@pytest.mark.parametrize("after_s", [0.05, 0.3])
def test_a_process_that_is_killed_leaves_whole_rows(path: str, after_s: float) -> None:
    process = writer(path, "killed")
    time.sleep(after_s)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    assert process.stdout is not None
    process.stdout.close()
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    memory = Memory(path)
    found = memory.verdicts(100_000)
    assert found
    for one in found:
        stored = memory.verdict(one.id)
        assert stored is not None
        assert memory.evidence(stored.series_digest) == b"x" * 20000
    memory.close()


def test_many_threads_share_one(path: str) -> None:
    memory = Memory(path)
    failed: list[Exception] = []

    def work(name: int) -> None:
        try:
            for number in range(20):
                memory.remember(verdict(100 * name + number, minutes=number), b"x", final=True)
                assert memory.verdicts(5)
        except (MemoryFailed, AssertionError) as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(memory.verdicts(1000)) == 120
    memory.close()
