"""Getting weights: one file from where it lies into a folder, whole and checked or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TypeAlias
from urllib.parse import unquote_to_bytes

from modelway_runtime.serving import external_data, oci
from modelway_runtime.serving.streams import (
    ATTEMPTS,
    SourceError,
    Stream,
    TransientError,
    open_bucket,
    open_file,
    open_http,
    reason,
    shown,
)

__all__ = ["SourceError", "fetch", "local_path", "verify"]

Progress: TypeAlias = Callable[[int, int | None], None]
PAUSES_S = (1.0, 4.0)
"""Before the second and the third attempt."""
_CHUNK_BYTES = 2**20
_PROGRESS_S = 0.1
_PART = ".modelway-"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def fetch(
    source: str,
    digest: str | None,
    folder: Path,
    *,
    name: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Copy the weights at ``source`` into ``folder`` and say where they are.

    ``source`` is a URI: file:, s3, gs, http, https or oci. The file is called ``name``, else as the last
    part of the source. It appears whole, with the sha256 that ``digest`` says, or not at all; one that is
    there with that digest is kept. ``progress`` is told bytes done and bytes in all, from 0 again with
    each attempt. Raises SourceError.
    """
    _checked_digest(digest)
    known = _plain(name or _last_part(source), source) if name or not source.startswith("oci:") else None
    if known and _has(folder / known, digest):
        _check_whole(folder / known, source)
        return folder / known
    for pause in (*PAUSES_S, None):
        try:
            with _part_file(folder) as part:
                return _attempt(source, digest, folder, known, progress, part)
        except TransientError as error:
            if pause is None:
                raise SourceError(f"{error} ({ATTEMPTS} attempts)") from None
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def local_path(source: str) -> Path | None:
    """The path that a ``file:`` URI means, relative to the working folder; None for other URIs.

    Raises SourceError for a URI of another machine's file and for one without a path.
    """
    scheme, _, rest = source.partition(":")
    if scheme != "file":
        return None
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if host not in ("", "localhost"):
            raise SourceError(
                f"{shown(source)} names another host; write file:///PATH, or file:PATH if relative"
            )
        rest = slash + path
    path_bytes = unquote_to_bytes(rest)
    if not path_bytes or b"\0" in path_bytes:
        raise SourceError(f"{shown(source)} names no file; write file:///PATH, or file:PATH if relative")
    return Path(os.fsdecode(path_bytes))


def verify(path: Path, digest: str | None) -> None:
    """Raises SourceError unless the file's sha256 is ``digest`` (``sha256:…``); None: nothing is known."""
    if digest is None:
        return
    _checked_digest(digest)
    try:
        with open(path, "rb") as file:
            found = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SourceError(f"cannot read {path}: {reason(error)}") from None
    _compare(str(path), found, digest)


def _attempt(
    source: str,
    digest: str | None,
    folder: Path,
    known: str | None,
    progress: Progress | None,
    part: IO[bytes],
) -> Path:
    with _opened(source, known) as (own_name, stream):
        name = known or _plain(own_name, source)
        if not known and _has(folder / name, digest):
            _check_whole(folder / name, source)
            return folder / name
        found = _copy(source, stream, part, progress)
    _compare(shown(source), found, digest)
    _check_whole(Path(part.name), source)
    with _writing(folder):
        os.fsync(part.fileno())
        os.fchmod(part.fileno(), 0o644)
        os.replace(part.name, folder / name)
        _sync_folder(folder)
    return folder / name


@contextmanager
def _opened(source: str, name: str | None) -> Iterator[tuple[str, Stream]]:
    """The name that the source itself gives its file, and the bytes."""
    scheme = source.partition(":")[0]
    if scheme == "oci":
        with oci.open_weights(source, name) as member:
            yield member.name, member.stream
        return
    path = local_path(source)
    if path is not None:
        stream = open_file(path)
    elif scheme in ("s3", "gs"):
        stream = open_bucket(source)
    elif scheme in ("http", "https"):
        if "@" in source.partition("//")[2].partition("/")[0]:
            raise SourceError(f"{shown(source)}: no user or password in a source; write them to ~/.netrc")
        stream = open_http(source)
    else:
        raise SourceError(f"{scheme[:20]!r} is no scheme of weights: file, s3, gs, http, https, oci")
    try:
        yield "", stream
    finally:
        stream.close()


def _copy(source: str, stream: Stream, part: IO[bytes], progress: Progress | None) -> str:
    """Write the stream to the file; its digest."""
    sha256, done, told = hashlib.sha256(), 0, 0.0
    while data := stream.read(_CHUNK_BYTES):
        sha256.update(data)
        with _writing(Path(part.name).parent):
            part.write(data)
        done += len(data)
        if progress and time.monotonic() - told >= _PROGRESS_S:
            told = time.monotonic()
            progress(done, stream.size)
    if stream.size is not None and done != stream.size:
        raise TransientError(f"{shown(source)} has {stream.size} bytes but gave {done}")
    with _writing(Path(part.name).parent):
        part.flush()
    if progress:
        progress(done, done)
    return f"sha256:{sha256.hexdigest()}"


@contextmanager
def _part_file(folder: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which is gone afterwards unless it was renamed.

    A killed fetch cannot remove its own, and the volume has room for the weights once: what no living
    process holds a lock on is removed first. The folder is locked meanwhile, so that nobody takes a file
    for abandoned between its making and its lock.
    """
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for entry in os.listdir(folder):
                if entry.startswith(_PART):
                    _remove_abandoned(folder / entry)
            part = tempfile.NamedTemporaryFile("wb", prefix=_PART, dir=folder, delete=False)  # noqa: SIM115
            fcntl.flock(part.fileno(), fcntl.LOCK_EX)
        finally:
            os.close(lock)
    try:
        yield part
    finally:
        try:
            # The lock ends with the file: removed first, it is never taken for abandoned.
            if _is_same(part.name, part.fileno()):
                os.unlink(part.name)
        finally:
            with _writing(folder):
                part.close()


def _remove_abandoned(path: Path) -> None:
    with suppress(OSError):  # locked: somebody writes it; not readable: somebody else's
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
        finally:
            os.close(file)


def _is_same(path: str, file: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(file))
    except FileNotFoundError:
        return False


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SourceError(
            f"cannot write to {folder}: {reason(error)}; see that there is room and that it may be written to"
        ) from None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _has(path: Path, digest: str | None) -> bool:
    """Whether the file is there and right; without a digest nobody knows."""
    if digest is None:
        return False
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return False
        verify(path, digest)
    except (OSError, SourceError):
        return False
    return True


def _check_whole(path: Path, source: str) -> None:
    """Raises SourceError for an ONNX model that keeps tensors in other files: one file is fetched."""
    try:
        others = external_data.other_files(path)
    except external_data.NotOnnx:  # weights of torch
        return
    except external_data.Escapes as error:
        raise SourceError(f"{shown(source)}: {error}") from None
    if others:
        raise SourceError(
            f"{external_data.keeps(shown(source), others)}, which is not fetched and which no digest covers: "
            "save it as one file (torch.onnx.export has external_data=False)"
        )


def _compare(what: str, found: str, digest: str | None) -> None:
    if digest is not None and found != digest:
        raise SourceError(
            f"{what} has the digest {found}, not {digest}: it is another file or was changed on the way; "
            "correct the digest if this file is meant"
        )


def _checked_digest(digest: str | None) -> None:
    if digest is not None and not _DIGEST.fullmatch(digest):
        raise SourceError(f"{digest[:100]!r} is no digest: sha256: and 64 hexadecimal digits in lower case")


def _last_part(source: str) -> str:
    """The name as ``modelway.lower.settings.weights_file`` reads it off a URI, as it is written there."""
    path = local_path(source)
    return path.name if path else source.partition("?")[0].rpartition("/")[2].partition("@")[0]


def _plain(name: str, source: str) -> str:
    """A name that stays in its folder, whoever gave it."""
    plain = name.rpartition("/")[2]
    if not re.fullmatch(r"[^./\x00-\x1f\x7f][^/\x00-\x1f\x7f]*", plain) or len(os.fsencode(plain)) > 255:
        raise SourceError(f"{shown(source)} gives the file no plain name ({plain[:80]!r}); name it")
    return plain
