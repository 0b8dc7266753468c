"""Who a registry lets in, and where credentials go: a real registry, a real token server."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from modelway_runtime.serving import sources
from modelway_runtime.serving.sources import SourceError, fetch
from tests.runtime.sources import registry
from tests.runtime.sources.registry import Repository
from tests.runtime.sources.web import WEIGHTS, Handler, Web, body, redirect, sha256

DIGEST = sha256(WEIGHTS)
USER, PASSWORD = "robot", "geheim: ä"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
PUBLIC, PRIVATE = "shop/public", "shop/private"


class Signer:
    """What the registry trusts: a key and its certificate."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tokens")])
        now = datetime.now(UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .serial_number(1)
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    def token(self, scopes: list[str]) -> str:
        parts = [scope.split(":") for scope in scopes]
        now = int(time.time())
        claims = {
            "iss": "tokens", "sub": "", "aud": "registry", "jti": "1",
            "iat": now, "nbf": now - 60, "exp": now + 600,
            "access": [{"type": kind, "name": name, "actions": actions.split(",")} for kind, name, actions in parts],
        }  # fmt: skip
        chain = base64.b64encode(self.certificate.public_bytes(serialization.Encoding.DER)).decode()
        return jwt.encode(claims, self.key, "ES256", {"x5c": [chain]})


@dataclass(frozen=True)
class Guarded:
    """A registry that wants tokens, and the server that gives them."""

    host: str
    tokens: Web


def giving(signer: Signer) -> object:
    def answer(handler: Handler) -> None:
        asked = handler.server.web.asked[-1]
        known = asked.headers.get("authorization") == BASIC
        if "authorization" in asked.headers and not known:
            handler.reply(401)
            return
        granted = [scope for scope in asked.query["scope"] if known or PUBLIC in scope]
        assert asked.query["service"] == ["registry"]
        handler.reply(200, json.dumps({"token": signer.token(granted)}).encode())

    return answer


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    signer, folder = Signer(), tmp_path_factory.mktemp("registry")
    (folder / "ca.pem").write_bytes(signer.certificate.public_bytes(serialization.Encoding.PEM))
    with Web({"/token": [giving(signer)]}) as tokens:  # type: ignore[list-item]
        rules = {"realm": f"{tokens.url}/token", "service": "registry", "issuer": "tokens"}
        with registry.serving(folder, {"token": {**rules, "rootcertbundle": str(folder / "ca.pem")}}) as host:
            for name in (PUBLIC, PRIVATE):
                repository = Repository(host, name, signer.token([f"repository:{name}:pull,push"]))
                repository.manifest("1", [repository.blob(WEIGHTS, "application/octet-stream", "r.onnx")])
            yield Guarded(host, tokens)


@pytest.fixture(autouse=True)
def docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Docker's configuration file; and a .netrc whose password no registry's business is."""
    monkeypatch.setattr(sources, "PAUSES_S", (0.0, 0.0))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text("default login netrc password netrc\n")
    (tmp_path / "netrc").chmod(0o600)
    (tmp_path / "docker").mkdir()
    return tmp_path / "docker" / "config.json"


def write(path: Path, host: str, entry: dict[str, str]) -> None:
    path.write_text(
        json.dumps({"auths": {"other.example": {"auth": "b3RoZXI6b3RoZXI="}, host: entry}, "psFormat": "x"})
    )


def test_anybody_gets_what_is_public(guarded: Guarded, tmp_path: Path) -> None:
    guarded.tokens.asked.clear()
    path = fetch(f"oci://{guarded.host}/{PUBLIC}:1", DIGEST, tmp_path / "m")
    assert path.read_bytes() == WEIGHTS
    (asked,) = guarded.tokens.asked
    assert asked.query["scope"] == [f"repository:{PUBLIC}:pull"]
    assert "authorization" not in asked.headers, "not even the .netrc's"


@pytest.mark.parametrize("form", ["{}", "http://{}", "https://{}/v1/", "{}/v2/"])
@pytest.mark.parametrize(
    "entry", [{"auth": BASIC[6:]}, {"username": USER, "password": PASSWORD}], ids=["auth", "pair"]
)
def test_credentials_of_docker(
    guarded: Guarded, tmp_path: Path, docker: Path, form: str, entry: dict[str, str]
) -> None:
    write(docker, form.format(guarded.host), entry)
    assert fetch(f"oci://{guarded.host}/{PRIVATE}:1", DIGEST, tmp_path / "m").read_bytes() == WEIGHTS


def test_the_home_folder_has_the_configuration_too(
    guarded: Guarded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCKER_CONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".docker").mkdir()
    write(tmp_path / ".docker" / "config.json", guarded.host, {"auth": BASIC[6:]})
    assert fetch(f"oci://{guarded.host}/{PRIVATE}:1", DIGEST, tmp_path / "m").read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    "entry",
    [{}, {"identitytoken": "geheim"}, {"auth": base64.b64encode(b"robot:geheim2").decode()}],
    ids=["none", "identity token", "wrong"],
)
def test_who_is_not_let_in_is_told_where_credentials_come_from(
    guarded: Guarded, tmp_path: Path, docker: Path, entry: dict[str, str]
) -> None:
    write(docker, guarded.host, entry)
    with pytest.raises(SourceError, match="credential helpers and identity tokens are not used") as caught:
        fetch(f"oci://{guarded.host}/{PRIVATE}:1", DIGEST, tmp_path / "m")
    assert "geheim" not in str(caught.value)
    assert entry.get("auth", "geheim") not in str(caught.value)
    assert os.listdir(tmp_path / "m") == []


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"auths": []}',
        '{"auths": {"HOST": {"auth": 7}}}',
        '{"auths": {"HOST": {"auth": "ge heim"}}}',
    ],
)
def test_a_configuration_that_is_none(guarded: Guarded, tmp_path: Path, docker: Path, text: str) -> None:
    docker.write_text(text.replace("HOST", guarded.host))
    with pytest.raises(SourceError, match=r"config\.json") as caught:
        fetch(f"oci://{guarded.host}/{PRIVATE}:1", DIGEST, tmp_path / "m")
    assert "heim" not in str(caught.value)


PATH = "/v2/shop/r"
_MANIFEST = json.dumps({"layers": [{"digest": DIGEST, "annotations": {registry.TITLE: "r.onnx"}}]}).encode()


def asking(challenge: str, wanted: str) -> dict[str, list[object]]:
    """A registry that wants just this Authorization."""

    def guard(inner: object) -> object:
        def answer(handler: Handler) -> None:
            if handler.headers.get("Authorization") == wanted:
                inner(handler)  # type: ignore[operator]
            else:
                handler.reply(401, b"", {"WWW-Authenticate": challenge})

        return answer

    return {
        f"{PATH}/manifests/1": [guard(body(_MANIFEST))],
        f"{PATH}/blobs/{DIGEST}": [guard(body(WEIGHTS))],
    }


def test_a_registry_that_wants_a_password(tmp_path: Path, docker: Path) -> None:
    with Web(asking('Basic realm="r"', BASIC)) as web:  # type: ignore[arg-type]
        with pytest.raises(SourceError, match="wants credentials for shop/r; credentials are read from"):
            fetch(f"oci://{web.host}/shop/r:1", DIGEST, tmp_path / "m")
        write(docker, web.host, {"auth": BASIC[6:]})
        assert fetch(f"oci://{web.host}/shop/r:1", DIGEST, tmp_path / "m").read_bytes() == WEIGHTS


def test_credentials_go_nowhere_else(tmp_path: Path, docker: Path) -> None:
    """Not with a redirect of a layer, and not with one of the token."""
    with (
        Web({"/signed": [body(WEIGHTS)], "/token": [body(b'{"access_token": "elsewhere"}')]}) as other,
        Web() as web,
    ):
        web.answers = asking(f'Bearer realm="{web.url}/token",service="s"', "Bearer elsewhere")  # type: ignore[assignment]
        web.answers["/token"] = [redirect(f"{other.url}/token")]
        web.answers[f"{PATH}/blobs/{DIGEST}"] = [redirect(f"{other.url}/signed")]
        write(docker, web.host, {"auth": BASIC[6:]})
        assert fetch(f"oci://{web.host}/shop/r:1", DIGEST, tmp_path / "m").read_bytes() == WEIGHTS
        assert [one.headers.get("authorization") for one in web.said("/token")] == [BASIC]
        assert [one.path for one in other.asked] == ["/token", "/signed"]
        assert all("authorization" not in one.headers for one in other.asked)


@pytest.mark.parametrize(
    "realm",
    [
        "http://elsewhere.example/token",
        "http://127.0.0.1.example/t",
        "http://127.0.0.1@elsewhere.example/t",
        "file:///etc/x",
        "",
    ],
)
def test_a_token_comes_over_https(tmp_path: Path, docker: Path, realm: str) -> None:
    with Web(asking(f'Bearer realm="{realm}"', "")) as web:  # type: ignore[arg-type]
        write(docker, web.host, {"auth": BASIC[6:]})
        with pytest.raises(SourceError, match="names no https address"):
            fetch(f"oci://{web.host}/shop/r:1", DIGEST, tmp_path / "m")


@pytest.mark.parametrize("answer", [b"{}", b"geheim", b'{"token": "a\\r\\nX: geheim"}', b'{"token": 7}', b""])
def test_a_token_that_is_none(tmp_path: Path, answer: bytes) -> None:
    with Web({"/token": [body(answer)]}) as web:
        web.answers |= asking(f'Bearer realm="{web.url}/token"', "")  # type: ignore[arg-type]
        with pytest.raises(SourceError, match=r"/token") as caught:
            fetch(f"oci://{web.host}/shop/r:1", DIGEST, tmp_path / "m")
        assert "geheim" not in str(caught.value)
        assert len(web.said("/token")) == 1
