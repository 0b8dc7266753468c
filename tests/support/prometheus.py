"""A real Prometheus (Debian's) on a free port, with a past that the test writes.

with prometheus(tmp_path, openmetrics=text) as server:
    requests.get(f"{server.url}/api/v1/query", params={"query": "up"}, timeout=5)

The text is OpenMetrics with timestamps and ends in ``# EOF``; ``series`` writes the lines of a series.
"""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.tools import require_tool

STARTS_IN_S = 60.0
"""How long it may take until it is ready; much more than it needs, for a busy machine."""


@dataclass(frozen=True)
class Server:
    """A running Prometheus."""

    url: str
    process: subprocess.Popen[bytes]
    log_file: Path

    def log(self) -> str:
        """All that it has written."""
        return self.log_file.read_text()


def require() -> None:
    """Without Prometheus the test is skipped with the reason; with ``CI`` set it fails."""
    for tool in ("prometheus", "promtool"):
        require_tool(tool, "prometheus")


@contextmanager
def prometheus(
    folder: Path,
    *,
    openmetrics: str | None = None,
    scrape: Sequence[Mapping[str, Any]] = (),
    web_config: Mapping[str, Any] | None = None,
    ready_by: ssl.SSLContext | None = None,
) -> Iterator[Server]:
    """Start one with its files in ``folder``, wait until it is ready, end it by its process id.

    ``scrape`` are entries of ``scrape_configs``, which state their own intervals; ``web_config`` is what
    ``--web.config.file`` reads, and ``ready_by`` the context for its TLS.
    """
    require()
    data, log_file = folder / "data", folder / "prometheus.log"
    data.mkdir(parents=True)
    (folder / "prometheus.yml").write_text(json.dumps({"scrape_configs": list(scrape)}))  # JSON is YAML
    if openmetrics is not None:
        back_fill(folder / "past.om", openmetrics, data)
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={data}",
        "--storage.tsdb.retention.time=100y",
        "--web.listen-address=127.0.0.1:0",
        "--log.level=info",
    ]
    if web_config is not None:
        (folder / "web.yml").write_text(json.dumps(web_config))
        command.append(f"--web.config.file={folder / 'web.yml'}")
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        port = _port(process, log_file)
        server = Server(f"{'https' if ready_by else 'http'}://127.0.0.1:{port}", process, log_file)
        _wait(server, ready_by)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def back_fill(path: Path, openmetrics: str, data: Path) -> None:
    """Write the text to ``path`` and make blocks of it in ``data``."""
    path.write_text(openmetrics, newline="")
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=720h"]
    done = subprocess.run(
        [*command, str(path), str(data)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def text(*blocks: Iterable[str]) -> str:
    """Lines in the order that OpenMetrics wants (one series after the other), and the end."""
    return "".join(f"{line}\n" for block in blocks for line in block) + "# EOF\n"


def series(metric: str, labels: Mapping[str, str], points: Iterable[tuple[float, float]]) -> list[str]:
    """The lines of one series from (Unix seconds, value), whatever the labels hold."""
    inner = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return [f"{metric}{{{inner}}} {float(value)!r} {float(seconds)!r}" for seconds, value in points]


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _port(process: subprocess.Popen[bytes], log_file: Path) -> int:
    end = time.monotonic() + STARTS_IN_S
    while time.monotonic() < end and process.poll() is None:
        found = re.search(r'msg="Listening on" address=127\.0\.0\.1:(\d+)', log_file.read_text())
        if found:
            return int(found[1])
        time.sleep(0.05)
    raise AssertionError(log_file.read_text())


def _wait(server: Server, context: ssl.SSLContext | None) -> None:
    end = time.monotonic() + STARTS_IN_S
    while time.monotonic() < end and server.process.poll() is None:
        try:
            with urllib.request.urlopen(f"{server.url}/-/ready", timeout=5, context=context):
                return
        except urllib.error.HTTPError as error:
            error.close()
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError(server.log())
