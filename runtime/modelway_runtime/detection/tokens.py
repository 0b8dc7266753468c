"""Who asks the detector: each team has a token of its own, which is good for the team's namespace alone."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

_MOST_BYTES = 16 * 1024


class NoToken(Exception):
    """Our own trouble with the files of tokens; the text says which, for the log."""


def find_namespace(files: Mapping[str, str], given: bytes) -> str | None:
    """The namespace whose token was given; None for a token that is nobody's.

    ``files`` are paths by namespace. They are read each time, so that tokens may be rotated. All are
    compared, so that the time tells nothing. Raises NoToken where two namespaces share a token, and where
    the given one may be that of a file that cannot be read.
    """
    digest = hashlib.sha256(given).digest()
    matching: list[str] = []
    trouble: list[str] = []
    for namespace, file in files.items():
        try:
            token = _read(file)
        except NoToken as failed:
            trouble.append(str(failed))
            continue
        if hmac.compare_digest(hashlib.sha256(token).digest(), digest):
            matching.append(namespace)
    if len(matching) > 1:
        raise NoToken(f"{' and '.join(matching)} have the same token of the gate: give each its own")
    if matching:
        return matching[0]
    if trouble:
        raise NoToken("; ".join(trouble))
    return None


def list_troubles(files: Mapping[str, str]) -> list[str]:
    """What keeps namespaces from asking: files that cannot be read, and one token for two namespaces."""
    troubles: list[str] = []
    owners: dict[bytes, str] = {}
    for namespace, file in files.items():
        try:
            owner = owners.setdefault(_read(file), namespace)
        except NoToken as failed:
            troubles.append(f"{namespace} cannot ask: {failed}")
            continue
        if owner != namespace:
            troubles.append(f"{owner} and {namespace} cannot ask: they have the same token of the gate")
    return troubles


def _read(file: str) -> bytes:
    try:
        with open(file, "rb") as opened:
            token = opened.read(_MOST_BYTES).strip()
    except OSError as error:
        raise NoToken(f"the gate's token cannot be read: {file}: {error.strerror}") from None
    if not token:
        raise NoToken(f"the gate's token in {file} is empty")
    return token
