"""S3 against a real server; Google's store by its HTTP interface, which the emulator variable leads to here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from modelway_runtime.serving import sources, streams
from modelway_runtime.serving.sources import SourceError, fetch
from tests.runtime.sources.web import WEIGHTS, Answer, Handler, Web, body, sha256

DIGEST = sha256(WEIGHTS)
SECRET = "geheimgeheimgeheim"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """An S3 server with one bucket."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    client = boto3.client(
        "s3", "us-east-1", endpoint_url=url, aws_access_key_id="someone", aws_secret_access_key=SECRET
    )
    client.create_bucket(Bucket="shop-models")
    client.put_object(Bucket="shop-models", Key="ranker/46/ranker.onnx", Body=WEIGHTS)
    client.put_object(Bucket="shop-models", Key="a b/caf\xe9+%20.onnx", Body=b"odd")
    client.put_object(Bucket="shop-models", Key="empty.onnx", Body=b"")
    client.close()
    yield url
    server.stop()


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(streams, "STALL_S", 2.0)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_GCE_CHECK", "true")


@pytest.mark.parametrize("range_bytes", [2**24, 100_000], ids=["one range", "several ranges"])
def test_an_object_of_s3(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, range_bytes: int) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    monkeypatch.setattr(streams, "_RANGE_BYTES", range_bytes)
    monkeypatch.setattr(sources, "_CHUNK_BYTES", range_bytes // 2)
    told: list[tuple[int, int | None]] = []
    path = fetch(
        "s3://shop-models/ranker/46/ranker.onnx",
        DIGEST,
        tmp_path / "models",
        progress=lambda *x: told.append(x),
    )
    assert path == tmp_path / "models" / "ranker.onnx"
    assert path.read_bytes() == WEIGHTS
    assert told[-1] == (len(WEIGHTS), len(WEIGHTS))


def test_odd_keys_are_taken_as_they_are_written(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    assert fetch("s3://shop-models/a b/caf\xe9+%20.onnx", None, tmp_path).name == "caf\xe9+%20.onnx"
    assert fetch("s3://shop-models/empty.onnx", None, tmp_path).read_bytes() == b""


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("s3://shop-models/ranker/46/other.onnx", "does not exist"),
        ("s3://no-such-bucket/x.onnx", "does not exist"),
        ("s3://shop-models/ranker/46", "is a folder"),
        ("s3://shop-models/ranker/46/ranker.onnx", "not sha256:"),
    ],
)
def test_an_object_of_s3_that_is_not_there(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, text: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    with pytest.raises(SourceError, match=text):
        fetch(source, sha256(b"other"), tmp_path / "models")
    assert os.listdir(tmp_path / "models") == []


def test_credentials_that_are_refused_or_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Web({"/b/x.onnx": [body(b"", 403)], "/b": [body(b"", 403)]}) as web:
        monkeypatch.setenv("AWS_ENDPOINT_URL", web.url)
        with pytest.raises(SourceError, match="the pod's credentials may read") as caught:
            fetch("s3://b/x.onnx", None, tmp_path / "models")
        assert SECRET not in str(caught.value)
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(SourceError, match="Unable to locate credentials"):
            fetch("s3://b/x.onnx", None, tmp_path / "models")


def ranges(handler: Handler) -> None:
    first, last = handler.headers["Range"].removeprefix("bytes=").split("-")
    handler.reply(206, WEIGHTS[int(first) : int(last) + 1])


def described(handler: Handler) -> None:
    meta = {
        "kind": "storage#object",
        "name": "ranker/ranker.onnx",
        "bucket": "shop-models",
        "size": str(len(WEIGHTS)),
        "generation": "1",
        "updated": "2026-01-01T00:00:00.000Z",
        "timeCreated": "2026-01-01T00:00:00.000Z",
        "mediaLink": f"{handler.server.web.url}/download",
    }
    handler.reply(200, json.dumps(meta).encode(), {"Content-Type": "application/json"})


_OBJECT = "/b/shop-models/o/ranker%2Franker.onnx"


def test_an_object_of_google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = body(b'{"error": {"code": 503, "message": "busy"}}', 503)
    answers: dict[str, list[Answer]] = {
        f"/storage/v1{_OBJECT}": [described],
        f"/download/storage/v1{_OBJECT}": [busy, ranges],
    }
    monkeypatch.setattr(streams, "_RANGE_BYTES", 100_000)
    monkeypatch.setattr(sources, "_CHUNK_BYTES", 200_000)
    with Web(answers) as web:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", web.url)
        path = fetch("gs://shop-models/ranker/ranker.onnx", DIGEST, tmp_path / "models")
    asked = [one.headers["range"] for one in web.said(f"/download/storage/v1{_OBJECT}")]
    assert asked[0] == asked[1], "a busy store is asked again"
    assert len(asked) >= 4
    assert path.read_bytes() == WEIGHTS


def test_an_object_of_google_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing, refused = body(b'{"error": {"code": 404}}', 404), body(b'{"error": {"code": 403}}', 403)
    with Web() as web:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", web.url)
        for answer, text in ((missing, "does not exist"), (refused, "Forbidden.*the pod's credentials")):
            web.answers = {"/storage/v1/b/shop-models/o": [answer], f"/storage/v1{_OBJECT}": [answer]}
            with pytest.raises(SourceError, match=text):
                fetch("gs://shop-models/ranker/ranker.onnx", None, tmp_path / "models")
    assert os.listdir(tmp_path / "models") == []
