"""Bytes of weights from wherever they lie: a file, a bucket, an HTTP server.

Stores are read through fsspec with its packages' own credential chains. The packages are imported when a
source needs them: a server that loads from a volume has no use for them.
"""

from __future__ import annotations

import importlib
import os
import stat
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from modelway_runtime.extras import lacking

STALL_S = 30.0
"""The longest that a server may take to connect or to send the next byte."""
ATTEMPTS = 3
_RANGE_BYTES = 16 * 2**20  # one request to a bucket


class SourceError(Exception):
    """Weights that cannot be had; the text says what is wrong and what to do, and holds no credentials."""


class TransientError(SourceError):
    """What another attempt may mend: the network, or a server that is busy."""


class HttpError(SourceError):
    """An HTTP answer that is not the file, with its status and its ``WWW-Authenticate`` challenges."""

    def __init__(self, message: str, status: int, challenges: tuple[str, ...]) -> None:
        super().__init__(message)
        self.status = status
        self.challenges = challenges


@dataclass(frozen=True)
class Stream:
    """Bytes to come. ``read(n)`` gives at most n, b"" at the end; it raises SourceError.

    ``size`` in bytes; None when it is not known before the end.
    """

    read: Callable[[int], bytes]
    close: Callable[[], None]
    size: int | None


def shown(uri: str) -> str:
    """A URI without what may be secret in it: user, password, query, fragment."""
    head, _, rest = uri.partition("//")
    authority, slash, path = rest.partition("/")
    path = path.partition("?")[0].partition("#")[0]
    return f"{head}//{authority.rpartition('@')[2]}{slash}{path}" if rest else head.partition("?")[0]


def open_file(path: str | os.PathLike[str]) -> Stream:
    """A file of this machine."""
    try:
        # A pipe would block before it could be refused.
        file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0)  # noqa: SIM115
        status = os.fstat(file.fileno())
    except (OSError, ValueError) as error:
        raise SourceError(f"cannot read {os.fspath(path)!r}: {reason(error)}; correct the path") from None
    if not stat.S_ISREG(status.st_mode):
        file.close()
        raise SourceError(f"{os.fspath(path)!r} is not a regular file; name the file of the weights")

    def read(size: int) -> bytes:
        try:
            return file.read(size) or b""
        except OSError as error:
            raise SourceError(f"cannot read {os.fspath(path)!r}: {reason(error)}") from None

    return Stream(read, file.close, status.st_size)


def open_bucket(uri: str) -> Stream:
    """An object of ``s3://`` or ``gs://``, read range by range.

    The clients try each request again by themselves, so a fault in the middle costs one range.
    """
    scheme = uri.partition(":")[0]
    aiohttp = _package("aiohttp")
    if scheme == "s3":
        kind, boto = _package("s3fs").S3FileSystem, _package("botocore.exceptions")
        failures = (OSError, ValueError, aiohttp.ClientError, boto.BotoCoreError, boto.ClientError)
        options: dict[str, Any] = {
            "config_kwargs": {
                "connect_timeout": STALL_S,
                "read_timeout": STALL_S,
                "retries": {"mode": "standard", "total_max_attempts": ATTEMPTS},
            }
        }
    else:
        # fsspec's own choice, an extended file system, first asks another service for the bucket's kind.
        kind, auth = _package("gcsfs.core").GCSFileSystem, _package("google.auth.exceptions")
        retry = _package("gcsfs.retry")
        failures = (OSError, ValueError, aiohttp.ClientError, auth.GoogleAuthError, retry.HttpError)
        options = {
            "access": "read_only",
            "requests_timeout": _patience(aiohttp),
            "session_kwargs": {"trust_env": True},
        }
    with _bucket_failures(uri, failures):
        files = kind(skip_instance_cache=True, **options)
        if scheme == "s3":
            files.retries = ATTEMPTS
        file = files.open(uri, "rb", block_size=_RANGE_BYTES, cache_type="readahead")
        if file.details.get("type") != "file":
            raise SourceError(f"{shown(uri)} is a folder; name the file of the weights")

    def read(size: int) -> bytes:
        with _bucket_failures(uri, failures):
            data: bytes = file.read(size)
            return data

    return Stream(read, file.close, file.size)


@contextmanager
def _bucket_failures(uri: str, failures: tuple[type[Exception], ...]) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise SourceError(f"{shown(uri)} does not exist; correct the source") from None
    except failures as error:
        raise SourceError(
            f"cannot read {shown(uri)}: {reason(error)}; "
            "see that the store can be reached and that the pod's credentials may read this object"
        ) from None


def open_http(
    url: str, *, accept: str = "*/*", authorization: str | None = None, own: bool = False
) -> Stream:
    """What an HTTP server answers to GET. Redirects are followed, but never from https to http.

    ``own``: the credentials are the caller's affair: ``authorization``, where given, goes to the URL's own
    origin only, and none from ``~/.netrc`` goes anywhere. Raises HttpError and TransientError.
    """
    fsspec, aiohttp, asyn = _package("fsspec"), _package("aiohttp"), _package("fsspec.asyn")
    with _http_failures(url, aiohttp):
        start = _package("yarl").URL(url).origin()

    async def guard(request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        origin = request.url.origin()
        if start.scheme == "https" and origin.scheme != "https":
            raise SourceError(f"{shown(url)} redirects from https to http; name a source that stays on https")
        if own:
            request.headers.popall("Authorization", None)
            if authorization and origin == start:
                request.headers["Authorization"] = authorization
        return await handler(request)

    with _http_failures(url, aiohttp):
        files = fsspec.filesystem(
            "http",
            skip_instance_cache=True,
            encoded=url.isascii(),  # a signature covers the URL as it was written
            client_kwargs={
                "timeout": _patience(aiohttp),
                "trust_env": True,
                "requote_redirect_url": False,
                "read_bufsize": 2**20,  # each read crosses to the event loop's thread and back
                "middlewares": (guard,),
                "headers": {"Accept": accept, "Accept-Encoding": "identity"},
            },
        )
        session = asyn.sync(files.loop, files.set_session)
        try:
            # With a size no HEAD goes first: a signed URL is good for GET alone.
            file = files.open(url, "rb", block_size=0, size=1)
        except BaseException:
            files.close_session(files.loop, session)
            raise

    def close() -> None:
        file.close()
        files.close_session(files.loop, session)

    def read(size: int) -> bytes:
        with _http_failures(url, aiohttp):
            data: bytes = file.read(size)
            return data

    try:
        return Stream(read, close, _length(url, file.r.status, file.r.headers))
    except SourceError:
        close()
        raise


def _length(url: str, status: int, headers: Mapping[str, str]) -> int | None:
    if status != 200:
        raise HttpError(f"{shown(url)} answered {status} instead of the file", status, ())
    encoding = headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise SourceError(
            f"{shown(url)} comes with Content-Encoding {encoding[:20]!r}; serve the file as it is"
        )
    length = headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


@contextmanager
def _http_failures(url: str, aiohttp: Any) -> Iterator[None]:
    """No text of the library gets out: it names URLs with their signatures."""
    name = shown(url)
    try:
        yield
    except FileNotFoundError:
        raise HttpError(f"{name} does not exist (404); correct the source", 404, ()) from None
    except (aiohttp.TooManyRedirects, aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
        what = (
            "redirects too often" if isinstance(error, aiohttp.TooManyRedirects) else "is or leads to no URL"
        )
        raise SourceError(f"{name} {what}; correct the source") from None
    except aiohttp.ClientResponseError as error:
        text = f"{name} answered {error.status}"
        if error.status >= 500 or error.status in (408, 429):
            raise TransientError(f"{text}; try again later") from None
        challenges = tuple(error.headers.getall("WWW-Authenticate", ())) if error.headers else ()
        raise HttpError(f"{text}; see that this source may be read", error.status, challenges) from None
    except aiohttp.ClientConnectorCertificateError:
        raise SourceError(f"the certificate of {name} is not trusted; set SSL_CERT_FILE to its CA") from None
    except TimeoutError:
        raise TransientError(f"{name} sent nothing for {STALL_S:g} s; see that it can be reached") from None
    except aiohttp.ClientPayloadError:
        raise TransientError(f"{name} broke off before its end") from None
    except (aiohttp.ClientError, OSError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise TransientError(f"cannot reach {name}: {why}; see that the network lets it") from None
    except ValueError:
        raise SourceError(f"{name} is no URL that can be read; correct the source") from None


def reason(error: BaseException) -> str:
    """Why, on one short line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:300]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _patience(aiohttp: Any) -> Any:
    """No limit on the whole: weights are large."""
    return aiohttp.ClientTimeout(total=None, connect=STALL_S, sock_connect=STALL_S, sock_read=STALL_S)


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SourceError(lacking(error, "this source") or str(error)) from None
