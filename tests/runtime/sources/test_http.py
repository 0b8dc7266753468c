"""HTTP servers as they are: slow, busy, cut off, redirecting."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from modelway_runtime.serving import sources, streams
from modelway_runtime.serving.sources import SourceError, fetch
from tests.runtime.sources.web import (
    WEIGHTS,
    Answer,
    Handler,
    Web,
    body,
    redirect,
    sha256,
    stalled,
    truncated,
)

DIGEST = sha256(WEIGHTS)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sources, "PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(streams, "STALL_S", 0.5)
    (tmp_path / "netrc").touch(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def reset(handler: Handler) -> None:
    handler.close_connection = True


def chunked(data: bytes, *, whole: bool) -> Answer:
    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        if whole:
            handler.wfile.write(b"0\r\n\r\n")
        handler.close_connection = True

    return answer


@pytest.mark.parametrize(
    "answers",
    [
        [body(WEIGHTS)],
        [chunked(WEIGHTS, whole=True)],
        [body(b"", 503), body(WEIGHTS)],
        [body(b"", 429), body(b"", 500), body(WEIGHTS)],
        [truncated(WEIGHTS), body(WEIGHTS)],
        [chunked(WEIGHTS[:1000], whole=False), body(WEIGHTS)],
        [stalled(WEIGHTS), body(WEIGHTS)],
        [reset, body(WEIGHTS)],
        [redirect("/elsewhere"), body(b"never asked")],
    ],
    ids=["whole", "chunked", "503", "429, 500", "truncated", "cut chunks", "stalled", "reset", "redirect"],
)
def test_the_file_comes_in_the_end(tmp_path: Path, answers: list[Answer]) -> None:
    with Web({"/m/ranker.onnx": list(answers), "/elsewhere": [body(WEIGHTS)]}) as web:
        path = fetch(f"{web.url}/m/ranker.onnx?version=3", None, tmp_path)
        assert web.asked[0].query == {"version": ["3"]}
    assert path == tmp_path / "ranker.onnx"
    assert path.read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("answer", "text", "attempts"),
    [
        (body(b"", 404), "does not exist", 1),
        (body(b"", 403), "answered 403", 1),
        (body(b"", 401, WWW_Authenticate="Basic realm=x"), "answered 401", 1),
        (body(b"", 204), "answered 204", 1),
        (body(b"", 302), "answered 302", 1),
        (body(WEIGHTS, Content_Encoding="gzip"), "Content-Encoding 'gzip'", 1),
        (body(WEIGHTS[:-1] + b"x"), "not sha256:", 1),
        (redirect("/ranker.onnx"), "redirects too often", 1),
        (redirect("ftp://host/x"), "no URL", 1),
        (truncated(WEIGHTS), r"broke off .*\(3 attempts\)", 3),
        (chunked(WEIGHTS, whole=False), r"broke off .*\(3 attempts\)", 3),
        (stalled(WEIGHTS), r"sent nothing for 0.5 s.*\(3 attempts\)", 3),
        (reset, r"cannot reach .*\(3 attempts\)", 3),
        (body(b"", 502), r"answered 502.*\(3 attempts\)", 3),
    ],
)
def test_nothing_stays_of_what_does_not_come(
    tmp_path: Path, answer: Answer, text: str, attempts: int
) -> None:
    with Web({"/ranker.onnx": [answer]}) as web:
        with pytest.raises(SourceError, match=text) as caught:
            fetch(f"{web.url}/ranker.onnx?signature=geheim", DIGEST, tmp_path / "models")
        if "redirects" not in text:
            # The client itself asks once more where a connection ends without an answer.
            assert len(web.asked) in ((attempts, 2 * attempts) if answer is reset else (attempts,))
    assert os.listdir(tmp_path / "models") == []
    assert "geheim" not in str(caught.value)
    hidden = caught.value.__context__ is None or caught.value.__suppress_context__
    assert hidden, "a trace of the library would show the signed URL"


def test_nobody_listens(tmp_path: Path) -> None:
    with Web() as web:
        gone = web.url
    with pytest.raises(SourceError, match=r"cannot reach http://127.0.0.1:\d+/x.onnx: .*\(3 attempts\)"):
        fetch(f"{gone}/x.onnx", None, tmp_path)


def test_progress_knows_the_total(tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    with Web({"/x.onnx": [body(WEIGHTS)]}) as web:
        fetch(f"{web.url}/x.onnx", None, tmp_path, progress=lambda *now: told.append(now))
    assert {total for _, total in told} == {len(WEIGHTS)}
    assert told[-1] == (len(WEIGHTS), len(WEIGHTS))


def test_a_signed_url_goes_out_as_it_was_written(tmp_path: Path) -> None:
    lines: list[str] = []

    def answer(handler: Handler) -> None:
        lines.append(handler.path)
        handler.reply(200, WEIGHTS)

    with Web({"/a%2Fb/x.onnx": [answer], "/from": [redirect("/a%2Fb/x.onnx?c=A%2FB%3d")]}) as web:
        fetch(f"{web.url}/a%2Fb/x.onnx?c=A%2FB%3d", DIGEST, tmp_path)
        fetch(f"{web.url}/from", DIGEST, tmp_path)
    assert lines == ["/a%2Fb/x.onnx?c=A%2FB%3d"] * 2


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    authority = folder / "ca.pem"
    authority.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return authority, context


def test_https_is_verified_and_never_left(tmp_path: Path) -> None:
    """In a process of its own: the client reads the authorities once."""
    authority, context = certificate(tmp_path)
    code = """
import sys
from pathlib import Path
from modelway_runtime.serving.sources import SourceError, fetch
for source in sys.argv[2:]:
    try:
        print(fetch(source, None, Path(sys.argv[1])).read_bytes() == bytes(range(256)) * 3000)
    except SourceError as error:
        print(error)
"""
    with Web({"/x.onnx": [body(WEIGHTS)]}) as plain, Web(tls=context) as secure:
        secure.answers = {
            "/x.onnx": [body(WEIGHTS)],
            "/same": [redirect("/x.onnx")],
            "/down": [redirect(f"{plain.url}/x.onnx")],
        }
        plain.answers["/up"] = [redirect(f"{secure.url}/x.onnx")]
        urls = [f"{secure.url}/x.onnx", f"{secure.url}/same", f"{plain.url}/up", f"{secure.url}/down"]
        command = [sys.executable, "-c", code, str(tmp_path / "models"), *urls]
        environment = {**os.environ, "SSL_CERT_FILE": str(authority)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
        assert done.stderr == ""
        *good, refused = done.stdout.splitlines()
        assert good == ["True"] * 3
        assert "redirects from https to http" in refused
        assert not plain.said("/x.onnx")
        with pytest.raises(SourceError, match=r"certificate .* is not trusted"):
            fetch(f"{secure.url}/x.onnx", None, tmp_path)


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for source, package in (
        ("http://127.0.0.1:1/x.onnx", "aiohttp"),
        ("s3://bucket/x.onnx", "s3fs"),
        ("gs://bucket/x.onnx", "gcsfs"),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            patch.setitem(sys.modules, f"{package}.core", None)
            with pytest.raises(SourceError, match=rf"needs {package}: pip install 'modelway\[runtime\]'"):
                fetch(source, None, tmp_path)


def test_the_module_needs_no_client_until_it_is_used() -> None:
    code = "import sys, modelway_runtime.serving.sources; print(sorted({'fsspec', 'aiohttp'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == "[]\n"
