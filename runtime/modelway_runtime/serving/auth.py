"""Who calls: API keys, or tokens of an identity provider (JWT).

``authenticate`` is for one thread, the event loop's. ``refresh`` is for another: it prepares what is new
and puts it in place by one assignment.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime
from hashlib import sha256
from math import inf
from secrets import token_urlsafe
from time import monotonic, time
from typing import Annotated, Any, Protocol, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

import jwt
import msgspec
from msgspec import Meta

from modelway_runtime.serving.errors import InferenceError
from modelway_runtime.serving.ratelimit import TokenBucket
from modelway_runtime.serving.values import Client
from modelway_runtime.serving.watch import MAX_BYTES, ConfigError, Watched, read_file
from modelway_runtime.settings import ApiKeyAuth, Auth, JwtAuth, Name

# Nobody is asked who they are, so whoever reaches the port may do all that the server can be told to.
ANONYMOUS = Client(name="anonymous", admin=True)

LEEWAY_S = 30
_SEEN = 10_000  # headers
_UNKNOWN = "the API key is unknown or has expired"
FETCH_EVERY_S = 300.0
FETCH_AGAIN_S = 30.0  # after a failure or an unknown key id: callers can provoke no more fetches
FETCH_TIMEOUT_S = 5.0
MAX_TOKEN_BYTES = 16384
MAX_VERIFIED = 10_000

# Signatures only: with HS* whoever can check a token could also make one, and `none` checks nothing.
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_ALGORITHMS = {
    ("RSA", None): _RSA,
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
_MIN_RSA_BITS = 2048

ClientName: TypeAlias = Annotated[str, Meta(pattern=r"\A[^\x00-\x1f\x7f]+\Z", max_length=255)]
Rate: TypeAlias = Annotated[float, Meta(gt=0, le=1e9)]
Burst: TypeAlias = Annotated[float, Meta(ge=1, le=1e9)]


class Authenticator(Protocol):
    def authenticate(self, authorization: bytes | str | None) -> Client:
        """The client whom the header ``Authorization: Bearer …`` names; raises InferenceError (401)."""
        ...

    def refresh(self) -> str | None:
        """Look for changed files and keys, for a second or more: not on the event loop. Never raises.

        Returns a message for the log when something cannot be used; what was known stays in force.
        """
        ...


class Grant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a client may do. ``models`` None: all. ``burst`` None: as many as in a second."""

    models: Annotated[frozenset[Name], Meta(min_length=1)] | None = None
    requests_per_second: Rate | None = None
    burst: Burst | None = None
    admin: bool = False
    expires: Annotated[datetime, Meta(tz=True)] | None = None


class Key(Grant, frozen=True):
    client: ClientName
    sha256: Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class KeysFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: Annotated[tuple[Key, ...], Meta(min_length=1)]


class ClientsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    clients: dict[ClientName, Grant]


def make_authenticator(auth: Auth) -> Authenticator:
    """What the settings ask for; blocks for up to some seconds where keys come from a URL.

    Raises ConfigError, with what to do, when a file is missing or wrong or the URL does not answer.
    """
    match auth:
        case ApiKeyAuth():
            return _ApiKeys(auth.keys_file)
        case JwtAuth():
            return _Tokens(auth)
        case _:
            return _Everybody()


def new_key() -> tuple[str, str]:
    """An API key and the sha256 for the keys file.

    The key is 256 random bits. There is nothing to guess, so neither a salt nor a slow hash adds anything.
    """
    key = "mw_" + token_urlsafe(32)
    return key, sha256(key.encode()).hexdigest()


class _Everybody:
    def authenticate(self, authorization: bytes | str | None) -> Client:  # noqa: ARG002
        return ANONYMOUS

    def refresh(self) -> str | None:
        return None


class _ApiKeys:
    def __init__(self, path: str) -> None:
        self._path = path
        self._limiters: dict[str, TokenBucket] = {}
        # Looked up by digest: how long a comparison takes says nothing about a key.
        self._keys = Watched(lambda: read_file(path, "auth.keys_file"), self._parse)
        self._seen: dict[bytes | str, tuple[Client, float]] = {}
        self._seen_of = self._keys.value

    def authenticate(self, authorization: bytes | str | None) -> Client:
        if self._seen_of is not self._keys.value:  # the file was replaced
            self._seen, self._seen_of = {}, self._keys.value
        # A header that was right before is found by Python's keyed hash, which tells a guesser nothing.
        found = self._seen.get(authorization) if authorization is not None else None
        if found is None:
            found = self._seen_of.get(sha256(_bearer(authorization)).digest())
            if found is None:
                raise _refused(_UNKNOWN)
            if len(self._seen) >= _SEEN:
                self._seen.clear()
            assert authorization is not None  # _bearer refuses None
            self._seen[authorization] = found
        if found[1] <= time():
            raise _refused(_UNKNOWN)
        return found[0]

    def refresh(self) -> str | None:
        return self._keys.refresh()

    def _parse(self, text: bytes) -> dict[bytes, tuple[Client, float]]:
        keys = _decoded(text, KeysFile, "auth.keys_file", self._path).keys
        if len({key.sha256 for key in keys}) < len(keys):
            raise ConfigError(
                f"`auth.keys_file`: {self._path} has one sha256 twice; remove one of the entries"
            )
        limiters = _limiters(
            ((key.client, key) for key in keys), self._limiters, "auth.keys_file", self._path
        )
        found = {
            bytes.fromhex(key.sha256): (_client(key.client, key, limiters.get(key.client)), _expiry(key))
            for key in keys
        }
        self._limiters = limiters
        return found


class VerifyingKey(msgspec.Struct, frozen=True):
    key: Any  # a public key of cryptography
    algorithms: tuple[str, ...]


VerifyingKeys: TypeAlias = dict[str | None, VerifyingKey]


class _Trust:
    """What tokens are verified with, and those that have been: with new keys the old answers go too."""

    def __init__(self, keys: VerifyingKeys, clients: dict[str, tuple[Client, float]]) -> None:
        self.keys = keys
        self.clients = clients
        self.verified: OrderedDict[bytes, tuple[Client, float]] = OrderedDict()


class _Tokens:
    def __init__(self, auth: JwtAuth) -> None:
        self._auth = auth
        self._limiters: dict[str, TokenBucket] = {}
        self._source = _key_source(auth.jwks)
        self._keys = Watched(self._source.read, verifying_keys)
        path = auth.clients_file
        self._clients = (
            Watched(
                lambda: read_file(path, "auth.clients_file"), lambda text: self._parse_clients(text, path)
            )
            if path is not None
            else None
        )
        self._trust = self._current()

    def authenticate(self, authorization: bytes | str | None) -> Client:
        token = _bearer(authorization)
        digest = sha256(token).digest()
        trust = self._trust
        verified = trust.verified
        found = verified.get(digest)
        if found is not None and found[1] > time():
            verified.move_to_end(digest)
            return found[0]
        found = self._verify(token, trust)
        verified[digest] = found
        verified.move_to_end(digest)
        if len(verified) > MAX_VERIFIED:
            verified.popitem(last=False)
        return found[0]

    def refresh(self) -> str | None:
        troubles = [self._keys.refresh(), self._clients.refresh() if self._clients else None]
        trust = self._current()
        if trust.keys is not self._trust.keys or trust.clients is not self._trust.clients:
            self._trust = trust
        return "; ".join(filter(None, troubles)) or None

    def _current(self) -> _Trust:
        return _Trust(self._keys.value, self._clients.value if self._clients else _NO_CLIENTS)

    def _parse_clients(self, text: bytes, path: str) -> dict[str, tuple[Client, float]]:
        grants = _decoded(text, ClientsFile, "auth.clients_file", path).clients
        limiters = _limiters(grants.items(), self._limiters, "auth.clients_file", path)
        self._limiters = limiters
        return {n: (_client(n, grant, limiters.get(n)), _expiry(grant)) for n, grant in grants.items()}

    def _verify(self, token: bytes, trust: _Trust) -> tuple[Client, float]:
        """The token's client, and until when the token is good; raises InferenceError (401)."""
        claims = self._claims(token, trust.keys)
        name, expires = claims["sub"], int(claims["exp"]) + LEEWAY_S
        if not name:
            raise _refused("the token's claim `sub` names nobody")
        client, client_expires = trust.clients.get(name) or (Client(name=name), inf)
        if client_expires <= time():
            raise _refused("the client's access has expired")
        models = claims.get("models")
        if models is not None:
            if not isinstance(models, list) or not all(isinstance(model, str) for model in models):
                raise _refused("the token's claim `models` is not a list of names")
            allowed = frozenset(models)  # neither the token nor the file allows what the other does not
            allowed = allowed if client.models is None else allowed & client.models
            client = msgspec.structs.replace(client, models=allowed)
        return client, min(expires, client_expires)

    def _claims(self, token: bytes, keys: VerifyingKeys) -> dict[str, Any]:
        if len(token) > MAX_TOKEN_BYTES:
            raise _refused("the token is too long")
        try:
            key = keys.get(jwt.get_unverified_header(token).get("kid"))
            if key is None:
                self._source.key_missing = True
                raise _refused("the token is signed by an unknown key")
            return jwt.decode(
                token,
                key.key,
                algorithms=key.algorithms,
                audience=self._auth.audience,
                issuer=self._auth.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise _refused("the token has expired") from None
        except jwt.MissingRequiredClaimError as error:
            raise _refused(f"the token lacks the claim `{error.claim}`") from None
        except (jwt.InvalidAudienceError, jwt.InvalidIssuerError):
            raise _refused("the token is for another server or by another issuer") from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):  # hostile JSON included
            raise _refused("the token is not valid") from None


_NO_CLIENTS: dict[str, tuple[Client, float]] = {}


class Jwk(msgspec.Struct, frozen=True, omit_defaults=True):
    """The members of a JSON Web Key that matter; others are ignored, as RFC 7517 says."""

    kty: str
    kid: str | None = None
    use: str | None = None
    key_ops: tuple[str, ...] | None = None
    alg: str | None = None
    crv: str | None = None
    n: str | None = None
    e: str | None = None
    x: str | None = None
    y: str | None = None
    d: str | None = None


class JwkSet(msgspec.Struct, frozen=True):
    keys: tuple[Jwk, ...]


def verifying_keys(text: bytes) -> VerifyingKeys:
    """The usable public keys of a JWKS by key id; raises ConfigError when there is none."""
    keys: VerifyingKeys = {}
    for jwk in _decoded(text, JwkSet, "auth.jwks", "the key set").keys:
        algorithms = _ALGORITHMS.get((jwk.kty, jwk.crv), ())
        if jwk.alg is not None:
            algorithms = (jwk.alg,) if jwk.alg in algorithms else ()
        for_signatures = jwk.use in (None, "sig") and (jwk.key_ops is None or "verify" in jwk.key_ops)
        if not algorithms or not for_signatures or jwk.d is not None:
            continue
        try:
            key = jwt.PyJWK(msgspec.to_builtins(jwk), algorithm=algorithms[0]).key
        except (jwt.PyJWTError, ValueError):
            continue
        if jwk.kty != "RSA" or key.key_size >= _MIN_RSA_BITS:
            keys[jwk.kid] = VerifyingKey(key, algorithms)
    if not keys:
        raise ConfigError(
            "`auth.jwks`: the key set holds no usable public key; wanted are RSA keys of "
            f"{_MIN_RSA_BITS} bits or more, P-256, P-384 or Ed25519, for signatures"
        )
    return keys


class _KeySource(Protocol):
    key_missing: bool

    def read(self) -> bytes: ...


def _key_source(location: str) -> _KeySource:
    try:
        parts = urlsplit(location)
    except ValueError as error:
        raise ConfigError(f"`auth.jwks` is no URL: {error}; correct the setting") from None
    if parts.scheme != "file":
        return _KeysUrl(location, parts.hostname or "")
    if parts.netloc or parts.query or parts.fragment or not parts.path:
        raise ConfigError("`auth.jwks`: a file is named file:///path, without a host; correct the setting")
    return _KeysPath(unquote(parts.path))


class _KeysPath:
    def __init__(self, path: str) -> None:
        self.key_missing = False
        self._path = path

    def read(self) -> bytes:
        return read_file(self._path, "auth.jwks")


class _KeysUrl:
    """A JWKS behind a URL, fetched when that is due; between fetches it is what the last one said."""

    def __init__(self, url: str, host: str) -> None:
        self.key_missing = False
        self._url = url
        self._host = host
        self._asked_at = -inf
        self._text = b""
        self._trouble: str | None = None
        self._opener = urllib.request.build_opener(_NoRedirect)

    def read(self) -> bytes:
        wait = FETCH_AGAIN_S if self.key_missing or self._trouble else FETCH_EVERY_S
        if monotonic() - self._asked_at >= wait:
            self.key_missing = False
            self._asked_at = monotonic()
            try:
                text = self._fetch()
                verifying_keys(text)
                self._text, self._trouble = text, None
            except ConfigError as error:
                self._trouble = str(error)
        if self._trouble is not None:
            raise ConfigError(self._trouble)
        return self._text

    def _fetch(self) -> bytes:
        deadline, text = monotonic() + FETCH_TIMEOUT_S, b""
        try:
            with self._opener.open(self._url, timeout=FETCH_TIMEOUT_S) as response:
                while chunk := response.read1(65536):
                    text += chunk
                    if len(text) > MAX_BYTES:
                        raise self._failed(f"more than {MAX_BYTES} bytes")
                    if monotonic() > deadline:
                        raise self._failed(f"not finished after {FETCH_TIMEOUT_S:g} s")
        except urllib.error.HTTPError as error:
            with error:
                raise self._failed(f"status {error.code}") from None
        except urllib.error.URLError as error:
            raise self._failed(str(error.reason)) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._failed(str(error) or type(error).__name__) from None
        return text

    def _failed(self, reason: str) -> ConfigError:
        # the host only: a URL may hold a secret
        return ConfigError(
            f"`auth.jwks`: no key set from {self._host}: {reason}; check the URL and the way to it"
        )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Keys are trusted by their URL; a redirect could lead from https to anywhere."""

    def redirect_request(self, *_: object) -> None:
        return None


def _bearer(authorization: bytes | str | None) -> bytes:
    if isinstance(authorization, str):
        authorization = authorization.encode(errors="replace")
    if authorization is None or authorization[:7].lower() != b"bearer ":
        raise _refused("the request needs the header `Authorization: Bearer …`")
    return authorization[7:].strip()


def _refused(message: str) -> InferenceError:
    return InferenceError(401, message, reason="unauthorized")


File = TypeVar("File", KeysFile, ClientsFile, JwkSet)


def _decoded(text: bytes, kind: type[File], setting: str, path: str) -> File:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"`{setting}`: {path} is wrong: {error}; correct it") from None


def _limiters(
    grants: Iterable[tuple[str, Grant]], old: dict[str, TokenBucket], setting: str, path: str
) -> dict[str, TokenBucket]:
    """A limiter for each limited client; an unchanged one is kept, with what has been taken from it."""
    rates: dict[str, tuple[float, float] | None] = {}
    for client, grant in grants:
        rate = grant.requests_per_second
        if rate is None and grant.burst is not None:
            raise ConfigError(
                f"`{setting}`: {path} gives {client!r} a burst without requests_per_second; give both"
            )
        wanted = None if rate is None else (rate, max(1.0, rate) if grant.burst is None else grant.burst)
        if rates.setdefault(client, wanted) != wanted:
            raise ConfigError(
                f"`{setting}`: {path} gives {client!r} different rates; its keys share one limit: "
                "give them the same requests_per_second and burst"
            )
    return {
        client: kept
        if (kept := old.get(client)) is not None and (kept.rate, kept.burst) == wanted
        else TokenBucket(*wanted)
        for client, wanted in rates.items()
        if wanted is not None
    }


def _client(name: str, grant: Grant, rate: TokenBucket | None) -> Client:
    return Client(name=name, models=grant.models, admin=grant.admin, rate=rate)


def _expiry(grant: Grant) -> float:
    return inf if grant.expires is None else grant.expires.timestamp()
