"""Debian's ``docker-registry`` on a free port, and pushing to it by plain HTTP."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.tools import require_tool

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
TAR = "application/vnd.oci.image.layer.v1.tar"
TITLE = "org.opencontainers.image.title"
Layer = dict[str, Any]


def require() -> str:
    """Path of the registry. Where there is none the test is skipped with the reason; with ``CI`` set it fails."""
    return require_tool("docker-registry", "docker-registry")


@contextmanager
def serving(folder: Path, auth: dict[str, Any] | None = None) -> Iterator[str]:
    """A registry; its ``host:port``."""
    config = {
        "version": 0.1,
        "log": {"level": "info", "formatter": "json"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": "127.0.0.1:0"},
        **({"auth": auth} if auth else {}),
    }
    (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    command = [require(), "serve", str(folder / "config.yml")]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield _address(folder / "log", process)
        finally:
            process.kill()


def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text())
        if found:
            return found[1]
        time.sleep(0.02)
    raise AssertionError(f"the registry does not listen: {log.read_text()}")


@dataclass(frozen=True)
class Repository:
    """Where a test pushes; ``token`` where the registry wants one."""

    host: str
    name: str
    token: str = ""

    @property
    def source(self) -> str:
        return f"oci://{self.host}/{self.name}"

    def blob(self, data: bytes, media_type: str, title: str = "", **annotations: str) -> Layer:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        place = self._send("POST", f"http://{self.host}/v2/{self.name}/blobs/uploads/", b"", "").headers[
            "Location"
        ]
        self._send(
            "PUT", f"{place}{'&' if '?' in place else '?'}digest={digest}", data, "application/octet-stream"
        )
        noted = {**({TITLE: title} if title else {}), **annotations}
        return {
            "mediaType": media_type,
            "digest": digest,
            "size": len(data),
            **({"annotations": noted} if noted else {}),
        }

    def manifest(self, tag: str, layers: list[Layer], **more: Any) -> Layer:
        config = self.blob(b"{}", "application/vnd.oci.image.config.v1+json")
        return self.document(
            tag, {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers, **more}
        )

    def index(self, tag: str, manifests: list[Layer]) -> Layer:
        return self.document(tag, {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})

    def document(self, tag: str, value: dict[str, Any]) -> Layer:
        data = json.dumps(value).encode()
        url = f"http://{self.host}/v2/{self.name}/manifests/{tag}"
        digest = self._send("PUT", url, data, value["mediaType"]).headers["Docker-Content-Digest"]
        return {"mediaType": value["mediaType"], "digest": digest, "size": len(data)}

    def _send(self, method: str, url: str, data: bytes, kind: str) -> Any:
        headers = {"Content-Type": kind} if kind else {}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(url, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=10) as response:
            return response


def tar(files: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    """A tar of files; a TarInfo is put in as it is, under its key."""
    return tar_of(list(files.items()))


def tar_of(files: list[tuple[str, bytes | tarfile.TarInfo]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for name, content in files:
            member = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.name = name
            data = content if isinstance(content, bytes) else b""
            member.size = len(data)
            made.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def link(target: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo()
    member.type, member.linkname = kind, target
    return member


def packed(data: bytes) -> bytes:
    """gzip in two members, as seekable layers are."""
    half = len(data) // 2
    return gzip.compress(data[:half], 1) + gzip.compress(data[half:], 1)
