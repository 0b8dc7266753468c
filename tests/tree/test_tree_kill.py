"""A compile is killed, or the disk refuses, at any moment: `compare` says so, a second compile repairs."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelway import tree
from modelway.tree import GeneratedFile, compare, write
from tests.tree.trees import NEW, OLD, files, python, snapshot, wanted


def killed_writes(out: Path, start: str, goal: str, environments: str, *earlier: str) -> int:
    out.mkdir()
    script = "tests.tree.killed_writes"
    return int(python("-m", script, str(out), start, goal, environments, *earlier))


@pytest.mark.parametrize(
    ("start", "goal", "environments"),
    [
        ("nothing", "new", "all"),
        ("old", "new", "all"),
        ("old", "nothing", "all"),
        ("old", "new", "prod,dev"),
        ("old", "nothing", "prod,local"),
    ],
)
def test_killed_before_every_single_change(tmp_path: Path, start: str, goal: str, environments: str) -> None:
    before = {"old": OLD, "nothing": []}[start]
    after = {"new": NEW, "nothing": []}[goal]
    names = frozenset(environments.split(",")) if environments != "all" else None
    whole = tmp_path / "whole"
    write(whole, before, environments=None)
    write(whole, after, environments=names)
    expected = snapshot(whole)
    if names is None:
        assert expected == wanted(after)

    changes = killed_writes(tmp_path / "once", start, goal, environments)
    assert changes > 15
    assert killed_writes(tmp_path / "twice", start, goal, environments, str(tmp_path / "once")) == changes
    left_behind = set()
    for root in (tmp_path / times / str(k) for times in ("once", "twice") for k in range(1, changes + 1)):
        found = compare(root, after, environments=names)
        assert found.foreign == (), root
        files_only = {path: data for path, data in snapshot(root).items() if not path.endswith("/")}
        assert found.clean == (files_only == expected), root
        left_behind |= {path for path in files_only if tree.TEMPORARY in path}
        write(root, after, environments=names)
        assert compare(root, after, environments=names).clean, root
        assert snapshot(root) == expected, root
    assert left_behind or goal == "nothing"  # the kills did come between creating and renaming


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """No file may grow beyond the limit: writing more fails half-way."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


BIG = GeneratedFile("prod/search/ranker/dashboard-ranker.yaml", b"x" * 50_000, "Model search/ranker")
# Who lets SIGXFSZ do what it does by default dies when a file grows beyond the limit.
DIE_HALF_WAY = """
import pathlib, resource, signal, sys
from modelway.tree import write
from tests.tree import test_tree_kill as test
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
with test.small_files(20_000):
    write(pathlib.Path(sys.argv[1]), [*test.NEW, test.BIG], environments=None)
"""


def test_killed_while_a_file_is_half_written(tmp_path: Path) -> None:
    write(tmp_path, OLD, environments=None)
    python("-c", DIE_HALF_WAY, str(tmp_path), status=-signal.SIGXFSZ)
    half = [
        path for path, data in snapshot(tmp_path).items() if tree.TEMPORARY in path and len(data) == 20_000
    ]
    found = compare(tmp_path, [*NEW, BIG], environments=None)
    assert half
    assert set(half) <= set(found.extra)
    assert not found.foreign
    write(tmp_path, [*NEW, BIG], environments=None)
    assert snapshot(tmp_path) == wanted([*NEW, BIG])


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    """What a full disk does, where no disk can be made full: the write fails half-way."""
    write(tmp_path, OLD, environments=None)
    with small_files(20_000), pytest.raises(OSError, match="File too large") as caught:
        write(tmp_path, [*NEW, BIG], environments=None)
    assert caught.value.filename == str(tmp_path / BIG.path)
    repaired(tmp_path, [*NEW, BIG])


def repaired(root: Path, generated: list[GeneratedFile]) -> None:
    """After an error no temporary file is left, nothing is foreign, a second compile repairs."""
    assert not any(tree.TEMPORARY in path for path in snapshot(root))
    found = compare(root, generated, environments=None)
    assert not found.clean
    assert not found.foreign
    write(root, generated, environments=None)
    assert compare(root, generated, environments=None).clean
    assert snapshot(root) == wanted(generated)


@pytest.mark.parametrize("kilobytes", [64, 96, 128, 160, 200])
def test_a_full_disk(tmp_path: Path, kilobytes: int) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    options = f"size={kilobytes}k"
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "modelway-test", disk], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("a small disk can be mounted by root only")
    try:
        generated = [
            GeneratedFile(f"prod/search/ranker-{i}/dashboard.yaml", b"x" * 5000, "Model") for i in range(25)
        ]
        with pytest.raises(OSError, match="No space left on device") as caught:
            write(disk / "generated", generated, environments=None)
        assert caught.value.filename.startswith(str(disk / "generated"))
        assert tree.TEMPORARY not in caught.value.filename
        subprocess.run(["mount", "-o", "remount,size=10m", disk], check=True)
        repaired(disk / "generated", generated)
    finally:
        subprocess.run(["umount", disk], check=True)


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """Permissions do not bind root, but an immutable folder does."""
    if os.geteuid():
        folder.chmod(0o555)
        try:
            yield
        finally:
            folder.chmod(0o755)
        return
    chattr = shutil.which("chattr")
    if not chattr or subprocess.run([chattr, "+i", folder], capture_output=True).returncode:
        pytest.skip("nothing binds root here: chattr +i does not work on this file system")
    try:
        yield
    finally:
        subprocess.run([chattr, "-i", folder], check=True)


@pytest.mark.parametrize(
    "where", [".", ".index", "prod", "prod/search/ranker", "prod/search/encoder", "staging/search"]
)
def test_an_unwritable_folder(tmp_path: Path, where: str) -> None:
    write(tmp_path, OLD, environments=None)
    generated = [*NEW, *files(staging__search__encoder__rollout="encoder")]
    with unwritable(tmp_path / where), pytest.raises(PermissionError) as caught:
        write(tmp_path, generated, environments=None)
    assert caught.value.filename.startswith(str(tmp_path / where))
    assert tree.TEMPORARY not in caught.value.filename
    repaired(tmp_path, generated)


def test_the_output_folder_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for root in (tmp_path / "file", tmp_path / "file/generated"):
        with pytest.raises((FileExistsError, NotADirectoryError)) as caught:
            write(root, NEW, environments=None)
        assert caught.value.filename.startswith(str(tmp_path / "file"))
        with pytest.raises(NotADirectoryError):
            compare(root, NEW, environments=None)
    assert (tmp_path / "file").read_text() == "x"


def test_an_interrupt_leaves_no_temporary_file(tmp_path: Path) -> None:
    """Ctrl-C between two files, as the bar that shows the progress sees it."""
    write(tmp_path, OLD, environments=None)
    for steps in range(12):
        left = steps

        def interrupt(_: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, NEW if steps % 2 else OLD, environments=None, progress=interrupt)
        assert not compare(tmp_path, NEW, environments=None).foreign
    repaired(tmp_path, NEW)
