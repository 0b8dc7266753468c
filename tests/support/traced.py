"""A command under strace: whom it spoke to, and which files it wrote."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

RUNTIME = Path(__file__).resolve().parents[2] / "runtime"
_CALLS = "connect,sendto,sendmsg,sendmmsg,open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat"
_INET = re.compile(r"sin6?_port=htons\((\d+)\).*?\"([0-9a-f.:]+)\"")
_WRITES = re.compile(r"O_(?:WRONLY|RDWR|CREAT)")
_PATHS = re.compile(r'(?:AT_FDCWD<([^>]*)>|(\d+)<([^>]*)>)?(?:, )?"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Trace:
    """What a command and its threads and children asked the kernel for, one call a line."""

    lines: list[str]
    home: Path

    def strangers(self) -> list[str]:
        """Calls to another machine, and to a name server wherever it is."""
        found = []
        for line in self.lines:
            for port, address in _INET.findall(line):
                here = address.startswith("127.") or address in ("::1", "::ffff:127.0.0.1")
                if port == "53" or (port != "0" and not here):
                    found.append(line)
        return found

    def written(self, *allowed: Path) -> list[str]:
        """Paths outside these folders that were opened to be written, or made."""
        inside = tuple(str(folder) for folder in (*allowed, Path("/dev/null"), Path("/proc/self")))
        return sorted({path for path in self._paths() if not path.startswith(inside)})

    def _paths(self) -> Iterator[str]:
        for line in self.lines:
            name = line.split("(", 1)[0].split()[-1]
            opens = name in ("open", "openat")
            if name in ("connect", "sendto", "sendmsg", "sendmmsg") or " = -1 " in line:
                continue
            if opens and not _WRITES.search(line):
                continue
            for cwd, _, folder, path in _PATHS.findall(line):
                yield os.path.normpath(os.path.join(cwd or folder or "/", path))


@contextmanager
def traced(
    folder: Path, *arguments: str | Path, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], Trace]]:
    """``modelway-runtime`` with a home of its own; what it did is known at the end of the block.

    Standard error is in ``folder/stderr``. The process is strace's: stop it with ``stop``.
    """
    if shutil.which("strace") is None:
        assert "CI" not in os.environ, "strace is missing"
        pytest.skip("strace is not installed")
    home, temporary, log = folder / "home", folder / "tmp", folder / "calls"
    for path in (home, temporary):
        path.mkdir(parents=True)
    strace = [
        "strace",
        "-f",
        "-y",
        "-qq",
        "--seccomp-bpf",
        "-s",
        "200",
        "-e",
        f"trace={_CALLS}",
        "-o",
        str(log),
    ]
    command = [sys.executable, "-m", "modelway_runtime", *map(str, arguments)]
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "VIRTUAL_ENV")}
    trace = Trace([], home)
    with (folder / "stderr").open("wb") as errors, (folder / "stdout").open("wb") as output:
        process = subprocess.Popen(
            [*strace, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            cwd=folder,
            env=kept
            | {"HOME": str(home), "TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"}
            | {"PYTHONPATH": str(RUNTIME)}
            | dict(environment or {}),
        )
        try:
            yield process, trace
        finally:
            stop(process)
            trace.lines.extend(log.read_text(errors="replace").splitlines())


def stop(process: subprocess.Popen[bytes]) -> int:
    """End what strace watches, by SIGTERM; its exit code."""
    if process.poll() is None:
        for child in psutil.Process(process.pid).children():
            child.terminate()
    try:
        return process.wait(60)
    except subprocess.TimeoutExpired:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        raise
