"""The examples of a guide, run as its reader would: commands in a shell, a real server, their output compared.

- ``console``: ``$ `` begins a command, ``> `` goes on with it, the rest is what it prints. ``…`` stands for
  anything; times of day and seconds are not compared. ``modelway-runtime serve`` stays until the next one.
- ``json`` after a line that ends in ```a/path`:`` is that file; after one that ends in ``settings:`` it is laid
  over the settings of the next server that reads ``settings.json``.
- ``python`` is run.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from modelway_runtime.settings import parse
from tests.support import serving
from tests.support.tools import require_tool

ROOT = Path(__file__).resolve().parents[2]
GUIDES = ROOT / "docs" / "guides"
STARTS_IN_S = 60.0
SETTLES_IN_S = 15.0
"""How long what a guide shows may take to come about: keys are read again every few seconds."""
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PORTS = {"8080": "http", "8081": "grpc", "9090": "metrics"}


class Block(NamedTuple):
    language: str
    text: str
    before: str
    """The last line of text before it."""


def blocks(path: Path) -> Iterator[Block]:
    page = path.read_text("utf-8")
    for match in _BLOCK.finditer(page):
        before = page[: match.start()].rstrip().rpartition("\n")[2]
        yield Block(match[1], match[2], before)


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a console with what it prints."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        end = next((i for i, line in enumerate(lines[1:], 1) if not line.startswith("> ")), len(lines))
        yield "\n".join([lines[0], *(line[2:] for line in lines[1:end])]), "\n".join(lines[end:])


class Reader:
    """Somebody who follows guides in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._changes: serving.Json = {}
        self._server: subprocess.Popen[bytes] | None = None
        self._ports: dict[str, int] = {}
        path = os.pathsep.join((str(ROOT / "runtime"), os.environ.get("PYTHONPATH", "")))
        self._environment = {**os.environ, "PYTHONPATH": path, "LC_ALL": "C.UTF-8"}
        program = folder / ".bin" / "modelway-runtime"  # as installed, whether it is or not
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m modelway_runtime "$@"\n')
        program.chmod(0o755)
        self._environment["PATH"] = f"{program.parent}{os.pathsep}{os.environ['PATH']}"

    def follow(self, guide: Path) -> None:
        for tool in ("bash", "curl", "openssl"):
            require_tool(tool, tool)
        for block in blocks(guide):
            if block.language == "console":
                for command, printed in commands(block.text):
                    self._command(command, printed)
            elif block.language == "python":
                self._run([sys.executable, "-c", self._here(block.text)])
            elif block.language == "json":
                self._keep(block)
        parse(json.dumps(self._settings()).encode())

    def close(self) -> None:
        if self._server is not None:
            self._server.terminate()
            assert self._server.wait(30) == 0
            self._server = None

    def _keep(self, block: Block) -> None:
        if block.before.endswith("settings:") or block.before.endswith("say:"):
            self._changes |= json.loads(block.text)
            return
        named = re.search(r"`([\w/.-]+)`:$", block.before)
        assert named, f"nobody knows what this is: {block.text}"
        json.loads(block.text)
        (self.folder / named[1]).write_text(block.text)

    def _command(self, command: str, printed: str) -> None:
        if command.startswith("modelway-runtime serve"):
            self._serve(command, printed)
            return
        end = time.monotonic() + SETTLES_IN_S
        while True:
            found = self._run(["bash", "-uc", self._here(command)], check=False)
            if matches(printed, found):
                return
            if time.monotonic() > end or not command.startswith("curl"):
                raise AssertionError(f"$ {command}\n{found}\ninstead of\n{printed}")
            time.sleep(0.3)

    def _serve(self, command: str, printed: str) -> None:
        self.close()
        if "settings.json" in command:
            (self.folder / "settings.json").write_text(json.dumps(self._settings()))
            self._changes = {}
        log = self.folder / ".log"
        ports = "--http-port 0 --grpc-port 0 --metrics-port 0 --log-format text"
        with open(log, "wb") as errors:
            self._server = subprocess.Popen(
                ["bash", "-c", f"exec {command} {ports}"],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stderr=errors,
            )
        end = time.monotonic() + STARTS_IN_S
        while not re.search(r"INFO +ready$", log.read_text(), re.MULTILINE):
            assert self._server.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        first, _, rest = log.read_text().partition("\n")
        self._ports = json.loads(first)["listening"]
        assert matches(printed, rest), f"$ {command}\n{rest}"

    def _here(self, text: str) -> str:
        """With this server's ports and process for those of the guide."""
        for port, name in _PORTS.items():
            if f"localhost:{port}" in text:
                text = text.replace(f"localhost:{port}", f"localhost:{self._ports[name]}")
        if self._server is not None:
            text = re.sub(r"\bPID\b", str(self._server.pid), text)
        return text

    def _run(self, arguments: list[str], *, check: bool = True) -> str:
        done = subprocess.run(
            arguments,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stdout
        return done.stdout

    def _settings(self) -> dict[str, Any]:
        folders = sorted(self.folder.glob("models/*"))
        models = [serving.served(folder.name, folder / "1" / "model.onnx") for folder in folders]
        return {**serving.settings_of(models), **self._changes}


def matches(wanted: str, found: str) -> bool:
    pattern = ".*?".join(re.escape(part) for part in _plain(wanted).split("…"))
    return re.fullmatch(pattern, _plain(found), re.DOTALL) is not None


def _plain(text: str) -> str:
    """Without what differs from run to run."""
    text = re.sub(r"\b\d\d:\d\d:\d\d\b", "TIME", text.strip())
    return re.sub(r"\b\d+\.\d+ s\b", "SECONDS", text)
