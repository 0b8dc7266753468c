"""Servers as whole processes, in sessions of their own: ports, start, end, CPU and memory."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil
from measure import FailedError

HOST = "127.0.0.1"
FIRST_PORT, LAST_PORT = 18000, 30000  # below those that the kernel gives to clients
PORTS = 8  # side by side: some peers want more than two
TERM_S, KILL_S = 8.0, 5.0
SHOWN = 1500  # characters of a log


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens on the loopback; without gRPC nobody answers at ``grpc``."""

    http: int
    grpc: int


def free_ports(count: int = PORTS) -> list[int]:
    """Ports side by side on which nobody listens: a left-over server would be measured in another's place."""
    for _ in range(1000):
        first = random.randrange(FIRST_PORT, LAST_PORT - count)
        ports = list(range(first, first + count))
        if all(map(_is_free, ports)):
            return ports
    raise FailedError(f"there are no {count} free ports side by side from {FIRST_PORT} to {LAST_PORT}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def running(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    stdout: int | IO[bytes] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A server that runs in ``folder`` and logs to ``folder/log``; all of its tree has ended afterwards."""
    with open(folder / "log", "ab") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log if stdout is None else stdout,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process of ``running``, its session, and those of its tree that have left the session."""
    tree = _tree(process.pid)
    for number, wait_s in ((signal.SIGTERM, TERM_S), (signal.SIGKILL, KILL_S)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(wait_s)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for one in tree:
        with contextlib.suppress(psutil.Error):
            one.kill()


def wait_until(
    ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, limit_s: float
) -> float:
    """Seconds until ``ready``. Raises FailedError, with the end of the log, if that does not come."""
    begin = time.monotonic()
    while process.poll() is None and (took := time.monotonic() - begin) < limit_s:
        if ready():
            return took
        time.sleep(0.02)
    ended = process.poll()
    what = f"is not ready after {limit_s:g} s" if ended is None else f"ended with {ended}"
    raise FailedError(f"the server {what}:\n{log.read_text(errors='replace')[-SHOWN:].strip()}")


def cpu_by_process(pid: int) -> dict[int, float]:
    """CPU seconds of each process of the tree."""
    seconds = {}
    for process in _tree(pid):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            seconds[process.pid] = float(times.user + times.system)
    return seconds


def cpu_between(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """CPU seconds that a tree has used, of the processes that are still there."""
    return sum(max(0.0, seconds - before.get(pid, 0.0)) for pid, seconds in after.items())


def resident_mb(pid: int) -> float:
    """Resident memory of one process."""
    return float(psutil.Process(pid).memory_info().rss) / 1e6


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
