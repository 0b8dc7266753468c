"""Every validator reads the schemas and says the same: jsonschema-rs, jsonschema, check-jsonschema and ajv."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.support.node import judge

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "policies" / "schemas"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
KINDS = {"Model": "model", "Alert": "alert", "Resource": "resource", "Environment": "environment"}
Json = Any

# Where engines are known to differ: what is a space, a letter, a digit, a character.
STRANGE = ["\x00", "\t", "\n", "\r", "\x0b", "\x1c", "\x1f", " ", '"', "'", "\\", "\x7f", "\x85", "\xa0", "²",
           "é", "ß", "ſ", "K", "٣", "\u1680", "\u180e", "\u2003", "\u200b", "\u2028", "\u202e", "\u2060",
           "\u3000", "\ufeff", "\ufffd", "😀", "/", "@", "?", "#", "-", ".", ":"]  # fmt: skip


@cache
def schemas() -> dict[str, Json]:
    return {name: json.loads((FOLDER / f"{name}.json").read_bytes()) for name in NAMES}


def nodes(value: Json) -> Iterator[dict[str, Json]]:
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(inner)


def texts(value: Json) -> Iterator[str]:
    """Every string of an example, keys included: a pattern may be that of keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


@cache
def patterns() -> dict[str, list[str]]:
    """Every pattern of the schemas, with texts that are in it, near it and far from it."""
    every_text = {text for schema in schemas().values() for node in nodes(schema) for text in texts(node.get("examples"))}  # fmt: skip
    found = {node["pattern"] for schema in schemas().values() for node in nodes(schema) if isinstance(node.get("pattern"), str)}  # fmt: skip
    return {pattern: samples(pattern, sorted(every_text)) for pattern in sorted(found)}


def samples(pattern: str, of: list[str]) -> list[str]:
    right = [text for text in of if re.search(pattern, text)][:4]
    near = [f"{text[:place]}{char}{text[place:]}" for text in right for char in STRANGE
            for place in (0, 1, len(text) // 2, len(text))]  # fmt: skip
    cut = [text[:end] for text in right for end in range(len(text))]
    return list(dict.fromkeys([*right, *near, *cut, *STRANGE, *of]))


def test_every_pattern_means_the_same_to_every_engine() -> None:
    """``RegExp(…, "u")`` of editors, Rust's engine, which decides, and Python's."""
    in_node = judge({}, patterns=list(patterns().items())).patterns
    assert len(in_node) == len(patterns()) > 40
    for (pattern, words), matched in zip(patterns().items(), in_node, strict=True):
        rust = jsonschema_rs.Draft202012Validator({"pattern": pattern})
        assert [word for word, yes in zip(words, matched, strict=True) if rust.is_valid(word) != yes] == [], (
            pattern
        )
        # Python's $ overlooks a last line end; test_schemas.py holds that the deciding engine does not.
        inner = [(word, yes) for word, yes in zip(words, matched, strict=True) if not word.endswith("\n")]
        assert [word for word, yes in inner if bool(re.search(pattern, word)) != yes] == [], pattern
        assert True in matched, f"no example of the schemas is in {pattern}"
        assert False in matched, f"no sample is outside {pattern}"


def right_documents() -> list[tuple[str, Json]]:
    """The examples of settings and verdict, the specs of the shop and of every golden case."""
    settings = [(path.stem, json.loads(path.read_bytes())) for path in (FOLDER / "examples").glob("*.json")]
    files = [*(ROOT / "specs").rglob("*.yaml"), *(ROOT / "tests" / "golden").glob("*/specs/**/*.yaml")]
    specs = [spec for path in files for spec in yaml.safe_load_all(path.read_bytes()) if spec]
    own = [("repository", yaml.safe_load((ROOT / "modelway.yaml").read_bytes()))]
    return [*settings, *((KINDS[spec["kind"]], spec) for spec in specs), *own]


def wrong_documents(name: str, document: Json) -> Iterator[tuple[str, Json]]:
    """The document with, at each of its places: an unknown field, a value of another type, a strange character."""
    for place in places(document):
        changed = copy.deepcopy(document)
        holder: Json = [changed]
        for step in (0, *place)[:-1]:
            holder = holder[step]
        last = (0, *place)[-1]
        value = holder[last]
        if isinstance(value, dict):
            holder[last] = {**value, 'unknown "field"': 1}
        else:
            holder[last] = f"{value}\x1c" if isinstance(value, str) else {"unexpected": value}
        yield name, changed


def places(value: Json, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*place, key))


def test_ajv_says_of_every_document_what_the_deciding_validator_says() -> None:
    right = right_documents()
    assert {name for name, _ in right} == set(NAMES)
    documents = [*right, *(wrong for name, document in right for wrong in wrong_documents(name, document))]
    rust = {name: jsonschema_rs.Draft202012Validator(schema) for name, schema in schemas().items()}
    decided = [rust[name].is_valid(document) for name, document in documents]
    assert all(decided[: len(right)])
    refused = [name for (name, _), valid in zip(documents, decided, strict=True) if not valid]
    assert set(refused) == set(NAMES)
    assert judge(schemas(), documents).documents == decided


@pytest.mark.parametrize("name", NAMES)
def test_python_says_what_the_deciding_validator_says(name: str) -> None:
    right = [(of, document) for of, document in right_documents() if of == name][:5]
    documents = [*right, *(wrong for _, document in right[:2] for wrong in wrong_documents(name, document))]
    python, rust = Draft202012Validator(schemas()[name]), jsonschema_rs.Draft202012Validator(schemas()[name])
    assert len(documents) > len(right) > 0
    for _, document in documents:
        assert python.is_valid(document) == rust.is_valid(document), document


@pytest.mark.parametrize("name", NAMES)
def test_check_jsonschema_reads_the_schema(name: str, tmp_path: Path) -> None:
    """As a hook of pre-commit runs it: a right file passes, a wrong one is refused for what is wrong."""
    document = next(document for of, document in right_documents() if of == name)
    right, wrong = tmp_path / "right.json", tmp_path / "wrong.json"
    right.write_text(json.dumps(document))
    wrong.write_text(json.dumps({**document, "unheardOf": 1}))
    assert check_jsonschema(name, right) == (0, "ok")
    code, said = check_jsonschema(name, wrong)
    assert code == 1
    assert "wrong.json" in said
    assert "unheardOf" in said


def check_jsonschema(name: str, path: Path) -> tuple[int, str]:
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--schemafile",
        str(FOLDER / f"{name}.json"),
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout.partition(" --")[0].strip() + done.stderr
