"""Files that change under a running server: secrets and certificates that somebody rotates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

MAX_BYTES = 2**20
T = TypeVar("T")


class ConfigError(Exception):
    """Settings, or a file that they name, that the server cannot use; the text says what to do.

    For the operator's log: it names files and fields, never a secret.
    """


def read_file(path: str, setting: str) -> bytes:
    """A small file that the setting names. Raises ConfigError when it cannot be read or exceeds 1 MiB."""
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(
            f"`{setting}`: cannot read {path}: {reason}; mount the file there or correct the setting"
        ) from None
    if len(text) > MAX_BYTES:
        raise ConfigError(f"`{setting}`: {path} is larger than {MAX_BYTES} bytes; this is another file")
    return text


class Watched(Generic[T]):
    """What a text says, parsed again when the text has changed.

    Contents are compared, not times: a mounted Secret changes behind symbolic links, and these files
    are small. ``read`` and ``parse`` raise ConfigError, which the constructor lets through.
    """

    def __init__(self, read: Callable[[], bytes], parse: Callable[[bytes], T]) -> None:
        self._read = read
        self._parse = parse
        self._text = read()
        self._trouble: str | None = None
        self.value = parse(self._text)

    def refresh(self) -> str | None:
        """Read again. A wrong text leaves the value as it was and is reported once, until it changes."""
        before, self._trouble = self._trouble, None
        try:
            text = self._read()
            if text != self._text:
                self.value = self._parse(text)
                self._text = text
        except ConfigError as error:
            self._trouble = f"{error} (what was read before stays in force)"
        return None if self._trouble == before else self._trouble
