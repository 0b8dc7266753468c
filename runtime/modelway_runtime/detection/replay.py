"""A saved verdict, and whether its series still give it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from modelway_runtime import __version__
from modelway_runtime.detection import verdict as verdicts
from modelway_runtime.detection.detector import Look
from modelway_runtime.detection.evidence import Evidence, WrongEvidence, pack, unpack
from modelway_runtime.detection.judge import judge
from modelway_runtime.detection.report import html, plot
from modelway_runtime.detection.verdict import Verdict, WrongVerdict

SERIES = ".series.json.gz"
MOST_BYTES = 256 << 20
_TOLERANCE = 1e-9
"""Of relative size: processors round sums differently."""
_FROM_ELSEWHERE = ("commit", "pull_request", "detector_version")


class CannotReplay(Exception):
    """A file is missing, damaged or another one; the text says which."""


def save(folder: Path, look: Look, verdict: Verdict) -> list[Path]:
    """The verdict, its series, its page and its plot; whole files only. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = look.judgement.plots
    contents = {
        f"{verdict.id}{SERIES}": pack(look.evidence),  # first: a verdict without series is of no use
        f"{verdict.id}.html": html.page(verdict, plots).encode("utf-8", "replace"),
        f"{verdict.id}.svg": plot.svg(plots, verdict).encode("utf-8", "replace"),
        f"{verdict.id}.json": verdicts.to_json(verdict),
    }
    return [write(folder / name, content) for name, content in contents.items()]


def write(path: Path, content: bytes) -> Path:
    """In place only when it is complete. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def replay(path: Path, series: Path | None = None) -> list[str]:
    """What another judgement of the same series says differently; nothing if it is the same verdict.

    Raises CannotReplay.
    """
    verdict = _verdict(path)
    evidence = _evidence(path, verdict, series)
    again = judge(evidence).verdict
    told = {name: getattr(verdict, name) for name in _FROM_ELSEWHERE}
    before = msgspec.to_builtins(verdict)
    after = msgspec.to_builtins(msgspec.structs.replace(again, **told))
    found = list(_differences("", before, after))
    if found and verdict.detector_version != __version__:
        found.append(f"it was made by version {verdict.detector_version}, this is {__version__}")
    return found


def _verdict(path: Path) -> Verdict:
    try:
        return verdicts.from_json(_read(path))
    except WrongVerdict as error:
        raise CannotReplay(f"{path} is no verdict: {error}") from None


def _evidence(path: Path, verdict: Verdict, series: Path | None) -> Evidence:
    """From the file that is named; else the one beside the verdict whose digest is the verdict's."""
    if series is not None:
        return _checked(series, verdict)
    beside = path.with_name(f"{verdict.id}{SERIES}")
    others = sorted(one for one in path.parent.glob(f"*{SERIES}") if one != beside)
    if beside.is_file():
        return _checked(beside, verdict)
    for one in others:
        try:
            return _checked(one, verdict)
        except CannotReplay:
            continue
    raise CannotReplay(
        f"no series of the digest {verdict.series_digest} lie beside {path}; name them with --series"
    )


def _checked(path: Path, verdict: Verdict) -> Evidence:
    try:
        evidence = unpack(_read(path))
    except WrongEvidence as error:
        raise CannotReplay(f"{path} holds no series, or is damaged: {error}") from None
    if evidence.digest != verdict.series_digest:
        raise CannotReplay(
            f"{path} has the digest {evidence.digest}, but the verdict was made from "
            f"{verdict.series_digest}: these are other series, or somebody changed them"
        )
    return evidence


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise CannotReplay(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > MOST_BYTES:
        raise CannotReplay(f"{path} is larger than {MOST_BYTES >> 20} MiB")
    return content


def _differences(at: str, before: Any, after: Any) -> Iterator[str]:
    """As ``metrics[0].p: 0.01 is now 0.02``."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in dict.fromkeys([*before, *after]):
            yield from _differences(f"{at}.{name}".lstrip("."), before.get(name), after.get(name))
    elif isinstance(before, list | tuple) and isinstance(after, list | tuple) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _differences(f"{at}[{index}]", one, other)
    elif not _same(before, after):
        yield f"{at}: {_shown(before)} is now {_shown(after)}"


def _same(before: Any, after: Any) -> bool:
    numbers = isinstance(before, int | float) and isinstance(after, int | float)
    if numbers and not isinstance(before, bool):
        return math.isclose(before, after, rel_tol=_TOLERANCE, abs_tol=1e-12)
    return bool(before == after)


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode("utf-8", "replace")
    return text if len(text) <= 120 else f"{text[:119]}…"
