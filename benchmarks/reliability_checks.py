"""The four checks of reliability.py: each starts a server, hurts it, and says which promises it broke."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from load import Callers, Failure, Outcome, Request, exchange, h2load
from measure import FailedError
from own_server import (
    MODULE,
    START_S,
    Key,
    OwnServer,
    digest,
    drained_pipe,
    own_server,
    repository_arguments,
    served,
    write_settings,
)
from processes import free_ports, resident_mb, wait_until
from serving_models import Model, answer, make_cnn, requests, whole_numbers, write_exact

Say = Callable[[str], None]
GROWTH = 0.05  # of resident memory, at most
TIMEOUT_MS = 200.0  # that a request may wait under overload
CONNECTIONS = 512
ANSWERS = {200, 429, 504}  # under overload
START_BUDGET_S = 15.0  # from kill -9 to ready
FLIPS = 16
SEED = 20261121
NAME = "exact"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check measured, and the promises that it found broken; ``skipped`` says why there is nothing."""

    check: str
    figures: Mapping[str, Any]
    broken: Sequence[str]
    skipped: str = ""

    def text(self) -> Iterator[str]:
        word = f"skipped: {self.skipped}" if self.skipped else "BROKEN" if self.broken else "kept"
        yield f"{self.check}: {word}"
        yield from (f"  {name.replace('_', ' ')}: {value}" for name, value in self.figures.items())
        yield from (f"  broken: {what}" for what in self.broken)


def _broken(promises: Mapping[str, bool]) -> tuple[str, ...]:
    """The promises that were not kept."""
    return tuple(what for what, kept in promises.items() if not kept)


# Overload


def overload(folder: Path, seconds: float, say: Say) -> Finding:
    """Twice as many requests as the server can answer, whether or not it answers, for so long.

    Memory is looked at after the first minute, or the first third of a shorter run.
    """
    model = make_cnn(folder)
    key = Key()
    settings = write_settings(folder, served(model.name, model.path, timeout_ms=TIMEOUT_MS), key)
    request = requests(model.name, model.row, folder / "requests")["binary"]
    with drained_pipe() as audit, own_server(folder, "--settings", str(settings), stdout=audit) as server:
        say("overload: measuring the capacity")
        capacity = _capacity(server, request, key, min(10.0, seconds / 3))
        compute_ms = _full_batch_ms(server, model, folder, key)
        rate = 2 * capacity
        say(f"overload: {rate:.0f} requests/s for {seconds:.0f} s")
        memory = Memory(server.process.pid, settle_s=min(60.0, seconds / 3))
        with memory:
            count = round(rate * seconds)
            limit_s = 2 * seconds + 60
            outcome = h2load(
                server.address, request, CONNECTIONS, count, limit_s, headers=key.headers, rate=rate
            )
        alive = exchange(server.address.http, "GET", "/v2/health/ready")[0] == 200
    return _overload_finding(outcome, memory, capacity, compute_ms, alive)


def _overload_finding(
    outcome: Outcome, memory: Memory, capacity: float, compute_ms: float, alive: bool
) -> Finding:
    limit_ms = TIMEOUT_MS + compute_ms
    others = {status: number for status, number in outcome.answers.items() if status not in ANSWERS}
    figures = {
        "capacity_rps": round(capacity),
        "asked_rps": round(2 * capacity),
        "accepted_rps": round(outcome.rps),
        "answers": {str(status): number for status, number in sorted(outcome.answers.items())},
        "p50_ms": round(outcome.p50_ms, 1),
        "p99_ms": round(outcome.p99_ms, 1),
        "limit_ms": round(limit_ms, 1),
        **memory.figures(),
    }
    promises = {
        f"every request is answered with 200, 429 or 504, not {others}": not others,
        "some requests are answered with 200": outcome.answers.get(200, 0) > 0,
        f"p99 of the accepted, {outcome.p99_ms:.0f} ms, is within {limit_ms:.0f} ms": outcome.p99_ms
        <= limit_ms,
        f"memory grows by at most {GROWTH:.0%}, not {memory.growth:.1%}": memory.growth <= GROWTH,
        "the server is ready afterwards": alive,
    }
    return Finding("overload", figures, _broken(promises))


def _capacity(server: OwnServer, request: Request, key: Key, seconds: float) -> float:
    """Requests a second that 64 callers get answered."""
    count = 200
    for share in (0.3, 1.0):
        outcome = h2load(server.address, request, 64, count, 60 + 4 * seconds, headers=key.headers)
        if not outcome.rps:
            raise FailedError(f"the server answers {dict(outcome.answers)}")
        count = max(200, round(outcome.rps * seconds * share))
    return outcome.rps


def _full_batch_ms(server: OwnServer, model: Model, folder: Path, key: Key) -> float:
    """How long a batch of 32 rows takes, at most: one may be computed when a deadline passes."""
    rows = model.row.repeat(32, axis=0)
    request = requests(model.name, rows, folder / "full")["binary"]
    took = []
    for _ in range(20):
        begin = time.perf_counter()
        headers = {**request.headers, **key.headers}
        status, text = exchange(server.address.http, "POST", request.path, request.body.read_bytes(), headers)
        if status != 200:
            raise FailedError(f"a full batch is answered with {status}: {text[:300]}")
        took.append(time.perf_counter() - begin)
    return max(took) * 1e3


@dataclass
class Memory:
    """Resident memory of a process, looked at until the end of the block; the first seconds do not count."""

    pid: int
    settle_s: float
    every_s: float = 0.2
    samples: list[float] = field(default_factory=list)

    def __enter__(self) -> Memory:
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        self._end.wait(self.settle_s)
        while not self._end.wait(self.every_s):
            self.samples.append(resident_mb(self.pid))

    def _tenth(self) -> int:
        if len(self.samples) < 4:
            raise FailedError("the run was too short to say anything about memory")
        return max(2, len(self.samples) // 10)

    @property
    def begin_mb(self) -> float:
        """The median of the first tenth after settling."""
        return statistics.median(self.samples[: self._tenth()])

    @property
    def end_mb(self) -> float:
        return statistics.median(self.samples[-self._tenth() :])

    @property
    def growth(self) -> float:
        return self.end_mb / self.begin_mb - 1

    def figures(self) -> dict[str, Any]:
        return {
            "memory_begin_mb": round(self.begin_mb, 1),
            "memory_end_mb": round(self.end_mb, 1),
            "memory_growth": round(self.growth, 4),
        }


# Reloads


def reloads(folder: Path, number: int, say: Say) -> Finding:
    """Two weights files take turns under load. No answer may be of neither, or of the old one later."""
    models = folder / "models"
    weights = models / NAME / "1" / "model.onnx"
    files, right = _two_models(folder)
    _place(files[0], weights)
    key = Key()
    request = requests(NAME, whole_numbers(), folder / "requests")["json"]
    arguments = repository_arguments(folder, models, key)
    stale: list[str] = []
    with (
        own_server(folder, *arguments, stdout=subprocess.DEVNULL) as server,
        Callers(server.address.http, request, lambda values: values[0] in right, key.headers) as callers,
    ):
        time.sleep(1.0)  # what the first requests need is there now
        before = resident_mb(server.process.pid)
        for index in range(1, number + 1):
            if index % 50 == 1:
                say(f"reload {index} of {number}")
            _place(files[index % 2], weights)
            status, text = server.load(NAME, key)
            if status != 200:
                stale.append(f"reload {index} is answered with {status}: {text}")
            elif (found := _asked(server, request, key)) != right[index % 2]:
                stale.append(f"after reload {index} the answer is {found} and not {right[index % 2]}")
        callers.close()
        time.sleep(0.5)
        after = resident_mb(server.process.pid)
    growth = after / before - 1
    figures = {
        "reloads": number,
        "answered": callers.answered,
        "failed": len(callers.failures),
        "memory_before_mb": round(before, 1),
        "memory_after_mb": round(after, 1),
        "memory_growth": round(growth, 4),
    }
    what = dict(Counter(failure.what for failure in callers.failures).most_common(3))
    promises = {
        f"no request fails or gets an answer of neither model: {what}": not callers.failures,
        "requests are answered all the time": callers.answered > number,
        f"each reload serves what it loaded: {stale[:3]}": not stale,
        f"memory is back within {GROWTH:.0%}, not {growth:.1%}": growth <= GROWTH,
    }
    return Finding("reloads", figures, _broken(promises))


def _two_models(folder: Path) -> tuple[list[Path], list[float]]:
    """Two weights files, and what each answers to ``whole_numbers``."""
    files = [folder / "even.onnx", folder / "odd.onnx"]
    for number, path in enumerate(files):
        write_exact(path, SEED + number)
    right = [float(answer(path, whole_numbers())[0, 0]) for path in files]
    if right[0] == right[1]:
        raise FailedError("the two models cannot be told apart")
    return files, right


def _place(source: Path, target: Path) -> None:
    """Put weights into a folder of models, whole at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name("part")
    shutil.copyfile(source, part)
    os.replace(part, target)


def _asked(server: OwnServer, request: Request, key: Key) -> float | str:
    """The answer to one request, or what came instead."""
    headers = {**request.headers, **key.headers}
    status, text = exchange(server.address.http, "POST", request.path, request.body.read_bytes(), headers)
    return float(json.loads(text)["outputs"][0]["data"][0]) if status == 200 else f"{status} {text}"


# Kill


def kill(folder: Path, number: int, say: Say) -> Finding:
    """kill -9 under load; a supervisor starts the server again, on the same port."""
    models = folder / "models"
    weights = models / NAME / "1" / "model.onnx"
    files, right = _two_models(folder)
    _place(files[0], weights)
    before = _digests(models)
    key = Key()
    settings = write_settings(folder, served(NAME, weights), key)
    request = requests(NAME, whole_numbers(), folder / "requests")["json"]
    chance = random.Random(SEED)
    supervisor = Supervisor(folder, settings, free_ports(1)[0])
    with contextlib.closing(supervisor):
        supervisor.start()
        with Callers(supervisor.port, request, lambda values: values[0] == right[0], key.headers) as callers:
            for index in range(1, number + 1):
                say(f"kill {index} of {number}")
                time.sleep(chance.uniform(0.3, 1.0))
                supervisor.kill()
            time.sleep(0.5)
    took = [end - begin for begin, end in supervisor.outages]
    outside = [one for one in callers.failures if not _within(one, supervisor.outages)]
    torn = [problem for life in supervisor.audit for problem in _torn(life)]
    figures = {
        "kills": number,
        "answered": callers.answered,
        "failed_while_down": len(callers.failures) - len(outside),
        "failed_otherwise": len(outside),
        "ready_again_s": round(statistics.median(took), 2),
        "ready_again_max_s": round(max(took), 2),
        "audit_lines": sum(bytes(life).count(b"\n") for life in supervisor.audit),
    }
    promises = {
        f"ready again within {START_BUDGET_S:g} s": max(took) <= START_BUDGET_S,
        f"no request fails but while the server is down: {outside[:2]}": not outside,
        f"the audit log has whole JSON lines only: {torn[:2]}": not torn,
        "every life leaves an audit log": all(supervisor.audit),
        "the weights are as they were": _digests(models) == before,
    }
    return Finding("kill", figures, _broken(promises))


class Supervisor:
    """Starts the server and, when it was killed, again; keeps the audit log of each life."""

    def __init__(self, folder: Path, settings: Path, port: int) -> None:
        self.port = port
        self.outages: list[tuple[float, float]] = []
        self.audit: list[bytearray] = []
        self._folder = folder
        self._settings = settings
        self._lives = contextlib.ExitStack()
        self._server: OwnServer | None = None

    def start(self) -> None:
        """Until it is ready. Raises FailedError."""
        self._lives.close()
        taken, given = os.pipe()
        lines = bytearray()
        reader = threading.Thread(target=_read_all, args=(taken, lines))
        reader.start()
        self.audit.append(lines)
        self._lives.callback(reader.join)
        server = own_server(
            self._folder, "--settings", str(self._settings), stdout=given, http_port=self.port
        )
        try:
            self._server = self._lives.enter_context(server)
        finally:
            os.close(given)  # else the reader never sees the end

    def kill(self) -> None:
        """kill -9, and wait until it is ready again."""
        assert self._server is not None
        begin = time.monotonic()
        self._server.process.kill()
        self._server.process.wait()
        self.start()
        self.outages.append((begin, time.monotonic()))

    def close(self) -> None:
        self._lives.close()


def _read_all(descriptor: int, into: bytearray) -> None:
    """Slower than the server writes: whenever it is killed, it is at it."""
    with open(descriptor, "rb", buffering=0) as stream:
        while part := stream.read(4096):
            into += part
            time.sleep(0.02)


def _within(failure: Failure, outages: Sequence[tuple[float, float]]) -> bool:
    """Whether a request overlaps a time in which there was no server."""
    return any(failure.began <= end and failure.ended >= begin for begin, end in outages)


def _torn(lines: bytearray) -> Iterator[str]:
    """What of an audit log is no JSON line."""
    *whole, rest = bytes(lines).split(b"\n")
    if rest:
        yield f"cut off: {rest[-100:]!r}"
    for line in whole:
        try:
            json.loads(line)
        except ValueError:
            yield f"not JSON: {line[:100]!r}"


def _digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): digest(path) for path in folder.rglob("*") if path.is_file()}


# Flipped bits


def flipped(folder: Path, say: Say) -> Finding:
    """Weights with one flipped bit: refused with a clear message, while the old ones answer on."""
    models = folder / "models"
    weights = models / NAME / "1" / "model.onnx"
    files, right = _two_models(folder)
    _place(files[0], weights)
    (models / NAME / "model.json").write_text(json.dumps({"digest": digest(files[0])}))
    key = Key()
    request = requests(NAME, whole_numbers(), folder / "requests")["json"]
    arguments = repository_arguments(folder, models, key)
    damaged = folder / "damaged.onnx"
    places = _places(files[0].stat().st_size * 8)
    taken, unsaid, silent = [], [], []
    with own_server(folder, *arguments, stdout=subprocess.DEVNULL) as server:
        for bit in places:
            say(f"flipping bit {bit}")
            _flip(files[0], damaged, bit)
            _place(damaged, weights)
            logged = server.log.stat().st_size
            status, _ = server.load(NAME, key)
            if status == 200:
                taken.append(bit)
            if not _says_why(server.log.read_text()[logged:], damaged, digest(files[0])):
                unsaid.append(bit)
            if (found := _asked(server, request, key)) != right[0]:
                silent.append(f"bit {bit}: {found}")
        _place(files[0], weights)
        healed = server.load(NAME, key)[0] == 200
    refused, said = _refused_at_start(folder, damaged, digest(files[0]))
    after = _damaged_version(folder, files, damaged, request)
    promises = {
        f"no damaged file is loaded: bits {taken[:3]}": not taken,
        f"the log says which file and both digests: bits {unsaid[:3]}": not unsaid,
        f"the old weights answer on: {silent[:3]}": not silent,
        "the right file is loaded afterwards": healed,
        f"version 1 answers on where version 2 is damaged, not {after}": after == right[0],
        f"a server does not start with a damaged file, and says why: {said}": refused,
    }
    return Finding("flipped", {"flips": len(places), "message": said}, _broken(promises))


def _places(bits: int) -> list[int]:
    """The first and the last bit, and some between."""
    chance = random.Random(SEED)
    return sorted({0, bits - 1, *(chance.randrange(bits) for _ in range(FLIPS - 2))})


def _flip(source: Path, target: Path, bit: int) -> None:
    content = bytearray(source.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    target.write_bytes(content)


def _says_why(log: str, damaged: Path, wanted: str) -> bool:
    """Whether a log names both digests, and contains no stack trace."""
    return wanted in log and digest(damaged) in log and "Traceback" not in log


def _damaged_version(folder: Path, files: Sequence[Path], damaged: Path, request: Request) -> float | str:
    """Settings that name version 2, whose file is damaged, are read by a server of version 1: its answer."""
    key = Key()
    settings = write_settings(folder, served(NAME, files[0]), key)
    _flip(files[1], damaged, 12345)
    with own_server(folder, "--settings", str(settings), stdout=subprocess.DEVNULL) as server:
        logged = server.log.stat().st_size
        second = {**served(NAME, damaged, version="2"), "digest": digest(files[1])}
        write_settings(folder, second, key)
        server.process.send_signal(signal.SIGHUP)
        wait_until(
            lambda: b"was not loaded" in server.log.read_bytes()[logged:], server.process, server.log, START_S
        )
        time.sleep(0.2)
        return _asked(server, request, key)


def _refused_at_start(folder: Path, damaged: Path, wanted: str) -> tuple[bool, str]:
    """Start with damaged weights: whether that is refused, and the last line that is said."""
    settings = write_settings(folder, {**served(NAME, damaged), "digest": wanted}, Key())
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    command = [*MODULE, "serve", "--settings", str(settings), "--host", "127.0.0.1", *ports]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=False)
    except subprocess.TimeoutExpired:
        return False, "it runs"
    said = done.stderr.strip().splitlines()[-1:] or ["nothing"]
    return done.returncode != 0 and _says_why(done.stderr, damaged, wanted), said[0]
