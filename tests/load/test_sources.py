"""What is read from a folder of specs: all of it, nothing twice, nothing outside, and never with a pause."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from modelway.sources import MAX_FILE_BYTES, SourceFile, printable, read_file, read_specs


def read(folder: Path) -> tuple[dict[str, bytes], list[str]]:
    """Path -> bytes, and the diagnostics as ``code path: message``."""
    files, found = read_specs(folder, shown="specs")
    assert [file.path for file in files] == sorted({file.path for file in files})
    assert all((one.span.line, one.span.column) == (1, 1) and one.hint for one in found)
    return {file.path: file.data for file in files}, [
        f"{one.code} {one.span.path}: {one.message}" for one in found
    ]


def write(folder: Path, *names: str, data: bytes = b"a: 1\n") -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def test_every_yaml_file_below_is_read_in_order(tmp_path: Path) -> None:
    write(tmp_path, "b.yaml", "a/z.yml", "a/b/c.yaml", "a.yaml", "folder.yaml/x.yaml")
    write(tmp_path, "readme.md", "x.yaml.bak", "x.YAML", ".hidden.yaml", ".git/x.yaml", "a/.b/c.yaml", "yaml")
    files, found = read(tmp_path)
    assert list(files) == [
        f"specs/{name}" for name in ("a.yaml", "a/b/c.yaml", "a/z.yml", "b.yaml", "folder.yaml/x.yaml")
    ]
    assert (set(files.values()), found) == ({b"a: 1\n"}, [])


def test_the_prefix_is_what_the_caller_says(tmp_path: Path) -> None:
    write(tmp_path, "a/b.yaml")
    for shown, path in (("x/y/", "x/y/a/b.yaml"), ("", "a/b.yaml")):
        assert read_specs(tmp_path, shown=shown) == ([SourceFile(path, b"a: 1\n")], [])


def test_an_empty_folder_gives_nothing(tmp_path: Path) -> None:
    assert read(tmp_path) == ({}, [])


def test_a_folder_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    write(tmp_path, "file")
    with pytest.raises(FileNotFoundError):
        read_specs(tmp_path / "nothing", shown="specs")
    with pytest.raises(NotADirectoryError):
        read_specs(tmp_path / "file", shown="specs")


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    specs = tmp_path / "specs"
    write(tmp_path, "outside.yaml", "other/secret.yaml", "specs2/x.yaml")
    write(specs, "a/in.yaml")
    (specs / "file.yaml").symlink_to(tmp_path / "outside.yaml")
    (specs / "a/relative.yaml").symlink_to("../../outside.yaml")
    (specs / "folder").symlink_to(tmp_path / "other")
    (specs / "sibling").symlink_to("../specs2")
    (specs / "chain.yaml").symlink_to("file.yaml")
    (specs / "device.yaml").symlink_to("/dev/zero")
    (specs / "notes.txt").symlink_to(tmp_path / "outside.yaml")
    files, found = read(specs)
    outside = "the symbolic link leads to {}, outside the folder".format
    assert list(files) == ["specs/a/in.yaml"]
    assert found == [
        f"MW003 specs/a/relative.yaml: {outside('../../outside.yaml')}",
        f"MW003 specs/chain.yaml: {outside('file.yaml')}",
        f"MW003 specs/device.yaml: {outside('/dev/zero')}",
        f"MW003 specs/file.yaml: {outside(tmp_path / 'outside.yaml')}",
        f"MW003 specs/folder: {outside(tmp_path / 'other')}",
        f"MW003 specs/sibling: {outside('../specs2')}",
    ]


def test_links_within_the_folder_read_nothing_twice(tmp_path: Path) -> None:
    write(tmp_path, "a/x.yaml", "b/y.yaml", ".data/z.yaml", ".data/w.txt")
    (tmp_path / "a/again.yaml").symlink_to("x.yaml")
    (tmp_path / "b/a").symlink_to("../a")
    (tmp_path / "b/loop").symlink_to("..")
    (tmp_path / "b/self").symlink_to(".")
    (tmp_path / "z.yaml").symlink_to(".data/z.yaml")  # as a mounted ConfigMap has them
    (tmp_path / "z2.yaml").symlink_to(".data/z.yaml")
    (tmp_path / "w.yaml").symlink_to(".data/w.txt")
    (tmp_path / "c").symlink_to(".data")
    files, found = read(tmp_path)
    assert found == []
    assert list(files) == ["specs/a/x.yaml", "specs/b/y.yaml", "specs/c/z.yaml", "specs/w.yaml"]


def test_links_to_nothing_and_in_circles(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("nothing")
    (tmp_path / "b.yaml").symlink_to("b.yaml")
    (tmp_path / "c").symlink_to("nothing")
    (tmp_path / "d").symlink_to("d")
    assert read(tmp_path) == (
        {},
        [
            "MW001 specs/a.yaml: it cannot be read: No such file or directory",
            "MW001 specs/b.yaml: it cannot be read: Too many levels of symbolic links",
        ],
    )


def test_the_folder_may_be_a_link_itself(tmp_path: Path) -> None:
    write(tmp_path / "real", "a.yaml", "b/c.yaml")
    (tmp_path / "real/d.yaml").symlink_to("b/c.yaml")
    (tmp_path / "specs").symlink_to("real")
    assert list(read(tmp_path / "specs")[0]) == ["specs/a.yaml", "specs/b/c.yaml"]


def test_what_is_no_file_never_makes_the_reader_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "link.yaml").symlink_to("fifo.yaml")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(tmp_path, os.O_RDONLY)  # the path of a socket is at most 108 bytes
        listener.bind(f"/proc/self/fd/{here}/socket.yml")
        os.close(here)
        files, found = read(tmp_path)
    assert files == {}
    assert found == [
        "MW001 specs/fifo.yaml: it is a FIFO, not a file",
        "MW001 specs/link.yaml: it is a FIFO, not a file",
        "MW001 specs/socket.yml: it is a socket, not a file",
    ]


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, "most.yaml", data=b"#" * MAX_FILE_BYTES)
    write(tmp_path, "more.yaml", data=b"#" * (MAX_FILE_BYTES + 1))
    write(tmp_path, "10 MB.yaml", data=b"a: 1\n" * 2_000_000)
    with (tmp_path / "sparse.yaml").open("wb") as file:
        file.truncate(1 << 40)
    files, found = read(tmp_path)
    assert [(path, len(data)) for path, data in files.items()] == [("specs/most.yaml", MAX_FILE_BYTES)]
    assert found == [
        "MW002 specs/10 MB.yaml: it has 10000000 bytes",
        "MW002 specs/more.yaml: it has 8388609 bytes",
        "MW002 specs/sparse.yaml: it has 1099511627776 bytes",
    ]


def test_what_may_not_be_read_hides_nothing_else() -> None:
    """Whoever runs the tests may be root, who may read all: a child gives that up."""
    code = (
        "import os, sys; from pathlib import Path; from modelway.sources import read_specs\n"
        "os.getuid() or os.setuid(65534)\n"
        "files, found = read_specs(Path(sys.argv[1]), shown='specs')\n"
        "print([file.path for file in files], [(one.code, one.span.path, one.message) for one in found])"
    )
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name)
        folder.chmod(0o755)
        write(folder, "a.yaml", "b.yaml", "closed/c.yaml")
        (folder / "b.yaml").chmod(0)
        (folder / "closed").chmod(0)
        run = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, timeout=60)
        (folder / "closed").chmod(0o700)
    denied = "it cannot be read: Permission denied"
    found = [("MW001", "specs/b.yaml", denied), ("MW001", "specs/closed", denied)]
    assert run.stdout == f"{['specs/a.yaml']} {found}\n", run.stderr


NAMES = {
    b"plain name.yaml": "plain name.yaml",
    "größe 模型.yaml".encode(): "größe 模型.yaml",
    b"line\nbreak.yaml": r"line\x0abreak.yaml",
    rb"line\x0abreak.yaml": r"line\\x0abreak.yaml",
    b"\x1b[31mred.yaml": r"\x1b[31mred.yaml",
    b"caf\xe9.yaml": r"caf\xe9.yaml",
    b"\x85.yaml": r"\x85.yaml",
    "\x85.yaml".encode(): r"\u0085.yaml",
    "\u202egnp.yaml".encode(): r"\u202egnp.yaml",
    "\U000e0001.yaml".encode(): r"\U000e0001.yaml",
    b"::error file=x::y.yaml": "::error file=x::y.yaml",
    b"%0A<b>.yaml": "%0A<b>.yaml",
}


def test_names_are_safe_to_print_and_stay_apart(tmp_path: Path) -> None:
    for name in NAMES:
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_bytes(name)
    files, found = read(tmp_path)
    assert files == {f"specs/{shown}": name for name, shown in NAMES.items()}
    assert found == []
    assert all(path.isprintable() and path.encode() for path in files)


def test_the_target_of_a_link_is_safe_to_print(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to(b"/etc/../\x1b]0;x\x07\xff/..".decode("utf-8", "surrogateescape"))
    _, (one,) = read_specs(tmp_path, shown="specs")
    assert one.message.isprintable()


def test_printable_keeps_different_names_different() -> None:
    names = ["\n", "\\n", "\\x0a", "\\", "\\\\", "\udc85", "\x85", "\\u0085", "\ue000", "\udcff", "ÿ"]
    assert len({printable(name) for name in names}) == len(names)
    assert all(printable(name).isprintable() for name in names)


def test_one_file(tmp_path: Path) -> None:
    write(tmp_path, "here/modelway.yaml", "other.yaml")
    here = tmp_path / "here"
    assert read_file(here / "modelway.yaml", shown="modelway.yaml") == (
        SourceFile("modelway.yaml", b"a: 1\n"),
        [],
    )
    (here / "link.yaml").symlink_to("modelway.yaml")
    assert read_file(here / "link.yaml", shown="x") == (SourceFile("x", b"a: 1\n"), [])
    (here / "out.yaml").symlink_to("../other.yaml")
    os.mkfifo(here / "fifo.yaml")
    write(here, "large.yaml", data=b" " * (MAX_FILE_BYTES + 1))
    (here / "dangling.yaml").symlink_to("nothing")
    for name, code in (("out", "MW003"), ("fifo", "MW001"), ("large", "MW002"), ("dangling", "MW001")):
        source, (one,) = read_file(here / f"{name}.yaml", shown="x")
        assert (source, one.code, one.span.path) == (None, code, "x")
    assert read_file(here, shown="x")[1][0].message == "it is a folder, not a file"
    with pytest.raises(FileNotFoundError):
        read_file(here / "nothing.yaml", shown="x")


def test_one_file_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "modelway.yaml")
    monkeypatch.chdir(tmp_path)
    assert read_file(Path("modelway.yaml"), shown="modelway.yaml")[0] is not None
