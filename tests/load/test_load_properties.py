"""Whatever a file holds: no exception, spans within it, and what is accepted all readers read alike."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from modelway import quick
from modelway.events import Reader
from modelway.load import Document
from tests.load.hostile_files import HOSTILE
from tests.load.load_helpers import at, covered, errors, lies_inside, pointers, read, same

# fmt: off
FRAGMENTS = [
    "a", "b: ", "c:", "- ", "- ", "\n", "\n", "\n  ", "\n    ", "\n- ", "  ", ": ", ":", "[", "]", "{", "}",
    ",", ", ", "#", " # c", "'", '"', "|", ">", "&a ", "*a", "!", "!!str ", "%", "@", "`", "?", "\n? ", "\t",
    "\r\n", "\r", "\n---", "\n...", "---\n", "null", "~", "1", "0", "1.5", "e3", "+", ".", "_", "x", "no",
    "true", "<<: ", "=", "é", "\u2028", "\ufeff", "\0", "2024-01-01", ":30", "0x", "|-\n", ">+\n",
    "\\n", "\\",
    "'x'", '"y"', "-", "-1", "{a: 1}", "[1, b]", "s3://x", "y", "n", "a: |\n  x\n",
    "- >-\n  y\n  z\n", "\n\n",
]
VALUES = [
    "", "1", "foo", "foo bar", "-1", "- x", "'q'", '"d"', '""', "[1, 2]", "{a: b}", "{a: [1, {b: c}]}", "[]",
    "{}", "[a, ]", "{a}", "{a: }", "[a: 1]", "1.5", "no", "~", "null", "x: y", "a:b", "s3://x/y:z",
    "#c", "x #c",
    "x#c", "|", "> ", "&a x", "*a", "true", "y", "1e3", "010", "-", "--", "---", "...", "<<", "=", "<", "(x",
    "x,y", "x]", "{s: s3://x/y, t: a b}", "{\"k k\": 1, 'l': 2}", "{a: 1, a: 2}", "[-1, -]", "-a",
    "@x", "x@y",
    "%a", "a\\b", "é", "'é'", "+1", "-.5", ".5", "+", "._", "0_", "1:30", "{no: 1}", "[no]", "[~]", "{~: 1}",
    "x'y", 'x"y', "'a''b'", "'a' b", "[a]b", "{a:1}", "{a: b:c}", "[a:b]", "[a b, c]", "[a#b]",
    "{ }", "[ 1 ]",
    "[1,2]", "[1 ,2]", "{a : 1}", "{a:  1}", "?x", "? x", "!x", "2024-01-01",
    "|-\n      x\n      y\n", "'a\n  b'",
    '{"": }', '{"": 1, a: }', '{"a": 1}', '{"a":1}', '{"a": 1, a: 2}', "{a: '', b: \"\"}",
    "[a b c, d:e]", "[, 1]",
]
# fmt: on
KEYS = ["a:", "b:", "c:", "d.e/f:", "a:", "b:", "c:", "no:", "y:", "'q':", "1:", "_x:", "null:", ""]

yamlish = st.lists(st.sampled_from(FRAGMENTS), max_size=16).map("".join)
lines = st.builds(
    "{}{}{}{}{}{}".format,
    st.sampled_from(["", "", "  ", "  ", "    ", " ", "   "]),
    st.sampled_from(["", "", "", "- "]),
    st.sampled_from(KEYS),
    st.sampled_from([" ", " ", " ", "", "  "]),
    st.sampled_from(VALUES),
    st.sampled_from(["", "", " ", " # c", "#c", "  #c #d: '"]),
)
blocky = st.builds(
    lambda start, rows, end, last: start + end.join(rows) + last,
    st.sampled_from(["", "", "", "---\n", "# c\n", "\ufeff"]),
    st.lists(lines, min_size=1, max_size=6),
    st.sampled_from(["\n", "\n", "\r\n"]),
    st.sampled_from(["", "\n"]),
)
hostile = st.sampled_from(
    [text if isinstance(text, str) else text.decode("utf-8", "replace") for text, _ in HOSTILE.values()]
).filter(lambda text: len(text) < 2000)


@st.composite
def nested(draw: st.DrawFn, depth: int = 0, indentation: int = 0) -> str:
    """A value behind its key or dash, mostly well-formed, down to a few levels."""
    kind = draw(st.integers(0, 5 if depth < 3 else 2))
    comment = draw(st.sampled_from(["\n", "\n", "  # c\n"]))
    if kind <= 2:
        plain = [
            "1",
            "foo",
            "'q'",
            '"d"',
            "[1, {a: b}]",
            "{x: [a, b], y: 's3://x'}",
            "a b",
            "0.5",
            "true",
            "",
        ]
        return f" {draw(st.sampled_from(plain if kind < 2 else VALUES))}{comment}"
    at = indentation + draw(st.sampled_from([0, 2, 2]) if kind == 5 else st.sampled_from([1, 2, 2, 4]))
    text = comment
    for key in draw(
        st.lists(st.sampled_from(["a", "b", "c", "d.e", "f/g"]), min_size=1, max_size=3, unique=True)
    ):
        dash, inner = ("- ", at + 2) if kind == 5 else ("", at)
        text += f"{' ' * at}{dash}{key}:{draw(nested(depth + 1, inner))}"
    return text


@st.composite
def specs(draw: st.DrawFn) -> str:
    keys = draw(st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=4, unique=True))
    text = "".join(f"{key}:{draw(nested())}" for key in keys)
    if draw(st.booleans()):
        return text
    where = draw(st.integers(0, len(text)))
    slip = draw(st.sampled_from(["", " ", "\n", "-", ":", "#", "'", "x", "  "]))
    return text[:where] + slip + text[where + draw(st.integers(0, 2)) :]


numbers = st.text(alphabet="0123456789.eE+-_:xobTZ ~=<yYnNoOsSfFiIaA", min_size=1, max_size=12)
scalars = numbers.map("k: {0}\nl: [{0}]\n".format)
texts = st.one_of(yamlish, blocky, specs(), scalars, hostile)
check = settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))


@check
@given(st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode), texts.map(str.encode)))
def test_no_bytes_raise_an_exception(data: bytes) -> None:
    documents, found = read(data)
    assert documents or found
    assert found == sorted(found, key=lambda one: (one.span, one.code))
    for one in found:
        assert one.message.isprintable()
        assert one.hint.isprintable()


@check
@given(texts)
def test_all_spans_lie_in_the_file(text: str) -> None:
    documents, found = read(text)
    for one in found:
        for span in (one.span, *(span for span, _ in one.related)):
            assert lies_inside(text, span), one
    for document in documents:
        for pointer in pointers(document.value):
            assert lies_inside(text, document.span(pointer))
            assert lies_inside(text, document.key_span((*pointer, "nothing")))


@check
@given(texts)
def test_a_span_covers_text_that_reads_as_the_value(text: str) -> None:
    for document in read(text)[0]:
        for pointer in pointers(document.value):
            if pointer and not isinstance(at(document.value, pointer), dict | list):
                _check_scalar(text, document, pointer)


def _check_scalar(text: str, document: Document, pointer: tuple[str | int, ...]) -> None:
    value = at(document.value, pointer)
    written = covered(text, document.span(pointer))
    if written.startswith("*"):
        return  # an alias; its name means nothing alone
    if written.startswith(("|", ">")):
        assert same(yaml.safe_load(written), value)
    else:  # as an entry of a list, with the lines after the first indented more than its dash
        (read_again,) = yaml.safe_load("- " + re.sub(r"\n[ \t]*", "\n    ", written))
        assert same(read_again, value)
    if isinstance(pointer[-1], str) and not covered(text, document.key_span(pointer)).startswith("*"):
        (key,) = yaml.safe_load(covered(text, document.key_span(pointer)) + ": 1")
        assert key == pointer[-1]


@check
@given(texts)
def test_what_is_accepted_two_other_readers_read_alike(text: str) -> None:
    documents, found = read(text)
    if errors(found):
        return
    accepted = [document.value for document in documents]
    assert same(_answer(lambda: list(yaml.safe_load_all(text))), accepted)
    if "%YAML 1.1" in text:  # there, ruamel.yaml reads y and n as booleans; PyYAML never does
        return
    other = _answer(lambda: list(_as_1_2(text)))
    if "more indented follow up line" in str(other):  # ruamel.yaml refuses some blank lines before text
        return
    assert same(other, accepted)


def _answer(load: Callable[[], list[Any]]) -> object:
    """The documents that are not empty, or the reader's error as text."""
    try:
        return [value for value in load() if value is not None]
    except (yaml.YAMLError, Exception) as error:  # noqa: BLE001 (ruamel.yaml raises whatever it meets)
        return f"{type(error).__name__}: {error}"


def _as_1_2(text: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield from YAML(typ="safe", pure=True).load_all(io.StringIO(text))


@check
@given(st.one_of(blocky, specs()))
def test_quick_reads_what_libyaml_reads(text: str) -> None:
    quickly = quick.read(text.encode())
    if quickly is None:
        return
    reader = Reader("x")
    nodes = reader.read(text.encode())
    assert not reader.found
    assert same(quickly, [node.value for node in nodes])


def test_quick_reads_what_specs_are_made_of() -> None:
    text = """\
# yaml-language-server: $schema=../../policies/schemas/model.json
apiVersion: modelway.dev/v1alpha1
kind: Model   # comment – with a dash
metadata: {name: ranker, labels: {tier: critical, "a b": 'x: y'}}
spec:
  version: 46.1.0
  artifact: {uri: "oci://registry.example/ranker@sha256:0a", digest: sha256:0a, size: 64Mi}
  interface:
    inputs:
      features: {datatype: FP32, shape: [-1, 64]}

  steps:
  - weight: 5
    pause: 10m
  - {weight: 50, pause: 10m}
  empty:
  last: "é"
"""
    (quickly,) = quick.read(text.encode()) or []
    assert same(quickly, yaml.safe_load(text))
    assert same(quick.read(text.replace("\n", "\r\n").encode()), [quickly])
    assert same(quick.read(b"---\n" + text.encode()), [quickly])
