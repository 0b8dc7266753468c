"""The only reading of specs from disk."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from modelway.diagnostics import Diagnostic, Span, diagnostic

MAX_FILE_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of specs: its path as diagnostics name it (posix, relative), and its bytes."""

    path: str
    data: bytes


def read_specs(folder: Path, *, shown: str) -> tuple[list[SourceFile], list[Diagnostic]]:
    """Every regular ``*.yaml`` and ``*.yml`` below ``folder``, by path."""
    found: list[SourceFile] = []
    problems: list[Diagnostic] = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.suffix not in (".yaml", ".yml") or any(part.startswith(".") for part in relative.parts):
            continue
        source, wrong = read_file(path, shown=f"{shown}/{relative.as_posix()}")
        found += [source] if source else []
        problems += wrong
    return found, problems


def read_file(path: Path, *, shown: str) -> tuple[SourceFile | None, list[Diagnostic]]:
    """One file, or what keeps it from being read."""
    span = Span(shown)
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        return None, [diagnostic("MW001", span, "is not a regular file")]
    if status.st_size > MAX_FILE_BYTES:
        return None, [diagnostic("MW002", span, f"has {status.st_size} bytes")]
    return SourceFile(shown, path.read_bytes()), []
