"""Specs as values that a test may change, and their text: one key a line, so that places can be told."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from modelway.diagnostics import Diagnostic, has_errors
from modelway.load import load
from modelway.pipeline import Compilation, compile_specs
from modelway.sources import SourceFile

Pointer = tuple[str | int, ...]
_PLAIN_KEY = re.compile(r"(?!(?:true|false|null|yes|no|on|off|y|n)$)[A-Za-z][A-Za-z0-9_]*", re.IGNORECASE)


@dataclass(frozen=True)
class Text:
    """A document of a file: the path of the file, the document's value."""

    path: str
    value: Any

    @property
    def name(self) -> str:
        """``Model search/ranker``."""
        metadata = self.value["metadata"]
        team = f"{metadata['team']}/" if "team" in metadata else ""
        return f"{self.value['kind']} {team}{metadata['name']}"

    def changed(self, pointer: Pointer, value: Any) -> Text:
        """The document with another value at a pointer; mappings on the way are made."""
        found = deepcopy(self.value)
        place = found
        for step in pointer[:-1]:
            place = place.setdefault(step, {}) if isinstance(place, dict) else place[step]
        place[pointer[-1]] = deepcopy(value)
        return Text(self.path, found)

    def without(self, pointer: Pointer) -> Text:
        found = deepcopy(self.value)
        place = found
        for step in pointer[:-1]:
            place = place[step]
        del place[pointer[-1]]
        return Text(self.path, found)


def texts(sources: Sequence[SourceFile]) -> list[Text]:
    """The documents of files in which nothing is wrong."""
    found = []
    for source in sources:
        documents, wrong = load(source)
        assert not has_errors(wrong), wrong
        found += [Text(source.path, deepcopy(document.value)) for document in documents]
    return found


def files(documents: Sequence[Text]) -> list[SourceFile]:
    """The documents written to their files, in the order given."""
    by_path: dict[str, list[str]] = {}
    for document in documents:
        by_path.setdefault(document.path, []).append(dump(document.value))
    return [SourceFile(path, "---\n".join(parts).encode()) for path, parts in by_path.items()]


def compiled(documents: Sequence[Text]) -> Compilation:
    return compile_specs(files(documents))


def dump(value: Any) -> str:
    """A document as YAML that every reader reads alike: blocks, keys in the order they have."""
    if not isinstance(value, dict) or not value:
        return f"{_flow(value)}\n"
    return "".join(f"{line}\n" for line in _block(value))


def _block(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, dict | list) and item:
                yield f"{_key(key)}:"
                yield from (f"  {line}" for line in _block(item))
            else:
                yield f"{_key(key)}: {_flow(item)}"
    else:
        for item in value:
            if isinstance(item, dict) and item:
                yield from (f"{'- ' if i == 0 else '  '}{line}" for i, line in enumerate(_block(item)))
            else:
                yield f"- {_flow(item)}"


def _key(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) else json.dumps(key)


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, float):
        text = f"{Decimal(repr(value)):f}"
        return text if "." in text else f"{text}.0"
    return json.dumps(value)


def shuffled(value: Any, chance: random.Random) -> Any:
    """The same value with the keys of every mapping in another order."""
    if isinstance(value, list):
        return [shuffled(item, chance) for item in value]
    if not isinstance(value, dict):
        return value
    keys = list(value)
    chance.shuffle(keys)
    return {key: shuffled(value[key], chance) for key in keys}


def pointers(value: Any, at: Pointer = ()) -> Iterator[Pointer]:
    """The place of every value below ``value``."""
    items: Any = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for step, item in items:
        yield (*at, step)
        yield from pointers(item, (*at, step))


def value_at(value: Any, pointer: Pointer) -> Any:
    for step in pointer:
        value = value[step]
    return value


def data(compilation: Compilation) -> dict[str, bytes]:
    """Path -> bytes; a compile that failed has none, so a test that compares two must check for errors."""
    assert not has_errors(compilation.diagnostics), shown(compilation.diagnostics)
    found = {file.path: file.data for file in compilation.files}
    assert len(found) == len(compilation.files), "two files have one path"
    return found


def words(found: Sequence[Diagnostic]) -> list[tuple[str, str, str]]:
    """What diagnostics say, without the places."""
    return sorted((one.code, one.message, one.hint) for one in found)


def shown(found: Sequence[Diagnostic]) -> str:
    return "".join(
        f"{one.span.path}:{one.span.line}:{one.span.column}: {one.severity.word} {one.code} {one.message}\n"
        for one in found
    )


def different(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> list[str]:
    """The paths whose bytes differ, or that only one of them has."""
    return sorted(path for path in one.keys() | other.keys() if one.get(path) != other.get(path))
