"""A client whose CA was taken away does not come in by a session of before: openssl against both doors."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.runtime.security.certificates import Authority
from tests.support import serving
from tests.support.serving import Server

GET = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
DOORS = {"rest": ("http/1.1", GET), "grpc": ("h2", PREFACE)}
Identity = tuple[Path, Path, int]


class Mounted:
    """A server that asks for client certificates, and the files that it reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority("server authority")
        self.ca = folder / "server-ca.pem"
        self.ca.write_bytes(self.authority.pem)
        self.certificate, self.key, _ = self.authority.write(folder, "server")
        self.clients = folder / "clients.pem"

    def settings(self) -> serving.Json:
        tls = {
            "certificate_file": str(self.certificate),
            "key_file": str(self.key),
            "client_ca_file": str(self.clients),
        }
        weights = serving.write_model(self.folder, "mlp", serving.mlp())
        return serving.settings_of([serving.served("mlp", weights)], tls=tls)

    def ask(self, port: int, door: str, identity: Identity | None, *options: str) -> bytes:
        """What openssl's client writes: how it connected, and what the server answered."""
        alpn, request = DOORS[door]
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost"]
        command += ["-CAfile", str(self.ca), "-alpn", alpn, "-ign_eof", *options]
        if identity:
            command += ["-cert", str(identity[0]), "-key", str(identity[1])]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as client:
            try:
                output, _ = client.communicate(request, timeout=1.5)
            except subprocess.TimeoutExpired:  # gRPC keeps the connection
                client.kill()
                output, _ = client.communicate()
        return output


def answered(output: bytes, door: str) -> bool:
    """Whether the server's application said something."""
    return (b"HTTP/1.1 200" if door == "rest" else b"\0\0\0\4\1\0\0\0\0") in output


@pytest.fixture
def mounted(tmp_path: Path) -> Mounted:
    if shutil.which("openssl") is None:
        assert "CI" not in os.environ, "openssl is missing"
        pytest.skip("openssl is not installed")
    return Mounted(tmp_path)


def doors(server: Server) -> dict[str, int]:
    assert server.grpc_port is not None
    return {"rest": server.http_port, "grpc": server.grpc_port}


def test_a_session_does_not_outlive_the_ca_of_its_client(mounted: Mounted, tmp_path: Path) -> None:
    old, new = Authority("old clients"), Authority("new clients")
    of_old, of_new = old.write(tmp_path, "of-old"), new.write(tmp_path, "of-new")
    mounted.clients.write_bytes(old.pem)
    with serving.serving_settings(mounted.settings(), scheme="https") as server:
        sessions = []
        for door, port in doors(server).items():
            assert answered(mounted.ask(port, door, of_old), door), "the test's way in"
            for version in ("-tls1_2", "-tls1_3"):
                file = tmp_path / f"{door}{version}.session"
                mounted.ask(port, door, of_old, version, "-sess_out", str(file))
                if file.exists():
                    again = mounted.ask(port, door, of_old, version, "-sess_in", str(file))
                    sessions.append((door, version, file, b"Reused, TLS" in again))
        mounted.clients.write_bytes(new.pem)
        wait_for(mounted, server, of_new)
        assert [door for door, _, _, reused in sessions if reused] == ["grpc", "grpc"], "a door with sessions"
        for door, version, file, _ in sessions:
            for identity in (None, of_old):
                output = mounted.ask(doors(server)[door], door, identity, version, "-sess_in", str(file))
                assert b"Reused, TLS" not in output, (door, version)
                assert not answered(output, door), (door, version)


def wait_for(mounted: Mounted, server: Server, identity: Identity) -> None:
    """Until both doors know the new CA."""
    end = time.monotonic() + 15
    for door, port in doors(server).items():
        while not answered(mounted.ask(port, door, identity), door):
            assert time.monotonic() < end, f"{door} does not take the new CA"
            time.sleep(0.2)
