"""Tokens: real signatures, key sets from real files and a real HTTP server, and the known attacks."""

from __future__ import annotations

import base64
import hmac
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from modelway_runtime.serving import auth as auth_module
from modelway_runtime.serving.auth import Authenticator, make_authenticator, verifying_keys
from modelway_runtime.serving.errors import InferenceError
from modelway_runtime.serving.watch import ConfigError
from modelway_runtime.settings import JwtAuth

ISSUER, AUDIENCE = "https://id.example.com/", "modelway"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
EC384_KEY = ec.generate_private_key(ec.SECP384R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
OTHER_EC_KEY = ec.generate_private_key(ec.SECP256R1())


def jwk(key: Any, kid: str | None, **more: Any) -> dict[str, Any]:
    algorithm: Any = {
        rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
        ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
        ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm,
    }
    maker = next(maker for kind, maker in algorithm.items() if isinstance(key, kind))
    document: dict[str, Any] = maker.to_jwk(key.public_key(), as_dict=True)
    document.pop("key_ops", None)
    return document | ({} if kid is None else {"kid": kid}) | more


def key_set(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


ALL_KEYS = key_set(jwk(RSA_KEY, "rsa"), jwk(EC_KEY, "ec"), jwk(EC384_KEY, "ec384"), jwk(ED_KEY, "ed"))


def token(
    key: Any = EC_KEY,
    algorithm: str = "ES256",
    kid: str | None = "ec",
    without: str | None = None,
    **claims: Any,
) -> str:
    # Parameters are made when tests are collected, which may be minutes before they run.
    payload = {"iss": ISSUER, "aud": AUDIENCE, "sub": "checkout", "exp": int(time.time()) + 86_400} | claims
    payload.pop(without or "", None)
    return jwt.encode(payload, key, algorithm, headers=None if kid is None else {"kid": kid})


@pytest.fixture
def jwks(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    path.write_bytes(ALL_KEYS)
    return path


def by_file(jwks: Path, clients_file: Path | None = None) -> Authenticator:
    return make_authenticator(
        JwtAuth(
            jwks=jwks.as_uri(),
            issuer=ISSUER,
            audience=AUDIENCE,
            clients_file=str(clients_file) if clients_file else None,
        )
    )


def refused(authenticator: Authenticator, text: str | bytes) -> str:
    with pytest.raises(InferenceError) as caught:
        authenticator.authenticate(b"Bearer " + (text.encode() if isinstance(text, str) else text))
    assert (caught.value.status, caught.value.reason) == (401, "unauthorized")
    return caught.value.message


def name(authenticator: Authenticator, text: str) -> str:
    return authenticator.authenticate(f"Bearer {text}").name


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"),
    [(RSA_KEY, f"{family}{size}", "rsa") for family in ("RS", "PS") for size in (256, 384, 512)]
    + [(EC_KEY, "ES256", "ec"), (EC384_KEY, "ES384", "ec384"), (ED_KEY, "EdDSA", "ed")],
)
def test_each_algorithm_that_is_allowed(jwks: Path, key: Any, algorithm: str, kid: str) -> None:
    assert name(by_file(jwks), token(key, algorithm, kid)) == "checkout"


def segment(document: Any) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=")


def forged(header: dict[str, Any], secret: bytes | None) -> bytes:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "admin", "exp": int(time.time()) + 86_400}
    signed = segment(header) + b"." + segment(claims)
    signature = b"" if secret is None else hmac.digest(secret, signed, "sha256")
    return signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", None])
def test_an_unsigned_token_is_refused(jwks: Path, algorithm: str | None) -> None:
    assert refused(by_file(jwks), forged({"alg": algorithm, "kid": "rsa"}, None)) == "the token is not valid"


@pytest.mark.parametrize("kid", ["rsa", "ec", "ed"])
def test_a_public_key_is_no_shared_secret(jwks: Path, kid: str) -> None:
    key = {"rsa": RSA_KEY, "ec": EC_KEY, "ed": ED_KEY}[kid]
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for secret in (pem, pem.strip(), b""):
        refused(by_file(jwks), forged({"alg": "HS256", "typ": "JWT", "kid": kid}, secret))


def test_a_shared_secret_in_the_key_set_is_not_used(jwks: Path) -> None:
    secret = b"s" * 32
    oct_key = {"kty": "oct", "kid": "hs", "alg": "HS256", "k": base64.urlsafe_b64encode(secret).decode()}
    jwks.write_bytes(key_set(jwk(EC_KEY, "ec"), oct_key))
    assert refused(by_file(jwks), forged({"alg": "HS256", "kid": "hs"}, secret)).endswith("unknown key")


def test_keys_that_a_token_brings_along_are_not_used(jwks: Path) -> None:
    text = jwt.encode(
        {"iss": ISSUER, "aud": AUDIENCE, "sub": "checkout", "exp": int(time.time()) + 86_400},
        OTHER_EC_KEY,
        "ES256",
        headers={"kid": "ec", "jwk": jwk(OTHER_EC_KEY, "ec"), "jku": "http://127.0.0.1:1/jwks"},
    )
    assert refused(by_file(jwks), text) == "the token is not valid"


def test_the_key_decides_the_algorithm(jwks: Path) -> None:
    jwks.write_bytes(key_set(jwk(RSA_KEY, "rsa", alg="RS256")))
    authenticator = by_file(jwks)
    assert name(authenticator, token(RSA_KEY, "RS256", "rsa")) == "checkout"
    refused(authenticator, token(RSA_KEY, "PS256", "rsa"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (token(exp=int(time.time()) - 60), "has expired"),
        (token(without="exp"), "lacks the claim `exp`"),
        (token(without="aud"), "lacks the claim `aud`"),
        (token(without="iss"), "lacks the claim `iss`"),
        (token(without="sub"), "lacks the claim `sub`"),
        (token(aud="somebody-else"), "another server"),
        (token(aud=["a", "b"]), "another server"),
        (token(iss="https://evil.example.com/"), "another issuer"),
        (token(sub=""), "names nobody"),
        (token(nbf=int(time.time()) + 86_400), "not valid"),
        (token(models="ranker"), "not a list"),
        (token(models=[1]), "not a list"),
        (token(OTHER_EC_KEY), "not valid"),
        (token(kid="nobody's"), "unknown key"),
        (token(kid=None), "unknown key"),
        (token(EC384_KEY, "ES384", "ec"), "not valid"),
        (token()[:-4], "not valid"),
        ("a.b.c", "not valid"),
        ("", "not valid"),
        ("....", "not valid"),
        ("x" * 20_000, "too long"),
    ],
)
def test_tokens_that_are_refused(jwks: Path, text: str, said: str) -> None:
    authenticator = by_file(jwks)
    assert name(authenticator, token()) == "checkout"
    assert said in refused(authenticator, text)


def test_a_tampered_token_is_refused_also_after_the_true_one(jwks: Path) -> None:
    authenticator = by_file(jwks)
    true = token(models=["ranker"])
    assert authenticator.authenticate(f"Bearer {true}").models == {"ranker"}
    head, _, signature = true.split(".")
    body = segment({"iss": ISSUER, "aud": AUDIENCE, "sub": "root", "exp": int(time.time()) + 86_400}).decode()
    assert refused(authenticator, f"{head}.{body}.{signature}") == "the token is not valid"


@pytest.mark.parametrize(
    "header", [b"[" * 6000, b"9" * 6000, b'{"alg":"ES256","kid":["ec"]}', b'{"alg":"ES256","kid":{}}', b"\xff\xfe{}",
               b'{"alg":["ES256"],"kid":"ec"}', b'{"alg":"ES256","kid":"ec","crit":["x"]}', b"null", b'"ec"']
)  # fmt: skip
def test_hostile_headers_are_refused(jwks: Path, header: bytes) -> None:
    refused(by_file(jwks), base64.urlsafe_b64encode(header).rstrip(b"=") + b".e30.e30")


def test_clocks_may_differ_by_half_a_minute(jwks: Path) -> None:
    authenticator = by_file(jwks)
    assert name(authenticator, token(exp=int(time.time()) - 10, nbf=int(time.time()) + 10)) == "checkout"


def test_a_verified_token_is_remembered_and_forgotten_when_it_expires(
    jwks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth_module, "LEEWAY_S", 0)
    authenticator = by_file(jwks)
    text = token(exp=int(time.time()) + 2)
    client = authenticator.authenticate(f"Bearer {text}")
    assert authenticator.authenticate(f"Bearer {text}") is client
    time.sleep(2.1)
    assert "expired" in refused(authenticator, text)


def test_the_memory_of_tokens_is_bounded(jwks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth_module, "MAX_VERIFIED", 2)
    authenticator = by_file(jwks)
    texts = [f"Bearer {token(sub=f'client-{index}')}" for index in range(3)]
    first, second = (authenticator.authenticate(text) for text in texts[:2])
    assert authenticator.authenticate(texts[0]) is first
    authenticator.authenticate(texts[2])  # drops the one that was not used for longest
    assert authenticator.authenticate(texts[0]) is first
    again = authenticator.authenticate(texts[1])
    assert again is not second
    assert again.name == "client-1"


def test_the_clients_file_adds_models_and_rates(jwks: Path, tmp_path: Path) -> None:
    clients = tmp_path / "clients.json"
    limit = {"requests_per_second": 0.001, "burst": 1}
    clients.write_text(
        json.dumps(
            {
                "clients": {
                    "checkout": {"models": ["ranker", "reranker"], "admin": True, **limit},
                    "gone": {"expires": "2001-01-01T00:00:00Z"},
                }
            }
        )
    )
    authenticator = by_file(jwks, clients)
    plain = authenticator.authenticate(f"Bearer {token()}")
    assert (plain.models, plain.admin) == ({"ranker", "reranker"}, True)
    narrowed = authenticator.authenticate(f"Bearer {token(models=['ranker', 'fraud'])}")
    assert narrowed.models == {"ranker"}  # neither grants what the other does not
    assert narrowed.rate is plain.rate
    assert plain.rate is not None
    assert plain.rate.take() == 0.0
    unknown = authenticator.authenticate(f"Bearer {token(sub='search', admin=True)}")
    assert (unknown.name, unknown.models, unknown.admin, unknown.rate) == ("search", None, False, None)
    assert "expired" in refused(authenticator, token(sub="gone"))

    text = token()
    authenticator.authenticate(f"Bearer {text}")
    clients.write_text(json.dumps({"clients": {"checkout": {"models": ["fraud"], **limit}}}))
    assert authenticator.refresh() is None
    after = authenticator.authenticate(f"Bearer {text}")
    assert (after.models, after.admin) == ({"fraud"}, False)
    assert after.rate is not None
    assert after.rate.take() > 0  # what was used up stays so
    clients.write_text('{"clients": {"checkout": {"modles": []}}}')
    assert "modles" in (authenticator.refresh() or "")
    assert authenticator.authenticate(f"Bearer {text}") is after


def test_a_key_file_rotates_and_a_removed_key_ends_its_tokens(jwks: Path) -> None:
    authenticator = by_file(jwks)
    old, new = token(), token(OTHER_EC_KEY, kid="next")
    assert name(authenticator, old) == "checkout"
    refused(authenticator, new)
    jwks.write_bytes(key_set(jwk(OTHER_EC_KEY, "next")))
    assert authenticator.refresh() is None
    assert name(authenticator, new) == "checkout"
    assert refused(authenticator, old).endswith("unknown key")
    jwks.write_text("<html>")
    assert "stays in force" in (authenticator.refresh() or "")
    assert authenticator.refresh() is None
    assert name(authenticator, new) == "checkout"


def test_a_set_of_one_nameless_key_serves_tokens_without_a_key_id(jwks: Path) -> None:
    jwks.write_bytes(key_set(jwk(EC_KEY, None)))
    assert name(by_file(jwks), token(kid=None)) == "checkout"


SMALL_KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024)


@pytest.mark.parametrize(
    "unusable",
    [
        jwk(RSA_KEY, "x", use="enc"),
        jwk(RSA_KEY, "x", key_ops=["encrypt"]),
        jwk(RSA_KEY, "x", alg="RSA-OAEP"),
        jwk(RSA_KEY, "x", alg="HS256"),
        jwk(SMALL_KEY, "x"),
        jwk(EC_KEY, "x", crv="P-521"),
        jwk(EC_KEY, "x", x="AAAA"),
        jwt.algorithms.ECAlgorithm.to_jwk(EC_KEY, as_dict=True) | {"key_ops": ["verify"]},  # a private key
        {"kty": "oct", "k": "c2VjcmV0", "kid": "x"},
        {"kty": "RSA", "kid": "x", "e": "AQAB"},
        {"kty": "RSA", "kid": "x", "n": "", "e": ""},
        {"kty": "OKP", "crv": "Ed25519", "kid": "x", "x": "é"},
        {"kty": "new", "kid": "x"},
    ],
)
def test_keys_that_are_passed_over(unusable: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="no usable public key"):
        verifying_keys(key_set(unusable))
    assert set(verifying_keys(key_set(unusable, jwk(EC_KEY, "ec")))) == {"ec"}


@pytest.mark.parametrize("location", ["file://host/keys", "file:", "http://[", "file:///missing/jwks.json"])
def test_locations_that_are_wrong(location: str) -> None:
    with pytest.raises(ConfigError, match=r"auth\.jwks"):
        make_authenticator(JwtAuth(jwks=location, issuer=ISSUER, audience=AUDIENCE, clients_file=None))


class KeyServer:
    """Serves a key set over HTTP; what it answers can be changed meanwhile."""

    def __init__(self) -> None:
        self.body, self.status, self.location, self.fetches = ALL_KEYS, 200, "", 0
        self.pause_s = 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.fetches += 1
                moved = outer.location and "elsewhere" not in self.path
                self.send_response(302 if moved else outer.status)
                if moved:
                    self.send_header("Location", outer.location)
                self.end_headers()
                for at in range(0, len(outer.body), 65536):
                    try:
                        self.wfile.write(outer.body[at : at + 65536])
                        self.wfile.flush()
                    except OSError:
                        return  # the client has had enough
                    time.sleep(outer.pause_s)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/jwks?token=hidden"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[KeyServer]:
    server = KeyServer()
    yield server
    server.close()


def by_url(server: KeyServer) -> Authenticator:
    return make_authenticator(JwtAuth(jwks=server.url, issuer=ISSUER, audience=AUDIENCE, clients_file=None))


def test_keys_from_a_url_rotate_when_an_unknown_key_turns_up(
    server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth_module, "FETCH_AGAIN_S", 0.2)
    authenticator = by_url(server)
    assert name(authenticator, token()) == "checkout"
    server.body = key_set(jwk(OTHER_EC_KEY, "next"))
    time.sleep(0.25)
    assert authenticator.refresh() is None
    assert server.fetches == 1  # nothing asks for it yet
    new = token(OTHER_EC_KEY, kid="next")
    assert refused(authenticator, new).endswith("unknown key")
    assert server.fetches == 1  # a request never fetches
    assert authenticator.refresh() is None
    assert server.fetches == 2
    assert name(authenticator, new) == "checkout"
    refused(authenticator, token(kid=None))
    time.sleep(0.25)
    assert authenticator.refresh() is None
    assert server.fetches == 3
    time.sleep(0.25)
    assert authenticator.refresh() is None
    assert server.fetches == 3  # one for each time that something was missing


def test_unknown_keys_cannot_provoke_fetches(server: KeyServer) -> None:
    authenticator = by_url(server)
    for index in range(50):
        refused(authenticator, token(kid=f"made-up-{index}"))
        assert authenticator.refresh() is None
    assert server.fetches == 1


def test_keys_from_a_url_are_fetched_again_in_time(
    server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth_module, "FETCH_EVERY_S", 0.05)
    authenticator = by_url(server)
    server.body = key_set(jwk(OTHER_EC_KEY, "next"))
    time.sleep(0.06)
    assert authenticator.refresh() is None
    assert name(authenticator, token(OTHER_EC_KEY, kid="next")) == "checkout"


def test_a_failing_server_is_reported_once_and_asked_again(
    server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    authenticator = by_url(server)
    monkeypatch.setattr(auth_module, "FETCH_EVERY_S", 0.0)
    monkeypatch.setattr(auth_module, "FETCH_AGAIN_S", 0.05)
    server.status = 503
    assert "status 503" in (authenticator.refresh() or "")
    monkeypatch.setattr(auth_module, "FETCH_EVERY_S", 300.0)
    time.sleep(0.06)
    assert authenticator.refresh() is None  # said already
    server.status, server.body = 200, b"<html>a proxy's greeting</html>"
    time.sleep(0.06)
    assert "wrong" in (authenticator.refresh() or "")
    assert name(authenticator, token()) == "checkout"
    server.body = key_set(jwk(OTHER_EC_KEY, "next"))
    time.sleep(0.06)
    assert authenticator.refresh() is None
    assert name(authenticator, token(OTHER_EC_KEY, kid="next")) == "checkout"


def test_a_server_that_is_gone_leaves_the_keys(server: KeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    authenticator = by_url(server)
    monkeypatch.setattr(auth_module, "FETCH_EVERY_S", 0.0)
    server.close()
    message = authenticator.refresh() or ""
    assert "refused" in message
    assert "hidden" not in message
    assert name(authenticator, token()) == "checkout"


def test_a_redirect_is_not_followed(server: KeyServer) -> None:
    by_url(server)
    server.location = server.url.replace("jwks", "elsewhere")  # where good keys are
    with pytest.raises(ConfigError, match="status 302"):
        by_url(server)


def test_answers_at_the_start_that_are_no_key_set(server: KeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.body = b" " * (2**20 + 1)
    with pytest.raises(ConfigError, match="more than"):
        by_url(server)
    monkeypatch.setattr(auth_module, "FETCH_TIMEOUT_S", 0.2)
    server.body, server.pause_s = b" " * 2**20, 0.05  # each piece in time, all of it never
    started = time.monotonic()
    with pytest.raises(ConfigError, match="not finished") as caught:
        by_url(server)
    assert time.monotonic() - started < 0.7
    assert "hidden" not in str(caught.value)
