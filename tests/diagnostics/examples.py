"""For every code an example that raises it and one that does not; both are its documentation.

Most are folders beside this file, ``<CODE>/bad`` and ``<CODE>/good``: the files of ``specs/`` (and
``modelway.yaml``, where it matters) of a repository. A comment ``# expect: MW104`` ends each line that a
diagnostic stands at; what no comment can mark stands in ``expect.txt`` as ``path:line:column code``.
The examples that Git or YAML could not keep (odd bytes, links, generated files) are made by functions here.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from modelway import workspace
from modelway.sources import MAX_FILE_BYTES
from modelway.workspace import Outcome

HERE = Path(__file__).parent
_MARK = re.compile(rb"  # expect: (MW\d{3}(?: MW\d{3})*)$", re.MULTILINE)
_EXPECTED = re.compile(r"(?P<path>.+):(?P<line>\d+):(?P<column>\d+) (?P<code>MW\d{3})")
_SETTINGS = {"modelway.yaml": b'requires: "0.1"\n'}

Arrange = Callable[[Path], AbstractContextManager[None]]


@dataclass(frozen=True, order=True)
class Found:
    """A diagnostic that is expected; column 0 where only the line is said."""

    path: str
    line: int
    column: int
    code: str


@dataclass(frozen=True)
class Example:
    """A repository, what is done to it before a command runs, and what the command then finds."""

    code: str
    side: str  # bad or good
    files: dict[str, bytes]
    expected: tuple[Found, ...]
    command: str = "compile"
    arrange: Arrange | None = None
    words: str = ""
    own: frozenset[str] = field(default_factory=frozenset)
    """Files that the other side has with other bytes, or not at all: what the example is about."""

    def __str__(self) -> str:
        return f"{self.code}-{self.side}"


@cache
def examples() -> dict[str, tuple[Example, Example]]:
    """Code -> (bad, good)."""
    folders = {path.name: _of_folder(path) for path in sorted(HERE.glob("MW*")) if path.is_dir()}
    return dict(sorted({**folders, **_made()}.items()))


def run(example: Example, root: Path) -> Outcome:
    """Make the repository in the empty folder ``root``, as the working folder, and run the command in it."""
    for path, data in (_SETTINGS | example.files).items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    command = {"compile": workspace.compile_and_write, "check": workspace.compile_and_compare}[
        example.command
    ]
    with contextlib.chdir(root), (example.arrange or _nothing)(root):
        return command(None, None, (), strict=False, progress=None)


def _of_folder(folder: Path) -> tuple[Example, Example]:
    read = {side: _files(folder / side) for side in ("bad", "good")}
    sides = []
    for side, other in (("bad", "good"), ("good", "bad")):
        files, expected = read[side]
        own = frozenset(path for path, data in files.items() if read[other][0].get(path) != data)
        sides.append(Example(folder.name, side, files, expected, own=own))
    return sides[0], sides[1]


def _files(folder: Path) -> tuple[dict[str, bytes], tuple[Found, ...]]:
    """The files of a side without their marks, and what the marks say."""
    files: dict[str, bytes] = {}
    expected: list[Found] = []
    for source in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = source.relative_to(folder).as_posix()
        if name == "expect.txt":
            for line in source.read_text("utf-8").splitlines():
                match = _EXPECTED.fullmatch(line)
                assert match, f"{source}: not path:line:column code: {line}"
                expected.append(Found(match["path"], int(match["line"]), int(match["column"]), match["code"]))
            continue
        path = name if name == "modelway.yaml" else f"specs/{name}"
        data = source.read_bytes()
        for number, text in enumerate(data.split(b"\n"), 1):
            if mark := _MARK.search(text):
                expected += [Found(path, number, 0, code) for code in mark[1].decode().split()]
        files[path] = _MARK.sub(b"", data)
    return files, tuple(sorted(expected))


# Examples that are made.

_RESOURCE = b"""\
apiVersion: modelway.dev/v1alpha1
kind: Resource
metadata: {name: cpu-small, labels: {team: search}}
spec: {cpu: "2", memory: 4Gi}
"""
_LOCAL = b"""\
apiVersion: modelway.dev/v1alpha1
kind: Environment
metadata: {name: local}
spec: {requireDigests: false}
"""
_MODEL = b"""\
apiVersion: modelway.dev/v1alpha1
kind: Model
metadata: {name: ranker, team: search}
spec:
  version: 46.1.0
  artifact: {uri: "file:models/ranker.onnx", format: onnx}
  serving: {resource: cpu-small}
"""
_FILE = "specs/cpu-small.yaml"
_BESIDE = {"specs/local.yaml": _LOCAL}
_SHOP = {**_BESIDE, _FILE: _RESOURCE, "specs/ranker.yaml": _MODEL}
_RANKER = "generated/local/search/ranker"


def _made() -> dict[str, tuple[Example, Example]]:
    return {**_of_bytes(), **_of_links(), **_of_generated(), **_of_counts()}


def _of_bytes() -> dict[str, tuple[Example, Example]]:
    large = _RESOURCE + b"#" * MAX_FILE_BYTES
    latin = _RESOURCE.replace(b"search", "Zoë".encode("latin-1"))
    nul = _RESOURCE.replace(b"search", b'"sear\0ch"')
    table = (
        ("MW002", large, (1, 1), "`specs/cpu-small.yaml` has more than 8 MiB.", "Divide the file."),
        (
            "MW004",
            latin,
            (3, 46),
            "`specs/cpu-small.yaml` is saved as Latin-1: its third line holds `Zoë`, the `ë` as the byte EB.",
            "Save the file as UTF-8.",
        ),
        (
            "MW005",
            nul,
            (3, 49),
            'The third line of `specs/cpu-small.yaml` holds `"sear␀ch"`, with a NUL between the letters.',
            "Delete the character.",
        ),
    )
    return {
        code: (
            Example(code, "bad", {**_BESIDE, _FILE: data}, (Found(_FILE, line, column, code),), words=bad),
            Example(code, "good", {**_BESIDE, _FILE: _RESOURCE}, (), words=good),
        )
        for code, data, (line, column), bad, good in table
    }


def _of_links() -> dict[str, tuple[Example, Example]]:
    @contextlib.contextmanager
    def out(root: Path) -> Iterator[None]:
        outside = root.with_name(f"{root.name}-outside.yaml")
        outside.write_bytes(_RESOURCE)
        os.symlink(os.path.relpath(outside, root / "specs"), root / _FILE)
        try:
            yield
        finally:
            outside.unlink()

    @contextlib.contextmanager
    def within(root: Path) -> Iterator[None]:
        (root / "specs/.shared").mkdir(parents=True)
        (root / "specs/.shared/cpu.yaml").write_bytes(_RESOURCE)
        os.symlink(".shared/cpu.yaml", root / _FILE)
        yield

    bad = "`specs/cpu-small.yaml` is a symbolic link to a file outside `specs/`."
    good = "Copy the file into `specs/`, or link to one that lies there."
    return {
        "MW003": (
            Example("MW003", "bad", _BESIDE, (Found(_FILE, 1, 1, "MW003"),), arrange=out, words=bad),
            Example("MW003", "good", _BESIDE, (), arrange=within, words=good),
        )
    }


def _of_generated() -> dict[str, tuple[Example, Example]]:
    """Examples of the folder of generated files: something happens after a first compile."""
    settings = f"{_RANKER}/settings-ranker.json"
    note = f"{_RANKER}/notes.txt"

    def pair(
        code: str,
        paths: tuple[str, ...],
        command: str,
        happens: Arrange,
        bad: str,
        good: str,
        mended: Arrange | None = None,
    ) -> tuple[Example, Example]:
        expected = tuple(Found(path, 1, 1, code) for path in paths)
        return (
            Example(code, "bad", dict(_SHOP), expected, command, happens, bad),
            Example(code, "good", dict(_SHOP), (), command, mended or _compiled_after(happens), good),
        )

    again = "Run `modelway compile`."
    return {
        "MW501": pair(
            "MW501",
            (note,),
            "compile",
            _compiled(lambda root: _put(root / note)),
            f"Somebody has put `notes.txt` into `{_RANKER}/`.",
            "Move the file away.",
            _compiled(lambda root: _put(root / "notes.txt")),
        ),
        "MW502": pair(
            "MW502",
            ("generated",),
            "compile",
            _held,
            "Another `modelway compile` writes the same folder at the same time.",
            "Wait for it to end.",
            _compiled(lambda _: None),
        ),
        "MW503": pair(
            "MW503",
            (settings,),
            "check",
            _compiled(lambda root: _put(root / settings)),
            f"Somebody has edited `{settings}`.",
            again,
        ),
        "MW504": pair(
            "MW504",
            (settings,),
            "check",
            _compiled(lambda root: (root / settings).unlink()),
            f"Somebody has removed `{settings}`.",
            again,
        ),
        "MW505": pair(
            "MW505",
            ("generated/.index/local/search.json", f"{_RANKER}/dashboard-ranker.json", settings),
            "check",
            _compiled(_leave),
            "Somebody has removed `specs/ranker.yaml`, and not what it was compiled to.",
            again,
        ),
    }


def _of_counts() -> dict[str, tuple[Example, Example]]:
    """A scaler comes to a model that ran four pods."""
    image = b"registry.example/modelway/runtime@sha256:" + b"0" * 64
    place = _LOCAL.replace(b"name: local", b"name: prod").replace(
        b"requireDigests: false",
        b'requireDigests: false, images: {server: "%b"}, cluster: {kubernetes: "1.37", addOns: '
        b"{keda: true, prometheusOperator: true}}" % image,
    )
    ranker = _MODEL.replace(b"file:models/", b"s3://models/")

    def scaled(scaling: bytes) -> bytes:
        return ranker.replace(b"cpu-small}", b"cpu-small, scaling: {%b}}" % scaling)

    @contextlib.contextmanager
    def after_four(root: Path) -> Iterator[None]:
        file = root / "specs/ranker.yaml"
        now = file.read_bytes()
        file.write_bytes(scaled(b"minReplicas: 4"))
        _compile()
        file.write_bytes(now)
        yield

    files = {"specs/prod.yaml": place, _FILE: _RESOURCE}
    bad = {**files, "specs/ranker.yaml": scaled(b"minReplicas: 2, maxReplicas: 8")}
    good = {**files, "specs/ranker.yaml": scaled(b"minReplicas: 4, maxReplicas: 8")}
    line = bad["specs/ranker.yaml"].splitlines()[-1]
    column = line.index(b"2, max") + 1
    found = (Found("specs/ranker.yaml", 7, column, "MW413"),)
    words = "The ranker ran with `minReplicas: 4`. Now it says `scaling: {minReplicas: 2, maxReplicas: 8}`."
    mended = (
        "Write `scaling: {minReplicas: 4, maxReplicas: 8}` first. `minReplicas: 2` follows in a later commit."
    )
    return {
        "MW413": (
            Example("MW413", "bad", bad, found, "compile", after_four, words),
            Example("MW413", "good", good, (), "compile", after_four, mended),
        )
    }


@contextlib.contextmanager
def _nothing(_: Path) -> Iterator[None]:
    yield


def _compiled(then: Callable[[Path], object]) -> Arrange:
    """A first compile, then what happens."""

    @contextlib.contextmanager
    def arranged(root: Path) -> Iterator[None]:
        _compile()
        then(root)
        yield

    return arranged


def _compiled_after(happens: Arrange) -> Arrange:
    """What happens, then a compile that mends it."""

    @contextlib.contextmanager
    def arranged(root: Path) -> Iterator[None]:
        with happens(root):
            assert (
                workspace.compile_and_write(None, None, (), strict=False, progress=None).code == workspace.OK
            )
            yield

    return arranged


@contextlib.contextmanager
def _held(root: Path) -> Iterator[None]:
    (root / "generated").mkdir()
    folder = os.open(root / "generated", os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _compile() -> None:
    outcome = workspace.compile_and_write(None, None, (), strict=False, progress=None)
    assert outcome.code == workspace.OK


def _put(path: Path) -> None:
    path.write_bytes(b"Written by hand.\n")


def _leave(root: Path) -> None:
    (root / "specs/ranker.yaml").unlink()
