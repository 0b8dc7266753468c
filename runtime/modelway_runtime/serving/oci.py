"""Weights in an OCI registry: a file pushed as a layer, or one in an image's folder ``models``."""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

from modelway_runtime.serving.streams import HttpError, SourceError, Stream, open_http, reason, shown

FOLDER = "models"
"""The folder of an image that holds weights: Kubernetes mounts just that (``subPath``)."""
_DEFAULT_NAMES = ("model.onnx", "model.safetensors")
_SUFFIXES = (".onnx", ".safetensors", ".pt", ".pt2", ".pth")
_MAX_DOCUMENT_BYTES = 4 * 2**20  # what registries accept as a manifest
_CHUNK_BYTES = 2**20
_LOCAL_URL = re.compile(r"http://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?/")
_TITLE = "org.opencontainers.image.title"
_UNPACK = "io.deis.oras.content.unpack"
_ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    )
)
_REFERENCE = re.compile(
    r"oci://(?P<host>(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+)(:[0-9]+)?)"
    r"/(?P<repository>[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*)"
    r"(:(?P<tag>\w[\w.-]{0,127}))?(@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')
_TAR = re.compile(r"[./+-]tar([+.](?P<packing>\w+))?$")
_HELPERS = (
    "credentials are read from `auths` in $DOCKER_CONFIG/config.json or ~/.docker/config.json; "
    "credential helpers and identity tokens are not used"
)


class _Platform(msgspec.Struct, frozen=True):
    architecture: str = ""
    os: str = ""


class _Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    digest: str
    media_type: str = ""
    platform: _Platform | None = None
    annotations: dict[str, str] | None = None

    @property
    def title(self) -> str:
        return (self.annotations or {}).get(_TITLE, "")

    @property
    def packing(self) -> str | None:
        """How a tar is compressed, "" where it is not; None for a file that is no tar."""
        annotations = self.annotations or {}
        if self.title and annotations.get(_UNPACK) != "true":
            return None  # ORAS calls a plain file a tar layer unless it is told another type
        found = _TAR.search(self.media_type)
        return None if found is None else found["packing"] or ""


class _Manifest(msgspec.Struct, frozen=True):
    """A manifest or an index; the media type is optional in both, the lists tell them apart."""

    manifests: list[_Descriptor] | None = None
    layers: list[_Descriptor] | None = None


class _Auth(msgspec.Struct, frozen=True):
    auth: str = ""
    username: str = ""
    password: str = ""


class _DockerConfig(msgspec.Struct, frozen=True):
    auths: dict[str, _Auth] = {}


class _Token(msgspec.Struct, frozen=True):
    token: str = ""
    access_token: str = ""


T = TypeVar("T")


class Reference(NamedTuple):
    """``oci://HOST/REPOSITORY[:TAG][@DIGEST]``; ``wanted`` is the digest where there is one."""

    host: str
    repository: str
    wanted: str


@dataclass(frozen=True)
class Member:
    """A file's own name, as the artifact gives it, and its bytes."""

    name: str
    stream: Stream


def parse(source: str) -> Reference:
    """Raises SourceError."""
    found = _REFERENCE.fullmatch(source)
    if found is None:
        raise SourceError(f"{shown(source)} is no oci://HOST/REPOSITORY[:TAG][@sha256:…]; correct the source")
    host, repository = found["host"], found["repository"]
    if host in ("docker.io", "index.docker.io"):
        host = "registry-1.docker.io"
        repository = repository if "/" in repository else f"library/{repository}"
    return Reference(host, repository, found["digest"] or found["tag"] or "latest")


@contextmanager
def open_weights(source: str, name: str | None) -> Iterator[Member]:
    """The file ``name`` of an image or artifact; None: the only one that can be meant.

    Leaving the block reads the layer to its end: only then is its digest known to be right.
    Raises SourceError and TransientError.
    """
    registry = _Registry(parse(source))
    layers = _manifest(registry).layers or []
    layer = _file_layer(layers, name)
    if layer is not None:
        with registry.blob(layer.digest) as stream:
            default = _DEFAULT_NAMES["safetensors" in layer.media_type]
            yield Member(layer.title or default, stream)
        return
    wanted = (name,) if name else _DEFAULT_NAMES
    for layer in reversed(layers):  # the uppermost layer that has the file shows it
        if layer.packing is None:
            continue
        with registry.blob(layer.digest) as blob, _tar(blob, layer.packing, source) as tar:
            member = _find(tar, wanted, source)
            if member is not None:
                yield Member(os.path.basename(member.name), _member_stream(tar, member, source))
                _refuse_second(tar, member, source)
                return
    has = ", ".join(sorted(repr(layer.title) for layer in layers if layer.title)[:10])
    raise SourceError(
        f"{source} holds no {' or '.join(f'{FOLDER}/{one}' for one in wanted)}{has and f' but {has}'}; "
        "put the weights there or name the file"
    )


class _Registry:
    """One registry for one fetch; what it was told to authorise with stays with it."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self._local = _LOCAL_URL.fullmatch(f"http://{reference.host}/") is not None
        self._base = f"{'http' if self._local else 'https'}://{reference.host}/v2/{reference.repository}"
        self._authorization: str | None = None

    @contextmanager
    def blob(self, digest: str) -> Iterator[Stream]:
        """A layer; if any of it was read, the digest is checked when the block is left without an error."""
        if not _DIGEST.fullmatch(digest):
            raise SourceError(f"{self._base}: a layer's digest is no sha256; push the image again")
        with closing(self._open(f"blobs/{digest}", "*/*")) as stream:
            sha256, begun = hashlib.sha256(), False

            def hashed(size: int) -> bytes:
                nonlocal begun
                begun = True
                data = stream.read(size)
                sha256.update(data)
                return data

            yield Stream(hashed, stream.close, stream.size)
            while begun and hashed(_CHUNK_BYTES):
                pass
        if begun and f"sha256:{sha256.hexdigest()}" != digest:
            raise SourceError(
                f"{self._base}: layer {digest} came as sha256:{sha256.hexdigest()}; "
                "the registry or the way to it changes data"
            )

    def manifest(self, wanted: str) -> _Manifest:
        """A manifest by tag or digest."""
        with closing(self._open(f"manifests/{wanted}", _ACCEPT)) as stream:
            text = _all(stream, self._base)
        if wanted.startswith("sha256:") and hashlib.sha256(text).hexdigest() != wanted[7:]:
            raise SourceError(f"{self._base}: the manifest is not {wanted}; the registry changes data")
        return _decoded(text, _Manifest, f"the manifest {wanted} of {self._base}")

    def _open(self, path: str, accept: str) -> Stream:
        url = f"{self._base}/{path}"
        try:
            return open_http(url, accept=accept, authorization=self._authorization, own=True)
        except HttpError as error:
            if error.status != 401:
                raise _explained(error) from None
            self._authorization = self._answer(error.challenges)
        try:
            return open_http(url, accept=accept, authorization=self._authorization, own=True)
        except HttpError as error:
            raise _explained(error) from None

    def _answer(self, challenges: tuple[str, ...]) -> str:
        """The Authorization that the registry asks for."""
        host = self.reference.host
        basic = _basic(host)
        schemes = {text.partition(" ")[0].lower(): text for text in challenges}
        if "bearer" in schemes:
            return f"Bearer {self._token(dict(_PARAMETER.findall(schemes['bearer'])), basic)}"
        if "basic" in schemes and basic:
            return basic
        raise SourceError(f"{host} wants credentials for {self.reference.repository}; {_HELPERS}")

    def _token(self, challenge: dict[str, str], basic: str | None) -> str:
        realm = challenge.get("realm", "")
        if not realm.startswith("https://") and not (self._local and _LOCAL_URL.match(realm)):
            raise SourceError(f"{self.reference.host} names no https address to get a token from")
        scope = challenge.get("scope") or f"repository:{self.reference.repository}:pull"
        query = [f"scope={quote(scope, safe='')}"]
        if "service" in challenge:
            query.insert(0, f"service={quote(challenge['service'], safe='')}")
        url = f"{realm}{'&' if '?' in realm else '?'}{'&'.join(query)}"
        try:
            with closing(open_http(url, authorization=basic, own=True)) as stream:
                text = _all(stream, shown(realm))
        except HttpError as error:
            raise _explained(error) from None
        answer = _decoded(text, _Token, f"the token from {shown(realm)}")
        token = answer.token or answer.access_token
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise SourceError(f"{shown(realm)} gave no token; see that it is the registry's own")
        return token


def _explained(error: HttpError) -> HttpError:
    if error.status not in (401, 403):
        return error
    return HttpError(f"{error}; {_HELPERS}", error.status, error.challenges)


def _manifest(registry: _Registry) -> _Manifest:
    """The manifest with layers, through an index where there is one."""
    top = registry.manifest(registry.reference.wanted)
    if top.layers is not None:
        return top
    # An attestation (provenance, SBOM) stands in the index with the platform "unknown".
    found = [one for one in top.manifests or [] if one.platform is None or one.platform.os != "unknown"]
    fitting = [one for one in found if one.platform == _Platform("amd64", "linux")]
    place = f"{registry.reference.host}/{registry.reference.repository}"
    if not fitting and len(found) != 1:
        raise SourceError(
            f"{place}: the index has no linux/amd64 image; push one, or name a manifest's digest"
        )
    digest = (fitting or found)[0].digest
    if not _DIGEST.fullmatch(digest):
        raise SourceError(f"{place}: a manifest's digest in the index is no sha256; push the image again")
    manifest = registry.manifest(digest)
    if manifest.layers is None:
        raise SourceError(f"{place}: {digest} has no layers; name the digest of an image or artifact")
    return manifest


def _file_layer(layers: list[_Descriptor], name: str | None) -> _Descriptor | None:
    """The layer that is the file ``name``, else the only one that can be weights; None: it is in a tar."""
    files = [layer for layer in layers if layer.packing is None]
    weights = [layer for layer in files if layer.title.endswith(_SUFFIXES)]
    choices = [[layer for layer in files if layer.title in (name, f"{FOLDER}/{name}")]]
    if name is None or len(files) == len(layers):
        choices.append(weights)
    if len(layers) == 1:
        choices.append(files)
    return next((choice[0] for choice in choices if len(choice) == 1), None)


class _Readable:
    """What gzip and tarfile take for a file."""

    def __init__(self, stream: Stream) -> None:
        self.read = stream.read


@contextmanager
def _tar(blob: Stream, packing: str, source: str) -> Iterator[tarfile.TarFile]:
    if packing not in ("", "gzip"):
        raise SourceError(f"{source} has a layer packed with {packing}; push it as tar or tar+gzip")
    file: Any = _Readable(blob)
    if packing:
        file = gzip.GzipFile(fileobj=file)  # tarfile's own reader stops after the first gzip member
    with _tar_failures(source), tarfile.open(fileobj=file, mode="r|") as tar:
        yield tar


@contextmanager
def _tar_failures(source: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SourceError(f"{source} has a layer that is no readable tar: {reason(error)}") from None


def _find(tar: tarfile.TarFile, wanted: tuple[str, ...], source: str) -> tarfile.TarInfo | None:
    """The first wanted file, the stream standing before its bytes. None: the layer does not touch it."""
    paths = [f"{FOLDER}/{name}" for name in wanted]
    hiding = {f"{FOLDER}/.wh.{name}" for name in wanted}
    hiding |= {f".wh.{FOLDER}", f"{FOLDER}/.wh..wh..opq", ".wh..wh..opq"}
    hidden = False
    with _tar_failures(source):
        while member := tar.next():
            path = _path(member)
            if path in paths:
                if not member.isreg():
                    raise SourceError(
                        f"{source}: {path} is no regular file; put the weights there, not a link"
                    )
                return member
            hidden = hidden or path in hiding
    if hidden:
        raise SourceError(
            f"{source}: a layer removes {' or '.join(paths)}; push an image that has the weights"
        )
    return None


def _path(member: tarfile.TarInfo) -> str:
    return member.name.removeprefix("./").removeprefix("/")


def _member_stream(tar: tarfile.TarFile, member: tarfile.TarInfo, source: str) -> Stream:
    with _tar_failures(source):
        file = tar.extractfile(member)
    assert file is not None, "a regular file has bytes"

    def read(size: int) -> bytes:
        with _tar_failures(source):
            return file.read(size)

    return Stream(read, file.close, member.size)


def _refuse_second(tar: tarfile.TarFile, first: tarfile.TarInfo, source: str) -> None:
    """A tar may hold a path twice, and readers disagree about which counts."""
    with _tar_failures(source):
        while member := tar.next():
            if _path(member) == _path(first):
                raise SourceError(f"{source}: a layer holds {_path(first)} twice; push the image again")


def _basic(host: str) -> str | None:
    """The Authorization for a registry in Docker's configuration; None: it has none."""
    folder = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    path = os.path.join(folder, "config.json")
    try:
        with open(path, "rb") as file:
            text = file.read(_MAX_DOCUMENT_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SourceError(f"cannot read {path}: {reason(error)}; correct $DOCKER_CONFIG") from None
    names = ("docker.io", "index.docker.io", host) if host == "registry-1.docker.io" else (host,)
    for key, entry in _decoded(text, _DockerConfig, path).auths.items():
        if re.sub(r"\Ahttps?://|(/v[12])?/?\Z", "", key) not in names:
            continue
        if entry.auth:
            try:
                base64.b64decode(entry.auth, validate=True)
            except (binascii.Error, ValueError):
                raise SourceError(f"{path}: `auth` of {host} is not base64; log in again") from None
            return f"Basic {entry.auth}"
        if entry.username:
            pair = f"{entry.username}:{entry.password}".encode()
            return f"Basic {base64.b64encode(pair).decode()}"
    return None


def _all(stream: Stream, place: str) -> bytes:
    parts: list[bytes] = []
    left = _MAX_DOCUMENT_BYTES
    while data := stream.read(_CHUNK_BYTES):
        parts.append(data)
        left -= len(data)
        if left < 0:
            raise SourceError(f"{place} answered more than {_MAX_DOCUMENT_BYTES} bytes; this is no registry")
    return b"".join(parts)


def _decoded(text: bytes, kind: Callable[..., T], what: str) -> T:
    try:
        value: T = msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Not the decoder's words: they may quote a token.
        raise SourceError(f"{what} is not the JSON that it should be") from None
    return value
