"""What the compiler does not own: foreign files, links that lead elsewhere, an index that lies."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from modelway.tree import ForeignFiles, GeneratedFile, compare, write
from tests.tree.trees import NEW, OLD, files, snapshot, wanted


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the output folder that looks like a part of it."""
    folder = tmp_path / "outside"
    for path in (
        "ranker/rollout.yaml",
        "search/ranker/rollout.yaml",
        "prod/search/ranker/rollout.yaml",
        "rollout.yaml",
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("precious")
    (folder / "empty").mkdir()
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "generated", OLD, environments=None)
    return tmp_path / "generated"


def refused(root: Path, generated: list[GeneratedFile], *foreign: str) -> None:
    """These files, and no others, are foreign: whatever is asked for, nothing is touched."""
    before = snapshot(root.parent)
    for environments in (None, frozenset({"prod"}), frozenset({"nowhere"})):
        assert compare(root, generated, environments=environments).foreign == foreign
        with pytest.raises(ForeignFiles) as caught:
            write(root, generated, environments=environments)
        assert caught.value.paths == foreign
        assert foreign[0] in str(caught.value)
    assert snapshot(root.parent) == before


@pytest.mark.parametrize("path", [
    "README.md", ".gitkeep", "prod/notes.txt", "prod/search/ranker/by-hand.yaml",
    "prod/search/encoder/by-hand.yaml", "old/thing/x.yaml", ".index/README.md", ".index/prod.json",
    ".index/prod/search.yaml", ".index/prod/a/b.json", ".index/.hidden/x.json", "prod/search/vision/x.yaml~",
    "a b\t\x1b[31m.yaml", ".modelway-tmp/x", ".git/config",
])  # fmt: skip
def test_a_file_of_somebody_else(root: Path, path: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text("mine")
    for generated in (OLD, NEW, []):
        refused(root, generated, path)
    (root / path).unlink()
    write(root, NEW, environments=None)
    assert snapshot(root) == wanted(NEW)


def test_a_file_of_somebody_else_where_one_is_to_be_written(root: Path) -> None:
    new = [*OLD, *files(prod__search__ranker__hpa="theirs and ours", prod__vision__vgg__rollout="ours")]
    (root / "prod/search/ranker/hpa.yaml").write_text("theirs and ours")
    (root / "prod/vision/vgg").mkdir(parents=True)
    (root / "prod/vision/vgg/rollout.yaml").write_text("theirs")
    refused(root, new, "prod/vision/vgg/rollout.yaml")
    # With the very bytes that the specs give, nothing is lost by taking it over.
    (root / "prod/vision/vgg/rollout.yaml").write_text("ours")
    assert compare(root, new, environments=None).missing == (".index/prod/vision.json",)
    write(root, new, environments=None)
    assert snapshot(root) == wanted(new)
    write(root, OLD, environments=None)
    assert snapshot(root) == wanted(OLD)


def test_a_folder_that_is_not_ours_without_any_index(tmp_path: Path) -> None:
    for path in ("b.py", "a/b/c/d.txt", "prod/search/ranker/rollout.yaml"):
        (tmp_path / "home" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "home" / path).write_text("mine")
    refused(tmp_path / "home", NEW, "a/b/c/d.txt", "b.py", "prod/search/ranker/rollout.yaml")


def test_a_name_that_is_not_utf_8(root: Path) -> None:
    name = os.fsencode(root) + b"/prod/\xff\xfe.yaml"
    with open(name, "wb") as file:
        file.write(b"x")
    refused(root, NEW, "prod/\\xff\\xfe.yaml")
    compare(root, NEW, environments=None).foreign[0].encode()


def test_very_deep_folders(root: Path) -> None:
    deep = root / "/".join("d" for _ in range(200))
    deep.mkdir(parents=True)
    refused(root, NEW, "/".join("d" for _ in range(33)))


def test_a_file_where_a_folder_is_needed_and_the_reverse(root: Path) -> None:
    new = [*OLD, *files(prod__vision__vgg__rollout="x", prod__search__ranker__hpa="y")]
    (root / "prod/vision").write_text("a file")
    (root / "prod/search/ranker/hpa.yaml/within").mkdir(parents=True)
    refused(root, new, "prod/search/ranker/hpa.yaml", "prod/vision")


def test_an_index_may_not_own_what_is_needed_as_a_folder(root: Path) -> None:
    (root / "prod/search/reranker").write_text("a file")
    add_to_index(root, "prod/search", "prod/search/reranker")
    refused(root, NEW, "prod/search/reranker")


def special(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        here = os.getcwd()
        os.chdir(path.parent)  # the path of a socket may not be long
        try:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path.name)
        finally:
            os.chdir(here)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
@pytest.mark.parametrize(
    "path", ["prod/x", "prod/search/ranker/rollout.yaml", "prod/search/new/rollout.yaml"]
)
def test_what_is_no_file(root: Path, path: str, kind: str) -> None:
    (root / path).unlink(missing_ok=True)
    special(root / path, kind)
    refused(root, [*OLD, *files(prod__search__new__rollout="x")], path)


# Links.


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("prod/search/ranker", "ranker"),
        ("prod/search", "search"),
        ("prod", "prod"),
        ("prod/search/ranker/rollout.yaml", "rollout.yaml"),
        ("prod/search/encoder", "empty"),  # on the way to a file that is to be removed
        ("prod/search/reranker", "empty"),  # on the way to a file that is to be made
        ("dev", "empty"),
        ("dev", "nowhere"),
        (".index", "empty"),
        (".index/prod", "empty"),
        (".index/dev", "empty"),
        (".index/prod/search.json", "rollout.yaml"),
        ("unrelated", "prod"),
        ("prod/search/ranker/.modelway-tmp-0", "rollout.yaml"),
    ],
)
def test_a_link_is_never_followed(root: Path, outside: Path, link: str, target: str) -> None:
    path = root / link
    if path.is_dir():
        path.rename(root.parent / "moved")
    elif path.exists():
        path.unlink()
    path.symlink_to(outside / target)
    before = snapshot(outside)
    for generated in (NEW, OLD, []):
        assert link in compare(root, generated, environments=None).foreign
        with pytest.raises(ForeignFiles) as caught:
            write(root, generated, environments=frozenset({"staging"}))
        assert link in caught.value.paths
    assert snapshot(outside) == before
    assert path.is_symlink()


def test_a_link_within_the_folder_is_not_followed_either(root: Path) -> None:
    (root / "staging/search/encoder").symlink_to(root / "prod/search/encoder")
    refused(root, OLD, "staging/search/encoder")


@pytest.mark.parametrize("target", ["prod", "nowhere", "rollout.yaml"])
def test_the_output_folder_is_a_link(tmp_path: Path, outside: Path, target: str) -> None:
    (tmp_path / "generated").symlink_to(outside / target)
    refused(tmp_path / "generated", NEW, ".")


def test_a_link_above_the_output_folder_is_the_users_business(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "link/generated", NEW, environments=None)
    assert snapshot(tmp_path / "real/generated") == wanted(NEW)
    assert compare(tmp_path / "link/generated", NEW, environments=None).clean


@pytest.mark.parametrize(
    "folder", ["prod", "prod/search", "prod/search/ranker", ".index", ".index/prod", "staging"]
)
def test_a_link_that_appears_after_looking(root: Path, outside: Path, folder: str) -> None:
    """Whoever swaps a folder for a link between the comparison and the writing gains nothing."""
    before = snapshot(outside)

    def swap(_: int) -> None:
        if not (root / folder).is_symlink():
            (root / folder).rename(root.parent / "moved")
            (root / folder).symlink_to(outside)

    with pytest.raises(OSError, match=r"Not a directory|symbolic link") as caught:
        write(root, NEW, environments=None, progress=swap)
    assert caught.value.filename == str(root / folder)
    assert snapshot(outside) == before


# An index that lies. What it says is believed of its own environment and team only, and only real files
# found below the folder are ever removed.


def add_to_index(root: Path, owner: str, *paths: str) -> None:
    index = root / f".index/{owner}.json"
    document = json.loads(index.read_bytes()) if index.exists() else {"files": {}}
    for path in paths:
        document["files"][path] = {"spec": "Model x", "digest": f"sha256:{0:064x}"}
    index.parent.mkdir(parents=True, exist_ok=True)
    index.write_text(json.dumps(document))


@pytest.mark.parametrize("path", [
    "../outside/rollout.yaml", "prod/search/../../../outside/rollout.yaml", "prod/search/../../by-hand.yaml",
    "{outside}/rollout.yaml", "/{outside}/rollout.yaml", "by-hand.yaml", "./by-hand.yaml",
    "prod/by-hand.yaml", "staging/search/by-hand.yaml", "prod/vision/by-hand.yaml",
    "prod//search/by-hand.yaml", ".index/prod/x.txt", "prod/search", "prod/search/", "prod", "", ".", "..",
    "/", "prod/search/\0", "prod/search/.git/config", "prod/search/\ud800", "\\",
])  # fmt: skip
def test_an_index_owns_nothing_elsewhere(root: Path, outside: Path, path: str) -> None:
    by_hand = ["by-hand.yaml", "prod/by-hand.yaml", "staging/search/by-hand.yaml", "prod/vision/by-hand.yaml"]
    by_hand += [".index/prod/x.txt", "prod/search/.git/config"]
    for file in by_hand:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("mine")
    add_to_index(root, "prod/search", path.format(outside=outside))
    for generated in (NEW, OLD, []):
        refused(root, generated, *sorted(by_hand))
    for file in by_hand:
        (root / file).unlink()
    before = snapshot(outside)
    write(root, NEW, environments=None)
    assert snapshot(root) == wanted(NEW)
    assert snapshot(outside) == before


@pytest.mark.parametrize("owner", [".index/search", "../outside", ".git/x", "prod/.hidden"])
def test_an_index_in_the_wrong_place(root: Path, outside: Path, owner: str) -> None:
    path = f"{owner}/x/y.yaml"
    (root / path).parent.mkdir(parents=True)
    (root / path).write_text("mine")
    add_to_index(root, owner, path)
    inside = [file for file in snapshot(root) if file not in wanted(OLD)]
    refused(root, OLD, *sorted(inside))


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut off": lambda data: data[: len(data) // 2],
    "not JSON": lambda data: b"{not json",
    "NUL": lambda data: b"\0" * 1000,
    "not UTF-8": lambda data: b"\xff\xfe" + data.replace(b"prod", b"pr\xf6d"),
    "deep": lambda data: b"[" * 200_000,
    "deep lines": lambda data: b'    "a": ' + b'{"b":' * 100_000 + b"}\n",
    "a long number": lambda data: b"1" * 10_000,
    "null": lambda data: b"null",
    "a list": lambda data: b"[1]",
    "a string": lambda data: b'"files"',
    "no files": lambda data: b"{}",
    "files is a list": lambda data: b'{"files": ["prod/search/ranker/rollout.yaml"]}',
    "entries are null": lambda data: b'{"files": {"prod/search/ranker/rollout.yaml": null}}',
    "entries are empty": lambda data: b'{"files": {"prod/search/ranker/rollout.yaml": {}}}',
    "a digest that is none": lambda data: data.replace(b"sha256:", b"md5:"),
    "a spec that is none": lambda data: data.replace(b'"spec": "', b'"spec": 1, "x": "'),
    "enormous": lambda data: data + b" " * (64 << 20),
    "many lines": lambda data: b"    \n" * 500_000,
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_index_owns_nothing(root: Path, how: str) -> None:
    index = root / ".index/prod/search.json"
    index.write_bytes(BROKEN[how](index.read_bytes()))
    # What is as the specs say is no loss; the rest is nobody's now, and therefore not ours.
    found = compare(root, OLD, environments=None)
    assert (found.stale, found.foreign) == ((".index/prod/search.json",), ())
    if how != "cut off":
        refused(root, NEW, "prod/search/encoder/rollout.yaml", "prod/search/ranker/rollout.yaml")
    write(root, OLD, environments=None)
    assert snapshot(root) == wanted(OLD)
    write(root, NEW, environments=None)
    assert snapshot(root) == wanted(NEW)


def test_an_index_that_is_a_folder(root: Path) -> None:
    (root / ".index/prod/search.json").unlink()
    (root / ".index/prod/search.json").mkdir()
    refused(root, OLD, ".index/prod/search.json")


def test_an_index_with_the_marks_of_a_merge_conflict(root: Path) -> None:
    """Two branches changed one team: both sides are read, so that a compile settles the conflict."""
    ours, theirs = wanted(OLD)[".index/prod/search.json"], wanted(NEW)[".index/prod/search.json"]
    marked = b"<<<<<<< HEAD\n" + ours + b"=======\n" + theirs + b">>>>>>> other\n"
    (root / ".index/prod/search.json").write_bytes(marked)
    (root / "prod/search/reranker").mkdir()
    (root / "prod/search/reranker/rollout.yaml").write_text("of the other branch")
    (root / "prod/search/ranker/rollout.yaml").write_text(
        "<<<<<<< HEAD\nranker 1\n=======\nranker 2\n>>>>>>> other\n"
    )
    for generated in (NEW, OLD):
        assert compare(root, generated, environments=None).foreign == ()
    write(root, NEW, environments=None)
    assert snapshot(root) == wanted(NEW)


def test_an_index_of_a_team_that_is_gone_is_removed_even_if_broken(root: Path) -> None:
    (root / ".index/local/search.json").write_text("{")
    (root / "local/search/ranker/settings.yaml").unlink()
    assert compare(root, NEW, environments=None).extra[0] == ".index/local/search.json"
    write(root, NEW, environments=None)
    assert snapshot(root) == wanted(NEW)
