"""The real command line in a process of its own, small repositories for it, and what a refusal looks like."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from modelway.diagnostics import CODES
from tests.support.small_shop import CPU, LOCAL, MODEL, PROD, SETTINGS

ROOT = Path(__file__).resolve().parents[2]
RUN = "from modelway.cli import run; run()"
FOUND, USAGE, STALE, BUG, DISK = 1, 2, 3, 4, 5

REPOSITORY = {
    "modelway.yaml": SETTINGS,
    "specs/local.yaml": LOCAL,
    "specs/prod.yaml": PROD,
    "specs/cpu-small.yaml": CPU,
    "specs/ranker.yaml": MODEL,
}


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


def modelway(
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str | None] | None = None,
    prelude: str = "",
    limits: Callable[[], None] | None = None,
    timeout: float = 120,
) -> Ran:
    """Run ``modelway``. ``prelude`` is Python that runs in its process before it, ``limits`` before that."""
    done = subprocess.run(
        [sys.executable, "-c", f"{prelude}\n{RUN}", *arguments],
        cwd=cwd,
        env=environment(env),
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=timeout,
        preexec_fn=limits,
        check=False,
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


def on_terminal(
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str | None] | None = None,
    prelude: str = "",
    limits: Callable[[], None] | None = None,
) -> Ran:
    """Run ``modelway`` with a terminal for both streams; ``out`` is all that it was sent."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", f"{prelude}\n{RUN}", *arguments],
        cwd=cwd,
        env=environment({"TERM": "xterm-256color", **(env or {})}),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=limits,
    )
    os.close(theirs)
    sent = b""
    with contextlib.suppress(OSError):  # how a terminal says that nobody holds its other end
        while data := os.read(ours, 65536):
            sent += data
    os.close(ours)
    return Ran(process.wait(60), sent.decode(), "")


def environment(changes: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """Nothing of the caller's but where Python is; ``None`` leaves a variable out."""
    wanted: dict[str, str | None] = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "compiler"),
        "HOME": "/nonexistent",
        "LC_ALL": "C.UTF-8",
        "COLUMNS": "100",
        **(changes or {}),
    }
    return {name: value for name, value in wanted.items() if value is not None}


def write(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files, and the folders that they lie in."""
    for path, text in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def repository(root: Path, files: Mapping[str, str | bytes] | None = None) -> Path:
    """A repository of two environments, one resource and one model, with ``files`` instead or beside."""
    return write(root / "shop", {**REPOSITORY, **(files or {})})


def snapshot(folder: Path) -> dict[str, str]:
    """What lies below a folder: kind and content of every entry; empty if there is no folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"link {os.readlink(path)}"
        elif path.is_file():
            found[name] = f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime_ns}"
        else:
            found[name] = "folder" if path.is_dir() else "special"
    return found


_BLOCK = re.compile(r"^(error|warning|note)\[(MW\d{3})\]: .+$")
_PLACE = re.compile(r"^ *--> (.+):(\d+):(\d+)$")


def assert_told(ran: Ran, code: int = FOUND) -> list[tuple[str, str, int, int]]:
    """What every failure owes its reader; gives (code, path, line, column) of each diagnostic printed."""
    assert ran.code == code, f"exit {ran.code}\n{ran.out}\n{ran.err}"
    assert_harmless(ran)
    lines = ran.err.splitlines()
    found = []
    for number, line in enumerate(lines):
        if head := _BLOCK.match(line):
            place = _PLACE.match(lines[number + 1])
            assert place, f"no place below: {line}"
            assert head[2] in CODES
            found.append((head[2], place[1], int(place[2]), int(place[3])))
    assert found, ran.err
    return found


def assert_harmless(ran: Ran) -> None:
    """No traceback, and nothing that a terminal would obey."""
    for text in (ran.out, ran.err):
        assert "Traceback" not in text, text
        assert not {char for char in text if not char.isprintable()} - {"\n"}, ascii(text)
