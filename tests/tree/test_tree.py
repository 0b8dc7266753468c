"""What is stale, missing, extra and foreign; what `write` does about it and what it never touches."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import stat
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelway import tree
from modelway.tree import (
    Busy,
    Comparison,
    GeneratedFile,
    Written,
    compare,
    index_files,
    write,
)
from tests.support.checking import no_exception
from tests.tree.trees import NEW, OLD, files, python, snapshot, wanted

ALL = None
PROD = frozenset({"prod"})


def check(root: Path, generated: Sequence[GeneratedFile], only: frozenset[str] | None = ALL) -> Comparison:
    return compare(root, generated, environments=only)


def stamps(root: Path) -> dict[str, tuple[int, int]]:
    paths = [path for path in root.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in paths}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder as OLD gives it, beside something that is nobody's business."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file.yaml").write_text("precious")
    write(tmp_path / "generated", OLD, environments=ALL)
    return tmp_path / "generated"


# The index.


def test_the_index() -> None:
    made = files(prod__search__b__service="é", prod__search__a__rollout="x", dev__platform__namespace="")
    found = index_files([*made, GeneratedFile("prod/search/q.yaml", b"", 'a "quoted" é')])
    accent, x, empty = (f"sha256:{hashlib.sha256(text.encode()).hexdigest()}" for text in ("é", "x", ""))
    assert found == {
        ".index/dev/_platform.json": (
            '{\n  "files": {\n'
            f'    "dev/_platform/namespace.yaml": {{"digest": "{empty}", "spec": "Model _platform"}}\n'
            "  }\n}\n"
        ).encode(),
        ".index/prod/search.json": (
            '{\n  "files": {\n'
            f'    "prod/search/a/rollout.yaml": {{"digest": "{x}", "spec": "Model search/a"}},\n'
            f'    "prod/search/b/service.yaml": {{"digest": "{accent}", "spec": "Model search/b"}},\n'
            f'    "prod/search/q.yaml": {{"digest": "{empty}", "spec": "a \\"quoted\\" \\u00e9"}}\n'
            "  }\n}\n"
        ).encode(),
    }
    assert all(json.loads(data)["files"] for data in found.values())
    assert index_files([]) == {}


def test_the_order_of_the_files_changes_nothing(tmp_path: Path) -> None:
    assert index_files(NEW) == index_files(NEW[::-1])
    write(tmp_path / "a", NEW, environments=ALL)
    write(tmp_path / "b", NEW[::-1], environments=ALL)
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


@pytest.mark.parametrize("path", [
    "/etc/passwd", "/prod/search/x", "../prod/search/x", "prod/../search/x", "prod/search/..",
    "prod//search/x", "", ".", "x", "prod/x.yaml", "prod/search/", "./prod/search/x", "prod/./search/x",
    ".index/prod/search.json", "prod/search/.modelway-tmp-1", "prod/.git/config", "prod/search/a\0b",
    "prod/search/a\nb", "prod/search/x\n", "prod\\search\\x", "prod/search/a\\b", "prod/search/\ud800",
    "prod/search/\x7f",
])  # fmt: skip
def test_a_path_that_is_no_path_of_a_generated_file(path: str) -> None:
    with pytest.raises(ValueError, match="not a path of a generated file"):
        GeneratedFile(path, b"", "")


def test_two_files_in_one_place(tmp_path: Path) -> None:
    twice = [*NEW, NEW[2]]
    within = [*NEW, GeneratedFile("prod/search/ranker/rollout.yaml/x.yaml", b"", "")]
    for use in (compare, write):
        with pytest.raises(
            ValueError, match="two generated files have the path prod/search/reranker/rollout"
        ):
            use(tmp_path, twice, environments=ALL)
        with pytest.raises(ValueError, match=r"prod/search/ranker/rollout.yaml is also a folder"):
            use(tmp_path, within, environments=ALL)
    assert not list(tmp_path.iterdir())


# Compare and write.


def test_nothing_there(tmp_path: Path) -> None:
    for root in (tmp_path / "not/there", tmp_path):
        assert check(root, NEW) == Comparison(missing=tuple(sorted(wanted(NEW))))
        assert check(root, []).clean
    assert not (tmp_path / "not").exists()
    assert write(tmp_path / "not/there", NEW, environments=ALL) == Written(created=len(wanted(NEW)))
    assert snapshot(tmp_path / "not/there") == wanted(NEW)
    assert check(tmp_path / "not/there", NEW).clean


def test_what_differs(root: Path) -> None:
    found = check(root, NEW)
    assert found.stale == (
        *(".index/prod/_platform.json", ".index/prod/search.json", ".index/staging/search.json"),
        *(
            "prod/_platform/namespace.yaml",
            "prod/search/ranker/rollout.yaml",
            "staging/search/ranker/rollout.yaml",
        ),
    )
    assert found.missing == (
        *(".index/dev/search.json", ".index/prod/vision.json", "dev/search/ranker/rollout.yaml"),
        *(
            "prod/search/reranker/rollout.yaml",
            "prod/vision/vgg/rollout.yaml",
            "staging/search/ranker/service.yaml",
        ),
    )
    assert found.extra == (
        *(".index/local/search.json", ".index/prod/recommendation.json", "local/search/ranker/settings.yaml"),
        *("prod/recommendation/tower/rollout.yaml", "prod/search/encoder/rollout.yaml"),
    )
    assert found.foreign == ()
    assert not found.clean
    assert snapshot(root) == wanted(OLD)  # it was looked at only

    seen: list[int] = []
    done = write(root, NEW, environments=ALL, progress=seen.append)
    assert done == Written(created=6, changed=6, removed=5, unchanged=1)
    assert sum(seen) == 18
    assert snapshot(root) == wanted(NEW)
    assert check(root, NEW).clean


def test_a_file_that_is_right_is_never_touched(root: Path) -> None:
    before = stamps(root)
    time.sleep(0.01)
    assert write(root, OLD, environments=ALL) == Written(unchanged=len(wanted(OLD)))
    assert stamps(root) == before
    write(root, NEW, environments=ALL)
    after = stamps(root)
    same = {path for path in before if after.get(path) == before[path]}
    assert {os.path.relpath(path, root) for path in same} == {"prod/search/ranker/service.yaml"}


def test_folders_that_became_empty_go_and_the_output_folder_stays(root: Path) -> None:
    (root / "prod/search/ranker/made/by/someone").mkdir(parents=True)
    assert check(root, OLD).clean
    assert write(root, [], environments=ALL).removed == len(wanted(OLD))
    assert root.is_dir()
    assert not list(root.iterdir())
    assert write(root, [], environments=ALL) == Written()


def test_only_some_environments(root: Path) -> None:
    found = check(root, NEW, PROD)
    assert not found.clean
    assert all("prod" in path.split("/")[:2] for path in (*found.stale, *found.missing, *found.extra))
    before = stamps(root)
    write(root, NEW, environments=PROD)
    expected = {path: data for path, data in wanted(OLD).items() if "prod/" not in path}
    expected |= {path: data for path, data in wanted(NEW).items() if "prod/" in path}
    assert snapshot(root) == expected
    untouched = [path for path in before if "/prod/" not in path.removeprefix(str(root))]
    assert untouched
    assert all(stamps(root)[path] == before[path] for path in untouched)
    assert check(root, NEW, PROD).clean
    assert not check(root, NEW).clean
    # The same if only the files of these environments are given.
    only = [file for file in OLD if file.path.startswith("prod/")]
    write(root, only, environments=PROD)
    assert check(root, only, PROD).clean
    assert check(root, OLD, PROD).clean


def test_an_environment_that_is_gone(root: Path) -> None:
    gone = frozenset({"local"})
    assert check(root, NEW, gone).extra == (".index/local/search.json", "local/search/ranker/settings.yaml")
    assert check(root, [], frozenset({"nowhere"})).clean
    write(root, NEW, environments=gone)
    assert not (root / "local").exists()
    assert not (root / ".index/local").exists()
    assert (root / "prod/search/encoder/rollout.yaml").exists()


def test_deleted_and_edited_by_hand(root: Path) -> None:
    (root / "prod/search/ranker/rollout.yaml").write_text("edited")
    (root / "prod/search/ranker/service.yaml").unlink()
    (root / "prod/_platform/namespace.yaml").write_bytes(b"namespace\n")
    (root / "prod/search/encoder/rollout.yaml").write_bytes(b"")
    (root / ".index/prod/recommendation.json").unlink()
    shutil.rmtree(root / "staging")
    found = check(root, OLD)
    assert found.stale == (
        *("prod/_platform/namespace.yaml", "prod/search/encoder/rollout.yaml"),
        "prod/search/ranker/rollout.yaml",
    )
    assert found.missing == (
        *(".index/prod/recommendation.json", "prod/search/ranker/service.yaml"),
        "staging/search/ranker/rollout.yaml",
    )
    # tower/rollout.yaml has lost its owner, but it is what the specs say.
    assert (found.extra, found.foreign) == ((), ())
    write(root, OLD, environments=ALL)
    assert snapshot(root) == wanted(OLD)


def test_what_a_killed_compile_left_behind(root: Path) -> None:
    left = ["prod/search/ranker/.modelway-tmp-0123", ".index/prod/.modelway-tmp-4567", ".modelway-tmp-89"]
    for path in left:
        (root / path).write_text("half")
    (root / "prod/vision/vgg").mkdir(parents=True)
    assert check(root, OLD) == Comparison(extra=tuple(sorted(left)))
    assert check(root, OLD, PROD).extra == (
        ".index/prod/.modelway-tmp-4567",
        "prod/search/ranker/.modelway-tmp-0123",
    )
    assert write(root, OLD, environments=ALL).removed == 3
    assert snapshot(root) == wanted(OLD)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_modes(tmp_path: Path, umask: int) -> None:
    code = "import os, pathlib, sys; from modelway.tree import *; os.umask(int(sys.argv[2])); "
    code += "write(pathlib.Path(sys.argv[1]), [GeneratedFile('a/b/c', b'', '')], environments=None)"
    python("-c", code, str(tmp_path / "out"), str(umask))
    for name, mode in (("a/b/c", 0o644), (".index/a/b.json", 0o644), ("a/b", 0o755), (".", 0o755)):
        assert stat.S_IMODE((tmp_path / "out" / name).stat().st_mode) == mode & ~umask


generated_trees = st.dictionaries(
    st.tuples(
        st.sampled_from(["prod", "dev"]), st.sampled_from(["a", "b", "_platform"]), st.sampled_from("xyz")
    ),
    st.sampled_from([b"", b"1", b"2", b"22"]),
    max_size=8,
).map(lambda tree: [GeneratedFile("/".join(path), data, f"Model {path[1]}") for path, data in tree.items()])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(generated_trees, st.sampled_from([ALL, PROD, frozenset({"dev"})])), max_size=4))
def test_whatever_was_there_the_folder_becomes_what_is_wanted(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[list[GeneratedFile], frozenset[str] | None]],
) -> None:
    root = tmp_path_factory.mktemp("any")
    expected: dict[str, bytes] = {}
    for generated, only in steps:
        kept = {path: data for path, data in expected.items() if not tree._concerns(path, only)}
        new = {path: data for path, data in wanted(generated).items() if tree._concerns(path, only)}
        found = check(root, generated, only)
        assert set(found.missing) == new.keys() - expected.keys()
        assert set(found.extra) == expected.keys() - kept.keys() - new.keys()
        assert set(found.stale) == {
            path for path in new.keys() & expected.keys() if new[path] != expected[path]
        }
        assert not found.foreign
        write(root, generated, environments=only)
        expected = kept | new
        assert snapshot(root) == expected
    shutil.rmtree(root)


@pytest.mark.parametrize("more", [1, 2, 3, 4, 5, 6])
def test_an_error_while_reading_names_the_file(root: Path, more: int) -> None:
    """No more files can be opened: that happens to root as well."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open("/", os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files") as caught:
            check(root, OLD)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert str(caught.value.filename).startswith(str(root))


# Concurrency.


def test_another_compile_is_writing(root: Path) -> None:
    before = snapshot(root)
    within: list[str] = []

    def meanwhile(_: int) -> None:
        if not within:
            within.append("tried")
            with pytest.raises(Busy):
                write(root, [], environments=ALL)
            check(root, NEW)  # who only reads need not wait
            within.append(_in_another_process(root))

    assert snapshot(root) == before
    write(root, NEW, environments=ALL, progress=meanwhile)
    assert within == ["tried", "Busy"]
    assert snapshot(root) == wanted(NEW)
    assert write(root, NEW, environments=ALL).created == 0


def _in_another_process(root: Path) -> str:
    code = "import pathlib, sys; from modelway.tree import *\n"
    code += "try: write(pathlib.Path(sys.argv[1]), [], environments=None)\n"
    code += "except Busy: print('Busy', end='')\n"
    return python("-c", code, str(root))


def test_many_compiles_at_once(tmp_path: Path) -> None:
    outcomes: list[str] = []

    def compile_once() -> None:
        try:
            write(tmp_path / "generated", NEW, environments=ALL)
            outcomes.append("done")
        except Busy:
            outcomes.append("busy")

    threads = [threading.Thread(target=compile_once) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 8
    assert "done" in outcomes
    assert snapshot(tmp_path / "generated") == wanted(NEW)


VANISH = """
import os, pathlib, sys
from modelway.tree import compare
from tests.tree.trees import NEW, OLD
root, gone = pathlib.Path(sys.argv[1]), sys.argv[2]
def hook(event, arguments):
    # Listed already, and about to be opened.
    if event == "open" and arguments[0] in (gone, os.path.basename(gone)) and (root / gone).exists():
        os.rename(root / gone, root.parent / "gone")
sys.addaudithook(hook)
found = compare(root, NEW if gone.endswith("json") else OLD, environments=None)
print(gone in found.missing, gone in found.extra)
"""


@pytest.mark.parametrize(
    ("gone", "missing"),
    [("prod/search/encoder/rollout.yaml", True), ("prod", False), (".index/local/search.json", False)],
)
def test_what_is_removed_while_reading_is_not_there(root: Path, gone: str, missing: bool) -> None:
    assert python("-c", VANISH, str(root), gone) == f"{missing} {gone.endswith('json')}\n"
    assert (root.parent / "gone").exists()


def test_reading_while_another_writes(tmp_path: Path) -> None:
    """Files come and go under the reader's eyes; that is no error."""
    stop = threading.Event()

    def flip() -> None:
        while not stop.is_set():
            write(tmp_path, OLD, environments=ALL)
            write(tmp_path, NEW, environments=ALL)

    writer = threading.Thread(target=flip)
    writer.start()
    try:
        with no_exception():
            for _ in range(150):
                check(tmp_path, NEW)
    finally:
        stop.set()
        writer.join()
