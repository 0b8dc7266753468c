"""What holds for every source: the whole file under its name with its digest, or nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from modelway_runtime.serving import sources
from modelway_runtime.serving.sources import SourceError, fetch, local_path, verify
from modelway_runtime.serving.streams import open_file
from tests.runtime.sources.web import WEIGHTS, Web, body, sha256, stalled

DIGEST = sha256(WEIGHTS)
OTHER = sha256(b"other")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "store" / "ranker.onnx"
    path.parent.mkdir()
    path.write_bytes(WEIGHTS)
    return path


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.mark.parametrize("digest", [DIGEST, None])
def test_a_file_is_copied_under_its_name(weights: Path, tmp_path: Path, digest: str | None) -> None:
    path = fetch(weights.as_uri(), digest, tmp_path / "models")
    assert path == tmp_path / "models" / "ranker.onnx"
    assert path.read_bytes() == WEIGHTS
    assert path.stat().st_mode & 0o777 == 0o644
    assert names(tmp_path / "models") == ["ranker.onnx"]


def test_the_caller_names_the_file(weights: Path, tmp_path: Path) -> None:
    assert fetch(weights.as_uri(), DIGEST, tmp_path, name="model.onnx").name == "model.onnx"
    assert names(tmp_path) == ["model.onnx", "store"]


@pytest.mark.parametrize("name", ["..", ".", ".hidden", "a/..", "x/", "new\nline", "n" * 256])
def test_a_name_that_is_no_plain_name_is_refused(weights: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match="no plain name"):
        fetch(weights.as_uri(), DIGEST, tmp_path / "models", name=name)
    assert not (tmp_path / "models").exists()


def test_a_folder_before_the_name_is_dropped(weights: Path, tmp_path: Path) -> None:
    assert fetch(weights.as_uri(), DIGEST, tmp_path, name="../../x.onnx") == tmp_path / "x.onnx"


def test_a_flipped_bit_is_refused_and_nothing_stays(weights: Path, tmp_path: Path) -> None:
    changed = bytearray(WEIGHTS)
    changed[len(changed) // 2] ^= 1
    weights.write_bytes(changed)
    with pytest.raises(SourceError, match=rf"{sha256(bytes(changed))}, not {DIGEST}"):
        fetch(weights.as_uri(), DIGEST, tmp_path / "models")
    assert names(tmp_path / "models") == []


def test_a_refused_file_does_not_replace_the_one_that_is_there(weights: Path, tmp_path: Path) -> None:
    there = tmp_path / "ranker.onnx"
    there.write_bytes(b"before")
    with pytest.raises(SourceError):
        fetch(weights.as_uri(), OTHER, tmp_path)
    assert there.read_bytes() == b"before"


def test_a_right_file_is_kept_though_the_source_is_gone(weights: Path, tmp_path: Path) -> None:
    first = fetch(weights.as_uri(), DIGEST, tmp_path)
    before = first.stat()
    weights.unlink()
    assert fetch(weights.as_uri(), DIGEST, tmp_path) == first
    assert first.stat().st_ino == before.st_ino


def test_a_wrong_file_is_replaced(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "ranker.onnx").write_bytes(b"wrong")
    assert fetch(weights.as_uri(), DIGEST, tmp_path).read_bytes() == WEIGHTS


def test_a_link_is_replaced_not_followed(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "ranker.onnx").symlink_to(weights)
    path = fetch(weights.as_uri(), DIGEST, tmp_path / "models")
    assert not path.is_symlink()
    assert path.read_bytes() == WEIGHTS


def test_without_a_digest_the_file_is_fetched_anew(weights: Path, tmp_path: Path) -> None:
    fetch(weights.as_uri(), None, tmp_path)
    weights.write_bytes(b"newer")
    assert fetch(weights.as_uri(), None, tmp_path).read_bytes() == b"newer"


@pytest.mark.parametrize(
    "digest", ["", "sha256:abc", DIGEST.upper(), DIGEST[7:], "md5:" + "0" * 64, DIGEST + "\n"]
)
def test_a_digest_that_is_none_is_refused(weights: Path, tmp_path: Path, digest: str) -> None:
    with pytest.raises(SourceError, match="is no digest"):
        fetch(weights.as_uri(), digest, tmp_path)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("file:missing/x.onnx", "No such file"),
        ("file:/dev/zero", "not a regular file"),
        ("file:.", "no plain name"),
        ("file:", "names no file"),
        ("file:///", "no plain name"),
        ("file://elsewhere/x.onnx", "names another host"),
        ("ftp://host/x.onnx", "'ftp' is no scheme"),
        ("x.onnx", "is no scheme"),
        ("http://user:geheim@127.0.0.1/x.onnx", "no user or password"),
        ("http://127.0.0.1/", "no plain name"),
        ("http://[::1/x.onnx", "no URL"),
    ],
)
def test_sources_that_name_nothing(tmp_path: Path, source: str, text: str) -> None:
    with pytest.raises(SourceError, match=text) as caught:
        fetch(source, None, tmp_path / "models")
    assert "geheim" not in str(caught.value)
    assert not (tmp_path / "models").exists() or names(tmp_path / "models") == []


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(SourceError, match="not a regular file"):
        fetch((tmp_path / "pipe.onnx").as_uri(), None, tmp_path / "models")


def test_a_folder_that_cannot_be_written(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "models").write_bytes(b"a file")
    with pytest.raises(SourceError, match=r"cannot write to .*models"):
        fetch(weights.as_uri(), DIGEST, tmp_path / "models")


def test_a_folder_in_the_place_of_the_file(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / "ranker.onnx").mkdir(parents=True)
    with pytest.raises(SourceError, match=r"cannot write to .*models: Is a directory"):
        fetch(weights.as_uri(), DIGEST, tmp_path / "models")
    assert names(tmp_path / "models") == ["ranker.onnx"]


def test_a_full_disk_is_said(weights: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with (
        closing(open_file(weights)) as stream,
        full.open("wb", buffering=0) as part,
        pytest.raises(SourceError, match="No space left"),
    ):
        sources._copy(weights.as_uri(), stream, part, None)


def test_progress_is_told_seldom_and_at_the_end(weights: Path, tmp_path: Path) -> None:
    weights.write_bytes(b"\0" * (40 * 2**20))
    told: list[tuple[int, int | None]] = []
    fetch(weights.as_uri(), None, tmp_path, progress=lambda *now: told.append(now))
    assert told[-1] == (40 * 2**20, 40 * 2**20)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len(told) <= 2 + 10 * 5


def test_an_interrupt_leaves_nothing(weights: Path, tmp_path: Path) -> None:
    def interrupt(done: int, total: int | None) -> None:
        assert [name for name in names(tmp_path / "models") if name.startswith(".")]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(weights.as_uri(), DIGEST, tmp_path / "models", progress=interrupt)
    assert names(tmp_path / "models") == []


def _started(url: str, folder: Path) -> subprocess.Popen[bytes]:
    """A fetch in a process of its own, once it has written something."""
    code = "import sys; from pathlib import Path; from modelway_runtime.serving.sources import fetch; "
    code += "fetch(sys.argv[1], sys.argv[2], Path(sys.argv[3]), progress=lambda *now: print(flush=True))"
    process = subprocess.Popen([sys.executable, "-c", code, url, DIGEST, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"\n", "the fetch ended before it began"
    return process


def test_a_killed_fetch_leaves_no_file_and_the_next_one_succeeds(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    with Web({"/ranker.onnx": [stalled(WEIGHTS), body(WEIGHTS)]}) as web:
        process = _started(f"{web.url}/ranker.onnx", folder)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=10)
        left = names(folder)
        assert len(left) == 1, "the kill came too late to prove anything"
        assert left[0].startswith(".")
        assert fetch(f"{web.url}/ranker.onnx", DIGEST, folder).read_bytes() == WEIGHTS
    assert names(folder) == ["ranker.onnx"]


def test_a_fetch_beside_another_lets_its_file_be(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    with Web({"/ranker.onnx": [stalled(WEIGHTS), body(WEIGHTS)]}) as web:
        process = _started(f"{web.url}/ranker.onnx", folder)
        try:
            other = names(folder)
            assert fetch(f"{web.url}/ranker.onnx", DIGEST, folder).read_bytes() == WEIGHTS
            assert names(folder) == [*other, "ranker.onnx"]
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=10)
        finally:
            process.kill()
            process.communicate()
    assert names(folder) == ["ranker.onnx"], "an interrupted fetch removes its own file"


def test_retries_are_counted_and_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PAUSES_S", (0.05, 0.1))
    begin = time.monotonic()
    with Web({"/x.onnx": [body(b"", 503)]}) as web:
        with pytest.raises(SourceError, match=r"answered 503; .* \(3 attempts\)"):
            fetch(f"{web.url}/x.onnx", DIGEST, tmp_path)
        assert len(web.asked) == 3
    assert time.monotonic() - begin >= 0.15
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///a/b.onnx", "/a/b.onnx"),
        ("file:/a/b.onnx", "/a/b.onnx"),
        ("file:a/b.onnx", "a/b.onnx"),
        ("file://localhost/a", "/a"),
        ("file:a%20b%2Fc", "a b/c"),
        ("file:caf%C3%A9", "café"),
        ("file:/100%25", "/100%"),
        ("s3://bucket/file:", None),
        ("https://host/x", None),
        ("FILE:x", None),
    ],
)
def test_local_paths(uri: str, path: str | None) -> None:
    assert local_path(uri) == (None if path is None else Path(path))


def test_bytes_that_are_no_utf8_name_a_file_too(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))).write_bytes(WEIGHTS)
    found = local_path(f"file:{tmp_path}/%FF")
    assert found is not None
    assert found.read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    "uri", ["file:", "file://", "file:a%00b", "file://host", "file://user:geheim@host/x"]
)
def test_file_uris_that_name_nothing(uri: str) -> None:
    with pytest.raises(SourceError) as caught:
        local_path(uri)
    assert "geheim" not in str(caught.value)


def test_verify(weights: Path, tmp_path: Path) -> None:
    verify(weights, DIGEST)
    verify(tmp_path / "missing", None)
    with pytest.raises(SourceError, match=f"{DIGEST}, not {OTHER}"):
        verify(weights, OTHER)
    with pytest.raises(SourceError, match="No such file"):
        verify(tmp_path / "missing", DIGEST)
    with pytest.raises(SourceError, match="is no digest"):
        verify(weights, "sha256:x")
