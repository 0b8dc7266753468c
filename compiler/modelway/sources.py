"""The only reading of specs from disk.

A folder of specs may come from anybody's pull request: nothing in it makes the reader hang, leave the
folder, read a file twice or print what a terminal would obey.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from modelway.diagnostics import Diagnostic, Span, diagnostic

MAX_FILE_BYTES = 8 * 1024 * 1024
_SUFFIXES = (".yaml", ".yml")
# Not to wait for the writer of a FIFO, nor follow a link, that took a file's place after we looked.
_OPEN = os.O_RDONLY
for _flag in ("O_NONBLOCK", "O_NOFOLLOW", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"):
    _OPEN |= getattr(os, _flag, 0)
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of specs: its path as diagnostics name it (posix, relative, printable), and its bytes."""

    path: str
    data: bytes


def read_specs(folder: Path, *, shown: str) -> tuple[list[SourceFile], list[Diagnostic]]:
    """Every regular ``*.yaml`` and ``*.yml`` below ``folder``, by path.

    Names that begin with "." are left out. ``shown`` stands for ``folder`` in the paths of the files. A
    symbolic link is followed within the folder only, and only to what is not read anyway. Raises OSError
    if ``folder`` itself cannot be listed.
    """
    os.scandir(folder).close()
    walk = _Walk(os.path.realpath(folder))
    walk.folder(walk.root, shown.rstrip("/"))
    while walk.links:  # in one order, whatever that of the disk: the first link to a file names it
        walk.links.sort(reverse=True)
        walk.follow(*walk.links.pop())
    return sorted(walk.files, key=lambda file: file.path), sorted(walk.found, key=lambda one: one.span)


def read_file(path: Path, *, shown: str) -> tuple[SourceFile | None, list[Diagnostic]]:
    """One file by the same rules, or why it is not read; a link may lead to beside or below itself.

    Raises FileNotFoundError if there is nothing at ``path``, not even a link.
    """
    os.lstat(path)
    walk = _Walk(os.path.realpath(os.path.dirname(os.path.abspath(path))))
    walk.file(os.fspath(path), shown)
    return (walk.files[0] if walk.files else None), walk.found


def printable(name: str) -> str:
    """A file's name on one line, as text that no terminal obeys; different names stay different."""
    if name.isascii() and name.isprintable() and "\\" not in name:
        return name
    return "".join(map(_shown, name))


def _shown(char: str) -> str:
    code = ord(char)
    if char == "\\":
        return "\\\\"
    if char.isprintable():
        return char
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class _Walk:
    """What was read of a tree so far. Paths are real, without links, so that no file is read twice."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.files: list[SourceFile] = []
        self.found: list[Diagnostic] = []
        self.links: list[tuple[str, str]] = []  # (shown, path): followed when all else is read
        self._seen: set[str] = set()

    def folder(self, path: str, shown: str) -> None:
        """Reads what is below a folder, and collects the links."""
        todo = [(path, shown)]
        while todo:
            here, prefix = todo.pop()
            if here in self._seen:
                continue
            self._seen.add(here)
            try:
                entries = list(os.scandir(here))
            except OSError as error:
                self.found.append(_unreadable(prefix, error))
                continue
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                name = f"{prefix}/{printable(entry.name)}" if prefix else printable(entry.name)
                if entry.is_symlink():
                    self.links.append((name, entry.path))
                elif entry.is_dir(follow_symlinks=False):
                    todo.append((entry.path, name))
                elif entry.name.endswith(_SUFFIXES):
                    self.file(entry.path, name, regular=entry.is_file(follow_symlinks=False))

    def follow(self, shown: str, path: str) -> None:
        """Reads what a link leads to, unless it was read already or is none of ours."""
        if os.path.isdir(path):
            real = os.path.realpath(path)
            if self._holds(real):
                self.folder(real, shown)
            else:
                self.found.append(_outside(path, shown))
        elif path.endswith(_SUFFIXES):
            self.file(path, shown)

    def file(self, path: str, shown: str, *, regular: bool = False) -> None:
        """Reads one file; ``regular`` when that is known, and ``path`` known to be real."""
        try:
            if not regular:
                mode = os.stat(path).st_mode
                real = os.path.realpath(path)
                if not self._holds(real):
                    self.found.append(_outside(path, shown))
                    return
                if not stat.S_ISREG(mode):
                    self.found.append(_irregular(shown, mode))
                    return
                path = real
            if path not in self._seen:
                self._seen.add(path)
                self._read(path, shown)
        except OSError as error:
            self.found.append(_unreadable(shown, error))

    def _read(self, path: str, shown: str) -> None:
        handle = os.open(path, _OPEN)
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                self.found.append(_irregular(shown, status.st_mode))
                return
            size, data = status.st_size, b""
            if size <= MAX_FILE_BYTES:
                data = os.read(handle, size + 1)
                while len(data) != size and len(data) <= MAX_FILE_BYTES:  # it just grew, or is in /proc
                    more = os.read(handle, MAX_FILE_BYTES + 1 - len(data))
                    if not more:
                        break
                    data += more
        finally:
            os.close(handle)
        size = max(size, len(data))
        if size > MAX_FILE_BYTES:
            hint = f"a file of specs has at most {MAX_FILE_BYTES}: split it"
            self.found.append(diagnostic("MW002", Span(shown), f"it has {size} bytes", hint))
        else:
            self.files.append(SourceFile(shown, data))

    def _holds(self, real: str) -> bool:
        return real == self.root or real.startswith(self.root.rstrip(os.sep) + os.sep)


def _outside(path: str, shown: str) -> Diagnostic:
    text = f"the symbolic link leads to {printable(os.readlink(path))}, outside the folder"
    return diagnostic("MW003", Span(shown), text, "copy what it leads to into the folder, or remove it")


def _irregular(shown: str, mode: int) -> Diagnostic:
    kind = _KINDS.get(stat.S_IFMT(mode), "something else")
    return diagnostic("MW001", Span(shown), f"it is {kind}, not a file", "remove it, or give it another name")


def _unreadable(shown: str, error: OSError) -> Diagnostic:
    reason = error.strerror or type(error).__name__
    return diagnostic(
        "MW001", Span(shown), f"it cannot be read: {reason}", "see who may read it and its folder"
    )
