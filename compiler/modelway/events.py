"""The subset of YAML that specs are written in, read from libyaml's events with every place.

libyaml's composer recurses and crashes the process on deep nesting, so nothing but its event parser
is used, with a stack of our own. One pass gives values, places and all diagnostics; ``load`` uses it
for what ``quick`` does not read, and whenever somebody asks where a value stands.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import yaml
from yaml import MarkedYAMLError, YAMLError, events

from modelway.characters import last_place, lines, span_of, text_of
from modelway.diagnostics import Diagnostic, Span, diagnostic
from modelway.malformed import malformed
from modelway.scalars import Problem, resolve, shown
from modelway.strict import header_is_loose

MAX_DEPTH = 100  # collections within collections, aliases expanded
MAX_EXPANSION = 100_000  # nodes that the aliases of one file may add to what is written out
MAX_FINDINGS = 1_000  # diagnostics of one file: nobody reads more, and 8 MB hold millions

# Where a node stands, and where what is inside a collection stands: by key (the key's place, the
# value's) or by index. A file may hold millions of nodes, so four numbers are packed into one.
Place = int | tuple[int, "Children"]
Children = dict[str, tuple[Place, Place]] | list[Place] | None
_BITS = 24  # a file has at most 8 MiB, so no line or column needs more
_MASK = (1 << _BITS) - 1


def pack(line: int, column: int, end_line: int, end_column: int) -> int:
    """0-based line and column of the first character and of the one after the last, as a place."""
    return ((line << _BITS | column) << _BITS | end_line) << _BITS | end_column


def corners(place: Place) -> tuple[tuple[int, int], tuple[int, int]]:
    """What ``pack`` has packed: (line, column) of the start and of the end."""
    packed = place if isinstance(place, int) else place[0]
    line, column = packed >> 3 * _BITS, packed >> 2 * _BITS & _MASK
    return (line, column), (packed >> _BITS & _MASK, packed & _MASK)


def children(place: Place) -> Children:
    """The places of what is inside; None of a scalar."""
    return None if isinstance(place, int) else place[1]


class Node(NamedTuple):
    """A document: its value and where it stands; ``whole`` if nothing in it was refused."""

    value: Any
    place: Place
    whole: bool


class _Frame:
    """An open collection, or the target of an anchor."""

    __slots__ = ("children", "column", "height", "key", "key_place", "line", "nodes", "open", "size", "value")

    def __init__(self, value: Any, children: Children, line: int, column: int, nodes: int) -> None:
        self.value = value
        self.children: Any = children
        self.line, self.column = line, column
        self.key: Any = _NO_KEY
        self.key_place: Any = None
        self.open = True
        self.nodes = nodes  # how many there were before this one
        self.size = 1  # nodes, this one included and aliases expanded
        self.height = 1  # collections within each other, this one included


class _Stop(Exception):
    """Enough was found in this part of the file."""


_DEEP = "nest less: no spec needs as much"
_UNTAG = "remove it, and quote what is text"
_KEY = "while scanning a simple key"  # libyaml's words
_NO_KEY = object()  # the mapping waits for a key
_DROPPED = object()  # the key was refused: its value is read and forgotten
_BAD = object()  # a scalar that was refused


class Reader:
    """Reads the parts of one file, one after the other; ``found`` grows with every part.

    ``quoted`` are the offsets of the quoted and block scalars of the last part, where it holds tabs.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.found: list[Diagnostic] = []
        self._stopped = False
        self._expansion = 0

    @property
    def full(self) -> bool:
        """Whether the rest of the file is not worth reading."""
        return self._stopped or len(self.found) >= MAX_FINDINGS

    def read(self, data: bytes, line: int = 0) -> list[Node]:
        """The documents of ``data``, valid UTF-8 that ``line`` lines stand before in the file."""
        self._data, self._line = data, line
        self._last: tuple[int, int] | None = None
        self._text: str | None = None
        self._tabs = b"\t" in data
        self.quoted: list[tuple[int, int]] = []
        self._nodes: list[Node] = []
        self._begin(None)
        handlers = {  # made anew: kept, it would be a cycle, and nothing collects those
            events.ScalarEvent: self._scalar,
            events.MappingStartEvent: self._open,
            events.SequenceStartEvent: self._open,
            events.MappingEndEvent: self._close,
            events.SequenceEndEvent: self._close,
            events.AliasEvent: self._alias,
            events.DocumentStartEvent: self._begin,
            events.DocumentEndEvent: self._finish,
        }
        parser = yaml.CBaseLoader(data)  # libyaml; only its events are used
        with suppress(_Stop):
            try:
                parser.get_event()  # the start of the stream
                while (event := parser.get_event()).__class__ is not events.StreamEndEvent:
                    handlers[event.__class__](event)
            except YAMLError as error:
                self._failed(error)
        return self._nodes

    # --- documents ------------------------------------------------------------------------------

    def _begin(self, _: Any) -> None:
        self._stack: list[_Frame] = []
        self._top: _Frame | None = None
        self._anchors: dict[str, _Frame] = {}
        self._root: Any = None
        self._place: Place = 0
        self._end = (0, 0)
        self._count = 0
        self._errors = len(self.found)

    def _finish(self, _: Any) -> None:
        self._nodes.append(Node(self._root, self._place, len(self.found) == self._errors))

    # --- nodes ----------------------------------------------------------------------------------

    def _scalar(self, event: Any) -> None:
        start, end = event.start_mark, event.end_mark
        self._end = last = (end.line, end.column)
        place = pack(start.line, start.column, *last)
        value: Any = event.value
        if event.tag is not None:
            value = self._tag(event, place)
        elif not event.style:  # plain
            value = resolve(value)
            if value.__class__ is Problem:
                value = self._problem(value, event.value, place)
        elif event.style in "|>":
            self._block(event, place)
        if self._tabs and event.style:
            self.quoted.append((self._characters().index(event.style, start.index), end.index))
        if event.anchor is not None:
            target = _Frame(value, None, start.line, start.column, 0)
            target.open, target.height = False, 0
            self._anchor(event.anchor, target)
        self._add(value, place, event.value)

    def _open(self, event: Any) -> None:
        start, end = event.start_mark, event.end_mark
        if len(self._stack) >= MAX_DEPTH:
            self._too_deep(start)
        if event.tag is not None:
            self._tag(event, pack(start.line, start.column, end.line, end.column))
        mapping = event.__class__ is events.MappingStartEvent
        value: Any = {} if mapping else []
        frame = _Frame(value, {} if mapping else [], start.line, start.column, self._count)
        self._end = (start.line, start.column)
        if event.anchor is not None:
            self._anchor(event.anchor, frame)
        self._stack.append(frame)
        self._top = frame

    def _close(self, event: Any) -> None:
        start, end = event.start_mark, event.end_mark
        if end.index > start.index:  # a bracket; else libyaml names the next token, lines below perhaps
            self._end = (end.line, end.column)
        stack = self._stack
        frame = stack.pop()
        self._top = parent = stack[-1] if stack else None
        place = pack(frame.line, frame.column, *self._end)
        self._add(frame.value, (place, frame.children), "")
        frame.open, frame.size = False, self._count - frame.nodes
        if parent is not None and parent.height <= frame.height:
            parent.height = frame.height + 1

    def _alias(self, event: Any) -> None:
        start, end, name = event.start_mark, event.end_mark, event.anchor
        self._end = last = (end.line, end.column)
        target = self._anchors.get(name)
        inside = target.children if target is not None and not target.open else None
        place: Place = (pack(start.line, start.column, *last), inside)
        value: Any = _BAD
        if target is None:
            text = f"the alias *{shown(name)} stands for nothing"
            self._report("MW006", place, text, f"write &{shown(name)} before the value it stands for")
        elif target.open:
            text = f"the alias *{shown(name)} stands within what it stands for"
            self._report("MW009", place, text, "write the value out")
        elif len(self._stack) + target.height > MAX_DEPTH:
            text = f"with *{shown(name)}, more than {MAX_DEPTH} collections stand within each other"
            self._report("MW007", place, text, _DEEP)
        else:
            self._expand(name, target, place)
            value = target.value
        self._add(value, place, f"*{name}")

    def _expand(self, name: str, target: _Frame, place: Place) -> None:
        self._expansion += target.size
        self._count += target.size - 1
        if self._expansion > MAX_EXPANSION:
            text = f"with *{shown(name)}, the aliases of the file stand for more than {MAX_EXPANSION} values"
            self._report("MW008", place, text, "write less, or write it out")
            self._stopped = True
            raise _Stop
        if self._top is not None and self._top.height <= target.height:
            self._top.height = target.height + 1

    def _anchor(self, name: str, target: _Frame) -> None:
        first = self._anchors.setdefault(name, target)
        if first is not target:  # YAML allows it, PyYAML refuses it, and nobody reads it right
            here, there = (
                pack(frame.line, frame.column, frame.line, frame.column + 1 + len(name))
                for frame in (target, first)
            )
            related = ((self.span(there), "it stands first here"),)
            hint = "give each anchor a name of its own"
            self._report("MW006", here, f"the anchor &{shown(name)} stands twice", hint, related)

    def _add(self, value: Any, place: Place, text: str) -> None:
        """Puts a node where it belongs; ``text`` is a scalar as it was written."""
        self._count += 1
        frame = self._top
        if frame is None:
            self._root, self._place = value, place
        elif frame.value.__class__ is list:
            frame.value.append(value)
            frame.children.append(place)
        elif frame.key is _NO_KEY:
            frame.key, frame.key_place = self._key(frame, value, place, text), place
        else:
            if frame.key is not _DROPPED:
                frame.value[frame.key] = value
                frame.children[frame.key] = (frame.key_place, place)
            frame.key = _NO_KEY

    def _key(self, frame: _Frame, value: Any, place: Place, text: str) -> Any:
        if value.__class__ is not str:
            if value is not _BAD:
                self._no_string(value, place, text)
            return _DROPPED
        if value in frame.children:
            related = ((self.span(frame.children[value][0]), "it stands first here"),)
            message = f'the key "{shown(value)}" stands twice'
            self._report("MW012", place, message, "remove one of the two", related)
            return _DROPPED
        return value

    # --- what is wrong --------------------------------------------------------------------------

    def _no_string(self, value: Any, place: Place, text: str) -> None:
        if isinstance(value, dict | list):
            kind, signs = ("mapping", "braces") if isinstance(value, dict) else ("list", "brackets")
            hint = f"write a string; {signs} that are text, such as a template's, are quoted"
            self._report("MW013", place, f"the key is a {kind}", hint)
        elif not text:
            self._report("MW013", place, "the key is empty", "write a key before the ':'")
        else:
            text = shown(text)
            hint = "write the key out" if text[0] == "*" else f'quote it: "{text}"'
            self._report("MW013", place, f"the key {text} is not a string", hint)

    def _problem(self, problem: Problem, text: str, place: Place) -> object:
        frame, hint = self._top, problem.hint
        if frame is not None and frame.value.__class__ is dict and frame.key is _NO_KEY:
            if text == "<<":
                problem = Problem("MW011", "the merge key << is not allowed", "")
                hint = "write the keys out; environments have overlays of their own"
            else:
                hint = f'quote it: "{shown(text)}"'  # no number and no boolean would be a key
        self._report(problem.code, place, problem.message, hint)
        return _BAD

    def _tag(self, event: Any, place: Place) -> object:
        tag = shown(event.tag.replace("tag:yaml.org,2002:", "!!", 1))
        self._report("MW010", place, f"the tag {tag} is not allowed", _UNTAG)
        return _BAD

    def _block(self, event: Any, place: Place) -> None:
        """Refuses the block scalars that other readers read otherwise, or not at all."""
        text = self._characters()
        if header_is_loose(text, text.index(event.style, event.start_mark.index)):
            hint = "put a space before the '#' of a comment, and no tab"
            self._report("MW006", place, f"something else stands behind the '{event.style}'", hint)
        elif self._top is None:
            self._report(
                "MW006", place, "a block of text is all of the document", "write a mapping: 'key: |'"
            )

    def _characters(self) -> str:
        if self._text is None:
            self._text = text_of(self._data)
        return self._text

    def _too_deep(self, mark: Any) -> None:
        place = pack(mark.line, mark.column, mark.line, mark.column + 1)
        self._report("MW007", place, f"more than {MAX_DEPTH} collections stand within each other", _DEEP)
        raise _Stop

    def _check_depth(self, end: int) -> None:
        """Refuses deep nesting in the characters before ``end``, where libyaml gave up.

        libyaml reads up to a line ahead of its events, and some releases (0.2.6) bound the nesting there:
        so their limit would answer before ours.
        """
        text = self._characters()[:end]
        if len(self._stack) + text.count("[") + text.count("{") <= MAX_DEPTH:
            return
        depth = 0
        with suppress(YAMLError):
            for event in yaml.parse(text, Loader=yaml.CBaseLoader):
                if isinstance(event, events.CollectionStartEvent):
                    depth += 1
                    if depth > MAX_DEPTH:
                        self._too_deep(event.start_mark)
                elif isinstance(event, events.CollectionEndEvent):
                    depth -= 1

    def _failed(self, error: YAMLError) -> None:
        """libyaml gave up."""
        if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
            self._report("MW006", 0, "libyaml cannot read this")
            return
        mark, context = error.problem_mark, error.context_mark
        self._check_depth(mark.index)
        rows = lines(self._characters())
        row = rows[mark.line] if mark.line < len(rows) else ""
        char = row[mark.column : mark.column + 1]
        place = pack(mark.line, mark.column, mark.line, mark.column + len(char))
        if " tag" in (error.context or "") or error.problem == "found undefined tag handle":
            self._report("MW010", place, "a tag is not allowed", _UNTAG)
            return
        if error.problem == "did not find expected <document start>" and self._nodes:
            self._nodes[-1] = self._nodes[-1]._replace(whole=False)  # more follows than it seemed
        message, hint = malformed(error.problem or "", row[: mark.column], char)
        begun = error.context in ("while scanning a quoted scalar", "while parsing a quoted scalar", _KEY)
        opening = context if begun else self._top
        related = self._opened(rows, opening.line, opening.column, error.context) if opening else ()
        self._report("MW006", place, message, hint, related)

    def _opened(
        self, rows: list[str], line: int, column: int, context: str | None
    ) -> tuple[tuple[Span, str], ...]:
        """The bracket, quote or key that was open when libyaml gave up, as a related place."""
        char = rows[line][column : column + 1]
        span = self.span(pack(line, column, line, column + 1))
        if context == _KEY:
            return ((span, "the key begins here"),)
        return ((span, f"the {char} opens here"),) if char in ("[", "{", '"', "'") else ()

    def _report(
        self,
        code: str,
        place: Place,
        message: str,
        hint: str = "",
        related: tuple[tuple[Span, str], ...] = (),
    ) -> None:
        self.found.append(diagnostic(code, self.span(place), message, hint, related))
        if self.full:
            more = f"the file is read no further after {MAX_FINDINGS} findings"
            self.found[-1] = replace(self.found[-1], hint=f"{hint}; {more}" if hint else more)
            raise _Stop

    def span(self, place: Place) -> Span:
        if self._last is None:
            self._last = last_place(self._data)
        return span_of(self.path, *corners(place), self._line, self._last)
