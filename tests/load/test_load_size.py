"""Large and malicious files are read, or refused, in time and memory that grow no faster than they do."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from modelway.load import MAX_DOCUMENTS, load
from modelway.sources import MAX_FILE_BYTES, SourceFile
from tests.load.hostile_files import HOSTILE
from tests.load.load_helpers import PATH, places, read

SECONDS = 10  # of CPU; each takes well under one on an idle machine


@contextmanager
def in_time() -> Iterator[None]:
    start = time.process_time()
    yield
    assert time.process_time() - start < SECONDS


def filled(part: bytes, start: bytes = b"") -> bytes:
    return (start + part * (MAX_FILE_BYTES // len(part)))[:MAX_FILE_BYTES]


MALICIOUS: dict[str, tuple[Callable[[], bytes], str]] = {
    "opening brackets": (lambda: b"[" * 200_000, "MW007 1:101"),
    "8 MB of opening brackets": (lambda: filled(b"["), "MW007 1:101"),
    "8 MB of opening braces": (lambda: filled(b"{a: "), "MW007 1:401"),
    "8 MB of dashes": (lambda: filled(b"- "), "MW007 1:201"),
    "8 MB of question marks": (lambda: filled(b"? "), "MW007 1:201"),
    "brackets behind a key": (lambda: filled(b"[", b"a: "), "MW007 1:103"),
    "documents": (lambda: filled(b"---\n"), "MW002 10001:1"),
    "malformed documents": (lambda: b"---\n[\n" * 20_000, "MW002 20001:1"),
    "NUL": (lambda: filled(b"\0"), "MW005 1:1"),
    "all control characters": (lambda: filled(bytes(range(1, 32))), "*"),
    "a byte that is not UTF-8, at the end": (lambda: filled(b"a")[:-1] + b"\xff", "MW004 1:8388608"),
    "digits": (lambda: filled(b"1", b"a: "), "MW017 1:4"),
    "colons": (lambda: filled(b"a:"), "MW006 1:8388608"),
    "an open quote": (lambda: filled(b"x", b'a: "'), "MW006 1:8388609"),
    "quotes": (lambda: filled(b'"', b"a: "), "*"),
    "tabs": (lambda: filled(b"\t", b"a: x"), "*"),
    "tags": (lambda: filled(b"- !x a\n"), "*"),
    "tag directives": (lambda: filled(b"%TAG !a! b\n"), "*"),
    "document ends": (lambda: filled(b"...\n"), "*"),
    "percent signs": (lambda: filled(b"%\n"), "MW006 1:2"),
    "merge keys": (lambda: filled(b"{<<: 1}, ", b"a: ["), "*"),
    "the same key": (lambda: filled(b"x: 1\n"), "*"),
    "booleans of 1.1": (lambda: filled(b"no,", b"["), "*"),
    "aliases": (lambda: filled(b", *a", b"a: [&a 1"), "MW008 1:400011"),
    "aliases of nothing": (lambda: filled(b", *b", b"a: [1"), "*"),
    "anchors": (lambda: b"a: [" + b"".join(b"&a%d 1, " % n for n in range(100_000)) + b"]", ""),
    "an unfinished flow mapping": (lambda: filled(b"k: [v, ", b"a: {"), "MW007 1:351"),
    "lines of spaces": (lambda: filled(b" " * 999 + b"\n"), "MW018 1:1"),
    "a comment": (lambda: filled(b"#"), "MW018 1:1"),
    "carriage returns": (lambda: filled(b"\r"), "MW018 1:1"),
    "a scalar over many lines": (lambda: filled(b" y\n", b"a: x\n"), ""),
    "digits behind a point": (lambda: filled(b"1", b"a: 1."), ""),
    "a flow list": (lambda: b"a: [" + b"1, " * 100_000 + b"1]", ""),
}


@pytest.mark.parametrize("name", MALICIOUS)
def test_malicious_files_cost_little(name: str) -> None:
    make, expected = MALICIOUS[name]
    data = make()
    with in_time():
        _, found = load(SourceFile(PATH, data))
    assert len(found) <= 1100
    if expected == "*":
        assert found
    else:
        assert places(found) == expected


def test_200_000_keys_cost_one_more_reading_for_all_their_places() -> None:
    text = "apiVersion: x\nkind: Model\n" + "".join(f"unknown{n:06}: 1\n" for n in range(200_000))
    with in_time():
        (document,), found = read(text)
        assert not found
    with in_time():
        spans = [document.key_span((f"unknown{n:06}",)) for n in range(200_000)]
    assert [span.line for span in spans] == list(range(3, 200_003))
    assert {(span.column, span.end_column) for span in spans} == {(1, 14)}


def test_many_documents_of_one_file_are_found_one_by_one() -> None:
    count = MAX_DOCUMENTS
    with in_time():
        documents, found = read("---\na: {b: [1, 2]}\n" * count)
        assert (len(documents), found) == (count, [])
        assert [one.span(("a", "b")).line for one in documents] == list(range(2, 2 * count + 1, 2))


def test_a_header_is_no_document_too_many() -> None:
    documents, found = read("# header\n" + "---\na: 1\n" * MAX_DOCUMENTS)
    assert (len(documents), found) == (MAX_DOCUMENTS, [])
    assert places(read("---\na: 1\n" * (MAX_DOCUMENTS + 1))[1]) == f"MW002 {2 * MAX_DOCUMENTS + 1}:1"


def test_deep_nesting_leaves_the_process_alive() -> None:
    """libyaml's composer crashes it; a crash here would take pytest along, so that a child tries first."""
    code = (
        "import sys; from modelway.load import load; from modelway.sources import SourceFile\n"
        "for part in ('[', '{a: ', '- ', '? ', '[[]], ', '&a [', '- &a\\n  '):\n"
        "    found = load(SourceFile('x', (part * 200_000).encode()))[1]\n"
        "    assert found, part\n"
        "print(sys.getrecursionlimit())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert run.stdout == "1000\n"


def test_nothing_is_left_to_the_collector_of_cycles() -> None:
    """The command line turns it off."""
    texts = [text if isinstance(text, bytes) else text.encode() for text, _ in HOSTILE.values()]
    gc.collect()
    gc.disable()
    try:
        for text in [*texts, b"a: {b: [c]}\n---\nd: &e |\n  f\ng: *e\n"]:
            for document in read(text)[0]:
                document.span(("a", "b"))
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_memory_holds_no_places_of_documents() -> None:
    """A loaded document is its value, its place in the file and nothing else that grows with it."""
    document = read("a: |\n  x\n" + "b: [1]\nc: {d: e}\n")[0][0]
    assert {name: type(getattr(document, name)).__name__ for name in document.__slots__} == {
        "source": "SourceFile",
        "index": "int",
        "value": "dict",
        "part": "Part",
    }
