"""TLS over real sockets: an asyncio and a uvloop server, a grpc.aio server, certificates that rotate."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from modelway_runtime.serving import tls as tls_module
from modelway_runtime.serving.watch import ConfigError
from modelway_runtime.settings import Tls
from tests.runtime.security.certificates import Authority, pem_key


class Files:
    """What is mounted: a certificate, its key, and maybe the CA of clients."""

    def __init__(self, folder: Path, client_ca: Authority | None = None) -> None:
        self.folder = folder
        self.authority = Authority("server authority")
        self.certificate, self.key, self.serial = self.authority.write(folder, "server")
        self.client_ca = folder / "clients.pem"
        if client_ca:
            self.client_ca.write_bytes(client_ca.pem)
        self.tls = Tls(
            certificate_file=str(self.certificate),
            key_file=str(self.key),
            client_ca_file=str(self.client_ca) if client_ca else None,
        )

    def rotate(self) -> None:
        _, _, self.serial = self.authority.write(self.folder, "server")

    def trust(self, identity: tuple[Path, Path, int] | None = None) -> ssl.SSLContext:
        """A client's context; it shows its own certificate where it has one."""
        context = ssl.create_default_context(cadata=self.authority.pem.decode())
        if identity:
            context.load_cert_chain(identity[0], identity[1])
        return context


def serial_seen(port: int, context: ssl.SSLContext, alpn: str = "http/1.1", *, echo: bool = True) -> int:
    """Connect, exchange a byte, and return the serial number of the server's certificate."""
    context.set_alpn_protocols([alpn])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        assert secure.selected_alpn_protocol() == alpn
        if echo:
            secure.sendall(b"x")
            if secure.recv(1) != b"x":  # a refused client certificate shows only here with TLS 1.3
                raise ConnectionResetError
        certificate = secure.getpeercert(binary_form=True)
        assert certificate
        return x509.load_der_x509_certificate(certificate).serial_number


def session_of(
    port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> ssl.SSLSession | None:
    """Connect, with a session of before where one is given, and return the session."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="localhost", session=session) as secure,
    ):
        secure.sendall(b"x")
        if secure.recv(1) != b"x":
            raise ConnectionResetError
        return secure.session


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(100):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # the test's client left
    finally:
        writer.close()


@contextmanager
def in_thread(
    start: Callable[[], Awaitable[tuple[int, Callable[[], Awaitable[None]]]]], loop_factory: Any
) -> Iterator[int]:
    """Run a server in a loop of another thread; ``start`` gives its port and how to stop it."""
    ready: list[int] = []
    started, stop = threading.Event(), threading.Event()

    async def main() -> None:
        port, close = await start()
        ready.append(port)
        started.set()
        while not stop.is_set():
            await asyncio.sleep(0.01)
        await close()

    def run() -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.get_loop().set_exception_handler(lambda loop, context: None)  # failed handshakes are meant
            runner.run(main())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert started.wait(10)
        yield ready[0]
    finally:
        stop.set()
        thread.join(10)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def serving(request: pytest.FixtureRequest) -> Callable[[ssl.SSLContext], Any]:
    def serve(context: ssl.SSLContext) -> Any:
        async def start() -> tuple[int, Callable[[], Awaitable[None]]]:
            server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=context)

            async def close() -> None:
                server.close()
                await server.wait_closed()

            return server.sockets[0].getsockname()[1], close

        return in_thread(start, request.param)

    return serve


Serving = Callable[[ssl.SSLContext], Any]


def test_a_rotated_certificate_is_served_to_new_connections(tmp_path: Path, serving: Serving) -> None:
    files = Files(tmp_path)
    context = tls_module.server_context(files.tls)
    with serving(context) as port, socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        first = files.serial
        assert serial_seen(port, files.trust()) == first
        with files.trust().wrap_socket(plain, server_hostname="localhost") as lasting:
            files.rotate()
            assert serial_seen(port, files.trust()) == first  # not before it is asked to
            for _ in range(2):
                tls_module.reload(context, files.tls)
                assert serial_seen(port, files.trust()) == files.serial != first
                files.rotate()
            lasting.sendall(b"y")
            assert lasting.recv(1) == b"y"  # what is connected stays so


def test_half_a_rotation_changes_nothing(tmp_path: Path, serving: Serving) -> None:
    files = Files(tmp_path)
    context = tls_module.server_context(files.tls)
    with serving(context) as port:
        first = files.serial
        certificate, key, serial = files.authority.issue("next")
        files.certificate.write_bytes(certificate)
        with pytest.raises(ConfigError, match="not a certificate and its key"):
            tls_module.reload(context, files.tls)
        assert serial_seen(port, files.trust()) == first
        files.key.write_bytes(key)
        tls_module.reload(context, files.tls)
        assert serial_seen(port, files.trust()) == serial
        files.key.unlink()
        with pytest.raises(ConfigError, match="No such file"):
            tls_module.reload(context, files.tls)
        assert serial_seen(port, files.trust()) == serial


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_clients_must_show_a_certificate_of_the_ca_of_today(
    tmp_path: Path, serving: Serving, version: ssl.TLSVersion
) -> None:
    old, new = Authority("old clients"), Authority("new clients")
    files = Files(tmp_path, client_ca=old)
    of_old, of_new = old.write(tmp_path, "of-old"), new.write(tmp_path, "of-new")
    context = tls_module.server_context(files.tls)
    with serving(context) as port:
        assert serial_seen(port, files.trust(of_old)) == files.serial
        known = files.trust(of_old)
        known.maximum_version = version
        if version == ssl.TLSVersion.TLSv1_2:  # it resumes sessions, whatever their client's CA
            with pytest.raises((ssl.SSLError, ConnectionError)):
                session_of(port, known)
            return
        session = session_of(port, known)
        for stranger in (None, of_new, files.authority.write(tmp_path, "of-server")):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                serial_seen(port, files.trust(stranger))
        files.client_ca.write_bytes(new.pem)
        files.rotate()
        tls_module.reload(context, files.tls)
        assert serial_seen(port, files.trust(of_new)) == files.serial
        for stranger in (None, of_old):  # a CA that was taken away is not trusted any longer
            with pytest.raises((ssl.SSLError, ConnectionError)):
                serial_seen(port, files.trust(stranger))
        with pytest.raises((ssl.SSLError, ConnectionError)):
            session_of(port, known, session)


def test_old_protocols_are_refused(tmp_path: Path, serving: Serving) -> None:
    files = Files(tmp_path)
    context = tls_module.server_context(files.tls)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    with serving(context) as port:
        client = files.trust()
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        assert serial_seen(port, client) == files.serial
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.load_verify_locations(cadata=files.authority.pem.decode())
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            serial_seen(port, old)


def test_files_that_cannot_be_used_say_what_to_do(tmp_path: Path) -> None:
    files = Files(tmp_path, client_ca=Authority("clients"))
    other_certificate, other_key, _ = files.authority.issue("other")
    encrypted = pem_key(ec.generate_private_key(ec.SECP256R1()), b"secret")
    wrong: list[tuple[Path, bytes | None, str]] = [
        (files.certificate, None, r"`tls.certificate_file`: cannot read .*server\.pem"),
        (files.key, None, r"`tls.key_file`: cannot read .*server\.key"),
        (files.client_ca, None, r"`tls.client_ca_file`: cannot read .*clients\.pem"),
        (files.certificate, b"", "not a certificate and its key"),
        (files.certificate, b"no PEM", "not a certificate and its key"),
        (files.certificate, other_certificate, "not a certificate and its key"),
        (files.key, other_key, "unencrypted PEM key of the leaf"),
        (files.key, encrypted, "decrypt it"),
        (files.client_ca, b"", "holds no CA certificates"),
        (files.client_ca, other_key, "holds no CA certificates"),
    ]
    for path, content, said in wrong:
        before = path.read_bytes()
        path.unlink() if content is None else path.write_bytes(content)
        for make in (tls_module.server_context, tls_module.grpc_credentials):
            with pytest.raises(ConfigError, match=said) as caught:
                make(files.tls)
            assert "PRIVATE" not in str(caught.value)
        path.write_bytes(before)
    tls_module.server_context(files.tls)


@contextmanager
def grpc_serving(tls: Tls) -> Iterator[int]:
    async def echo_rpc(request: bytes, context: Any) -> bytes:
        return request

    async def start() -> tuple[int, Callable[[], Awaitable[None]]]:
        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(echo_rpc)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", {"Echo": handler}),))
        port = server.add_secure_port("127.0.0.1:0", tls_module.grpc_credentials(tls))
        await server.start()

        async def close() -> None:
            await server.stop(0)

        return port, close

    with in_thread(start, asyncio.new_event_loop) as port:
        yield port


def call(port: int, files: Files, identity: tuple[Path, Path, int] | None = None) -> bytes:
    """One call over a channel of its own."""
    shown = (identity[1].read_bytes(), identity[0].read_bytes()) if identity else (None, None)
    credentials = grpc.ssl_channel_credentials(files.authority.pem, *shown)
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(f"localhost:{port}", credentials, options) as channel:
        answer: bytes = channel.unary_unary("/t.T/Echo")(b"hello", timeout=5)
        return answer


def test_grpc_serves_what_the_files_hold_now(tmp_path: Path) -> None:
    files = Files(tmp_path)
    with grpc_serving(files.tls) as port:
        first = files.serial
        assert call(port, files) == b"hello"
        assert serial_seen(port, files.trust(), "h2", echo=False) == first
        certificate, key, serial = files.authority.issue("next")
        files.certificate.write_bytes(certificate)
        assert serial_seen(port, files.trust(), "h2", echo=False) == first  # half a rotation
        files.key.write_bytes(key)
        assert serial_seen(port, files.trust(), "h2", echo=False) == serial
        files.key.unlink()
        assert serial_seen(port, files.trust(), "h2", echo=False) == serial
        assert call(port, files) == b"hello"


def test_grpc_clients_must_show_a_certificate_of_the_ca_of_today(tmp_path: Path) -> None:
    old, new = Authority("old clients"), Authority("new clients")
    files = Files(tmp_path, client_ca=old)
    of_old, of_new = old.write(tmp_path, "of-old"), new.write(tmp_path, "of-new")
    with grpc_serving(files.tls) as port:
        assert call(port, files, of_old) == b"hello"
        for stranger in (None, of_new):
            with pytest.raises(grpc.RpcError):
                call(port, files, stranger)
        files.client_ca.write_bytes(new.pem)
        assert call(port, files, of_new) == b"hello"
        with pytest.raises(grpc.RpcError):
            call(port, files, of_old)


def test_a_mounted_secret_that_is_swapped_is_followed(tmp_path: Path) -> None:
    """Kubernetes replaces both files at once, by one symbolic link."""
    (tmp_path / "v1").mkdir()
    (tmp_path / "v2").mkdir()
    files = Files(tmp_path / "v1")
    _, _, second = files.authority.write(tmp_path / "v2", "server")
    (tmp_path / "..data").symlink_to("v1")
    mounted = Tls(
        certificate_file=str(tmp_path / "..data" / "server.pem"),
        key_file=str(tmp_path / "..data" / "server.key"),
        client_ca_file=None,
    )
    with grpc_serving(mounted) as port:
        assert serial_seen(port, files.trust(), "h2", echo=False) == files.serial
        (tmp_path / "next").symlink_to("v2")
        os.replace(tmp_path / "next", tmp_path / "..data")
        assert serial_seen(port, files.trust(), "h2", echo=False) == second
