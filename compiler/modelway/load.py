"""YAML text -> documents with the places of their values and keys.

The YAML is a subset, the one that every reader reads alike (``docs/decisions/``): no tags, no merge
keys, keys are strings and stand once, plain scalars are what 1.1 and 1.2 agree about. Anything else
is a diagnostic at its line and column, and no bytes raise an exception.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from modelway import quick
from modelway.characters import count_breaks, forbidden, last_place, span_of, text_of, undecodable
from modelway.diagnostics import Diagnostic, Span, diagnostic, sort_unique
from modelway.sources import SourceFile
from modelway.strict import loose_tabs, strange_lines

if TYPE_CHECKING:
    from modelway.events import Node, Place, Reader

Json = dict[str, Any] | list[Any] | str | int | float | bool | None
Pointer = tuple[str | int, ...]

MAX_DOCUMENTS = 10_000  # of one file: 8 MB hold two million, an empty one each line
_MAX_NOTES = 100  # on the empty documents of one file
_SEPARATOR = re.compile(rb"---(?<=[\r\n]---)(?=[ \t\r\n]|\Z)")  # begins with what is quick to search for


class Part(NamedTuple):
    """Where a document is read from: bytes ``start`` to ``end`` of its file, from ``line`` (0-based) on."""

    start: int = 0
    end: int | None = None
    line: int = 0
    nth: int = 0  # of the documents in these bytes


_WHOLE = Part()


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file. Its value is never changed: aliases share objects.

    Places are not kept: the first question about one reads the document's text again.
    """

    source: SourceFile
    index: int  # of the documents in the file, from 0
    value: Any  # JSON: dict, list, str, int, float, bool, None; what a kind holds, its schema says
    part: Part = _WHOLE

    def span(self, pointer: Pointer) -> Span:
        """Where the value at ``pointer`` stands; if there is none, the nearest one above it."""
        return self._span(self._find(pointer)[1])

    def key_span(self, pointer: Pointer) -> Span:
        """Where the key that ends ``pointer`` stands; of a list's item and of the root, the value."""
        return self._span(self._find(pointer)[0])

    def _find(self, pointer: Pointer) -> tuple[Place, Place]:
        """The places of the key and of the value, as far as the pointer leads."""
        from modelway.events import children

        key = place = _places(self.source, self.part)[0]
        for step in pointer:
            inside = children(place)
            if isinstance(inside, dict) and step in inside:
                key, place = inside[str(step)]
            elif isinstance(inside, list) and isinstance(step, int) and 0 <= step < len(inside):
                key = place = inside[step]
            else:
                break
        return key, place

    def _span(self, place: Place) -> Span:
        from modelway.events import corners

        last = _places(self.source, self.part)[1]
        return span_of(self.source.path, *corners(place), self.part.line, last)


_LARGE = 100_000  # bytes of a document whose places take megabytes


def _places(source: SourceFile, part: Part) -> tuple[Place, tuple[int, int]]:
    end = len(source.data) if part.end is None else part.end
    return (_places_of_few if end - part.start > _LARGE else _places_of_many)(source, part)


def _read_places(source: SourceFile, part: Part) -> tuple[Place, tuple[int, int]]:
    data = source.data[part.start : part.end]
    nodes = _reader(source.path).read(data, part.line)
    place = nodes[part.nth].place if part.nth < len(nodes) else 0
    return place, last_place(data)


_places_of_many = lru_cache(maxsize=64)(_read_places)  # few are in hand at one time
_places_of_few = lru_cache(maxsize=2)(_read_places)


def load(source: SourceFile) -> tuple[list[Document], list[Diagnostic]]:
    """The documents of a file in which nothing is wrong, and all that is wrong in the others.

    Documents are read one by one, so that a malformed one hides no other. An empty file or document
    gives none, and a note.
    """
    undecoded = undecodable(source.path, source.data)
    if undecoded is not None:
        return [], [undecoded]
    parts = _parts(source.data)
    headed = not source.data.startswith(b"---")  # by a comment, perhaps
    if len(parts) > MAX_DOCUMENTS + headed:
        line = parts[MAX_DOCUMENTS].line + 1
        span = Span(source.path, line, 1, line, 4)
        text = f"the file holds more than {MAX_DOCUMENTS} documents"
        return [], [diagnostic("MW002", span, text, "split it")]
    documents: list[Document] = []
    notes: list[Diagnostic] = []
    reader: Reader | None = None
    index = 0
    for part in parts:
        data = source.data[part.start : part.end]
        values = quick.read(data)
        if values is not None:
            documents += [Document(source, index, value, part) for value in values]
            index += len(values)
            continue
        reader = reader or _reader(source.path)
        findings = len(reader.found)
        nodes = _read(reader, data, part.line)
        for nth, node in enumerate(nodes):
            if node.whole and node.value is not None:
                documents.append(Document(source, index + nth, node.value, part._replace(nth=nth)))
            elif node.whole and len(notes) < _MAX_NOTES:
                notes.append(_empty(reader.span(node.place), index + nth))
        index += max(len(nodes), len(reader.found) > findings)
        if reader.full:
            break
    found = notes + reader.found if reader else notes
    if not (documents or found):
        found.append(diagnostic("MW018", Span(source.path), "the file holds no document", _DELETE))
    return documents, sort_unique(found)


def _reader(path: str) -> Reader:
    """libyaml costs 15 ms to import: only when there is something that ``quick`` does not read."""
    from modelway.events import Reader

    return Reader(path)


_DELETE = "write a spec, or delete it"


def _empty(span: Span, index: int) -> Diagnostic:
    return diagnostic("MW018", span, f"document {index + 1} of the file is empty", _DELETE)


def _read(reader: Reader, data: bytes, line: int) -> list[Node]:
    text = text_of(data)
    before = forbidden(reader.path, text, line) or strange_lines(reader.path, text, line)
    if before:
        reader.found += before
        return []
    findings = len(reader.found)
    nodes = reader.read(data, line)
    if "\t" in text and len(reader.found) == findings:
        loose = loose_tabs(reader.path, text, reader.quoted, line)
        reader.found += loose
        nodes = [node._replace(whole=not loose) for node in nodes]
    return nodes


def _parts(data: bytes) -> list[Part]:
    """The bytes cut before every line ``---``, which begins a document wherever it stands."""
    directives = data.startswith((b"%", b"\xef\xbb\xbf%")) or b"\n%" in data or b"\r%" in data
    if directives or b"---" not in data:  # a directive belongs to the document behind the next "---"
        return [Part(0, len(data))]
    starts = [match.start() for match in islice(_SEPARATOR.finditer(data), MAX_DOCUMENTS + 1)]
    parts: list[Part] = []
    line = 0
    for start, end in pairwise([0, *starts, len(data)]):
        parts.append(Part(start, end, line))
        line += count_breaks(data[start:end])
    return parts
