"""Load from outside: h2load, one process of C, for figures; callers that read every answer, for checks."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path

import numpy as np
from measure import FailedError
from processes import HOST, Address

TIMEOUT_S = 120.0
CALLER_TIMEOUT_S = 30.0
OK = 200


def exchange(
    port: int, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Status and text of one request over a connection of its own; 0 and the error where nobody answers."""
    status, _, answer = exchange_bytes(port, method, path, body, headers)
    return status, answer.decode(errors="replace")


def exchange_bytes(
    port: int, method: str, path: str, body: bytes, headers: Mapping[str, str] | None
) -> tuple[int, Message, bytes]:
    """As ``exchange``, with the headers of the answer."""
    connection = http.client.HTTPConnection(HOST, port, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    except (OSError, http.client.HTTPException) as error:
        return 0, Message(), repr(error).encode()
    finally:
        connection.close()


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent again and again. ``grpc``: over HTTP/2 in the clear, else over HTTP/1.1."""

    path: str
    body: Path
    headers: Mapping[str, str]
    grpc: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run. Latencies are of answers with 200 only; NaN without one.

    ``answers`` counts statuses; -1 is a request without an answer.
    """

    rps: float
    p50_ms: float
    p99_ms: float
    seconds: float
    answers: Mapping[int, int]

    @property
    def failed(self) -> int:
        return sum(self.answers.values()) - self.answers.get(OK, 0)


def have_h2load() -> bool:
    return shutil.which("h2load") is not None


def h2load(
    address: Address,
    request: Request,
    connections: int,
    count: int,
    limit_s: float,
    *,
    headers: Mapping[str, str] | None = None,
    rate: float | None = None,
    without_reason: bool = False,
) -> Outcome:
    """Send ``count`` requests over ``connections``, each of them one at a time.

    With ``rate``, so many requests a second are sent in all, however fast the answers come; the
    connections begin one after another, so that they do not all send at the same moment. h2load cannot
    read the status of a line like ``HTTP/1.1 200``; with ``without_reason`` that counts as 200. Raises
    FailedError when the run takes longer than ``limit_s``.
    """
    with tempfile.TemporaryDirectory(prefix="h2load-") as folder:
        log = Path(folder) / "log"
        port = address.grpc if request.grpc else address.http
        command = ["h2load", "-t1", "-m1", f"-c{connections}", f"-n{max(count, connections)}"]
        command += [f"--log-file={log}", f"-d{request.body}", *([] if request.grpc else ["--h1"])]
        if rate is not None:
            command += _open_loop(connections, rate)
        for name, value in {**request.headers, **(headers or {})}.items():
            command += ["-H", f"{name}: {value}"]
        command.append(f"http://{HOST}:{port}{request.path}")
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
        except subprocess.TimeoutExpired:
            raise FailedError(f"{request.path} took more than {limit_s:g} s") from None
        except OSError as error:
            raise FailedError(f"h2load cannot be started: {error}") from None
        if done.returncode or not log.exists():
            raise FailedError(f"h2load failed: {(done.stderr or done.stdout).strip()[-500:]}")
        return _read(log, max(count, connections), without_reason)


def _open_loop(connections: int, rate: float) -> list[str]:
    """Begin all connections within one of the intervals in which each sends a request."""
    interval_ms = 1000 * connections / rate
    at_once = max(1, round(connections / interval_ms))  # h2load counts in whole milliseconds
    period_ms = max(1, round(interval_ms * at_once / connections))
    return [f"--rps={rate / connections:.6f}", f"-r{at_once}", f"--rate-period={period_ms}ms"]


def _read(log: Path, count: int, without_reason: bool) -> Outcome:
    """h2load's log: start and duration in microseconds, and the status between them."""
    numbers = np.array(log.read_bytes().split(), dtype=np.int64).reshape(-1, 3)
    if without_reason:
        numbers[numbers[:, 1] == 0, 1] = OK
    answers = Counter(
        {int(s): int(n) for s, n in zip(*np.unique(numbers[:, 1], return_counts=True), strict=True)}
    )
    if missing := count - len(numbers):
        answers[-1] += missing
    good = numbers[numbers[:, 1] == OK]
    if not len(good):
        return Outcome(0.0, float("nan"), float("nan"), 0.0, dict(answers))
    ends = good[:, 0] + good[:, 2]
    seconds = float(ends.max() - good[:, 0].min()) / 1e6
    p50, p99 = np.percentile(good[:, 2], (50, 99)) / 1e3
    return Outcome(len(good) / seconds, float(p50), float(p99), seconds, dict(answers))


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that was not answered as it should be; times are of ``time.monotonic()``."""

    began: float
    ended: float
    what: str


@dataclass
class Callers:
    """Threads that post one request after another and read every answer, until ``close``.

    ``accept`` says of an answer's first output whether it is right. A caller whose connection breaks
    counts that as a failure and connects again.
    """

    port: int
    request: Request
    accept: Callable[[Sequence[float]], bool]
    headers: Mapping[str, str] = field(default_factory=dict)
    threads: int = 4
    answered: int = 0
    failures: list[Failure] = field(default_factory=list)

    def __enter__(self) -> Callers:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(self.threads)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop calling; every request that was sent has been counted then."""
        self._stop.set()
        for thread in self._threads:
            thread.join(CALLER_TIMEOUT_S)

    def _call(self) -> None:
        body = self.request.body.read_bytes()
        connection = http.client.HTTPConnection(HOST, self.port, timeout=CALLER_TIMEOUT_S)
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                what = self._once(connection, body)
            except (OSError, http.client.HTTPException) as error:
                what = type(error).__name__
                connection.close()
                self._stop.wait(0.01)
            with self._lock:
                if what is None:
                    self.answered += 1
                else:
                    self.failures.append(Failure(began, time.monotonic(), what))
        connection.close()

    def _once(self, connection: http.client.HTTPConnection, body: bytes) -> str | None:
        """What is wrong with one answer."""
        connection.request("POST", self.request.path, body, {**self.request.headers, **self.headers})
        response = connection.getresponse()
        answer = response.read()
        if response.status != OK:
            return f"status {response.status}"
        values = json.loads(answer)["outputs"][0]["data"]
        return None if self.accept(values) else f"a wrong answer: {values[:8]}"
