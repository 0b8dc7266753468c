"""Images and artifacts in a real registry."""

from __future__ import annotations

import gzip
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelway_runtime.serving import oci, sources
from modelway_runtime.serving.sources import SourceError, fetch
from tests.runtime.sources import registry
from tests.runtime.sources.registry import TAR, Layer, Repository, link, packed, tar, tar_of
from tests.runtime.sources.web import WEIGHTS, Web, body, redirect, sha256

DIGEST = sha256(WEIGHTS)
ONNX = "application/vnd.modelway.weights.onnx"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry.serving(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture
def repository(host: str, request: pytest.FixtureRequest) -> Repository:
    return Repository(host, f"shop/t{abs(hash(request.node.name))}")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sources, "PAUSES_S", (0.0, 0.0))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


def refused(
    source: str, folder: Path, text: str, name: str | None = None, digest: str | None = DIGEST
) -> None:
    with pytest.raises(SourceError, match=text):
        fetch(source, digest, folder, name=name)
    assert not folder.exists() or os.listdir(folder) == []
    assert not (folder.parent / "evil").exists()


@pytest.mark.parametrize("digest", [DIGEST, None])
def test_a_pushed_file_has_its_title(repository: Repository, tmp_path: Path, digest: str | None) -> None:
    layers = [
        repository.blob(b"{}", "application/json", "config.json"),
        repository.blob(WEIGHTS, ONNX, "r.onnx"),
    ]
    pushed = repository.manifest("1", layers, artifactType="application/vnd.modelway.model")
    for number, end in enumerate((":1", f"@{pushed['digest']}", f":1@{pushed['digest']}")):
        path = fetch(repository.source + end, digest, tmp_path / str(number))
        assert path == tmp_path / str(number) / "r.onnx"
        assert path.read_bytes() == WEIGHTS


def test_without_a_tag_the_latest_is_meant(repository: Repository, tmp_path: Path) -> None:
    repository.manifest("latest", [repository.blob(WEIGHTS, TAR, "r.onnx")])
    assert fetch(repository.source, DIGEST, tmp_path).read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("media_type", "name"), [(ONNX, "model.onnx"), ("application/x-safetensors", "model.safetensors")]
)
def test_a_file_without_a_title(repository: Repository, tmp_path: Path, media_type: str, name: str) -> None:
    repository.manifest("1", [repository.blob(WEIGHTS, media_type)])
    assert fetch(f"{repository.source}:1", DIGEST, tmp_path).name == name


def test_the_caller_names_the_file(repository: Repository, tmp_path: Path) -> None:
    layers = [repository.blob(WEIGHTS, ONNX, "models/a.onnx"), repository.blob(b"other", ONNX, "b.onnx")]
    repository.manifest("1", layers)
    assert fetch(f"{repository.source}:1", DIGEST, tmp_path, name="a.onnx").read_bytes() == WEIGHTS
    assert fetch(f"{repository.source}:1", None, tmp_path, name="b.onnx").read_bytes() == b"other"
    refused(f"{repository.source}:1", tmp_path / "m", "holds no models/model.onnx.*'b.onnx', 'models/a.onnx'")


@pytest.mark.parametrize("title", ["../../evil", "/tmp/evil", "a/../../evil"])
def test_a_title_stays_in_the_folder(repository: Repository, tmp_path: Path, title: str) -> None:
    repository.manifest("1", [repository.blob(WEIGHTS, ONNX, title)])
    assert fetch(f"{repository.source}:1", DIGEST, tmp_path / "m") == tmp_path / "m" / "evil"


@pytest.mark.parametrize("title", ["..", ".evil", "evil/", "a\nb"])
def test_a_title_that_is_no_name(repository: Repository, tmp_path: Path, title: str) -> None:
    repository.manifest("1", [repository.blob(WEIGHTS, ONNX, title)])
    refused(f"{repository.source}:1", tmp_path / "m", "no plain name")


@pytest.mark.parametrize("packing", ["", "+gzip", ".gzip"])
@pytest.mark.parametrize("prefix", ["", "./", "/"])
def test_a_file_of_an_image(repository: Repository, tmp_path: Path, packing: str, prefix: str) -> None:
    data = tar(
        {
            "etc/model.onnx": b"no",
            f"{prefix}models/model.onnx": WEIGHTS,
            "../../evil": b"no",
            "models/z": b"no",
        }
    )
    data += b"\0" * 50_000  # a tar may be padded, and its digest covers that
    layer = repository.blob(packed(data) if packing else data, TAR + packing)
    upper = repository.blob(tar({"models/README": b"no"}), TAR)
    repository.manifest("1", [layer, upper])
    told: list[tuple[int, int | None]] = []
    path = fetch(f"{repository.source}:1", DIGEST, tmp_path / "m", progress=lambda *x: told.append(x))
    assert path == tmp_path / "m" / "model.onnx"
    assert path.read_bytes() == WEIGHTS
    assert told[-1] == (len(WEIGHTS), len(WEIGHTS))
    assert not (tmp_path / "evil").exists()


def test_the_upper_layer_is_what_is_seen(repository: Repository, tmp_path: Path) -> None:
    layers = [
        repository.blob(tar({"models/r.onnx": b"old"}), TAR),
        repository.blob(tar({"models/.wh..wh..opq": b"", "models/r.onnx": WEIGHTS}), TAR),
    ]
    repository.manifest("1", layers)
    assert fetch(f"{repository.source}:1", DIGEST, tmp_path, name="r.onnx").read_bytes() == WEIGHTS


@pytest.mark.parametrize("path", ["models/.wh.r.onnx", "models/.wh..wh..opq", ".wh.models"])
def test_a_file_that_a_layer_removes_is_gone(repository: Repository, tmp_path: Path, path: str) -> None:
    layers = [repository.blob(tar({"models/r.onnx": WEIGHTS}), TAR), repository.blob(tar({path: b""}), TAR)]
    repository.manifest("1", layers)
    refused(f"{repository.source}:1", tmp_path / "m", "a layer removes models/r.onnx", "r.onnx")


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_what_is_no_regular_file_is_refused(repository: Repository, tmp_path: Path, kind: bytes) -> None:
    data = tar({"models/other": WEIGHTS, "models/model.onnx": link("models/other", kind)})
    repository.manifest("1", [repository.blob(data, TAR)])
    refused(f"{repository.source}:1", tmp_path / "m", "no regular file")


@pytest.mark.parametrize(
    ("data", "media_type", "text"),
    [
        (tar({"model.onnx": WEIGHTS, "models/sub/model.onnx": WEIGHTS}), TAR, "holds no models/model.onnx"),
        (tar_of([("models/model.onnx", WEIGHTS), ("./models/model.onnx", b"x")]), TAR, "twice"),
        (tar({"models/model.onnx": WEIGHTS})[:5000], TAR, "no readable tar"),
        (packed(tar({"models/model.onnx": WEIGHTS}))[:2000], TAR + "+gzip", "no readable tar"),
        (b"no tar at all" * 100, TAR, "no readable tar"),
        (b"no gzip at all" * 100, TAR + "+gzip", "no readable tar"),
        (b"(\xb5/\xfd", TAR + "+zstd", "packed with zstd"),
    ],
)
def test_layers_that_do_not_hold_the_file(
    repository: Repository, tmp_path: Path, data: bytes, media_type: str, text: str
) -> None:
    repository.manifest("1", [repository.blob(data, media_type)])
    refused(f"{repository.source}:1", tmp_path / "m", text, digest=None)


def test_a_folder_that_was_pushed_is_a_tar(repository: Repository, tmp_path: Path) -> None:
    data = gzip.compress(tar({"models/r.onnx": WEIGHTS}))
    layer = repository.blob(data, TAR + "+gzip", "models", **{"io.deis.oras.content.unpack": "true"})
    repository.manifest("1", [repository.blob(b"read me", "text/markdown", "README.md"), layer])
    assert fetch(f"{repository.source}:1", DIGEST, tmp_path, name="r.onnx").read_bytes() == WEIGHTS


def _platform(layer: Layer, system: str, architecture: str) -> Layer:
    return {**layer, "platform": {"os": system, "architecture": architecture}}


def test_an_index_leads_to_the_image(repository: Repository, tmp_path: Path) -> None:
    arm = repository.manifest("arm", [repository.blob(b"arm", ONNX, "r.onnx")])
    amd = repository.manifest("amd", [repository.blob(WEIGHTS, ONNX, "r.onnx")])
    proof = repository.manifest("proof", [repository.blob(b"{}", "application/vnd.in-toto+json")])
    unknown = _platform(proof, "unknown", "unknown")
    repository.index("many", [_platform(arm, "linux", "arm64"), _platform(amd, "linux", "amd64"), unknown])
    repository.index("one", [amd, unknown])
    repository.index("unclear", [arm, amd])
    pushed = repository.index("deep", [repository.index("inner", [amd])])
    for tag in ("many", "one"):
        assert fetch(f"{repository.source}:{tag}", DIGEST, tmp_path / tag).read_bytes() == WEIGHTS
    refused(f"{repository.source}:unclear", tmp_path / "m", "no linux/amd64")
    refused(f"{repository.source}@{pushed['digest']}", tmp_path / "m", "has no layers")


def test_a_kept_file_is_not_read_again(repository: Repository, tmp_path: Path) -> None:
    repository.manifest("1", [repository.blob(WEIGHTS, ONNX, "r.onnx")])
    first = fetch(f"{repository.source}:1", DIGEST, tmp_path)
    before = first.stat().st_ino
    told: list[object] = []
    assert fetch(f"{repository.source}:1", DIGEST, tmp_path, progress=lambda *x: told.append(x)) == first
    assert first.stat().st_ino == before
    assert told == []
    assert os.listdir(tmp_path) == ["r.onnx"]
    assert fetch("oci://127.0.0.1:1/gone", DIGEST, tmp_path, name="r.onnx") == first


def test_what_is_not_there(repository: Repository, tmp_path: Path) -> None:
    repository.manifest("1", [repository.blob(WEIGHTS, ONNX, "r.onnx")])
    refused(f"{repository.source}:2", tmp_path / "m", "manifests/2 does not exist")
    refused(f"{repository.source}@{sha256(b'nothing')}", tmp_path / "m", "does not exist")
    refused(f"{repository.source}:1", tmp_path / "m", "not sha256:", digest=sha256(b"other"))
    with pytest.raises(SourceError, match="not sha256:"):
        fetch(f"{repository.source}:1", sha256(b"other"), tmp_path)


@pytest.mark.parametrize(
    "source",
    [
        "oci://host", "oci://host/", "oci://host/UPPER", "oci://host/a/../b", "oci://host/a:", "oci://host/a@sha256:1",
        "oci://user:geheim@host/a", "oci://host/a?b", "oci://host/a//b", "oci://host/a:b:c", "oci:host/a",
    ],
)  # fmt: skip
def test_references_that_are_none(tmp_path: Path, source: str) -> None:
    with pytest.raises(SourceError, match="is no oci://HOST/REPOSITORY") as caught:
        fetch(source, None, tmp_path)
    assert "geheim" not in str(caught.value)


def test_references() -> None:
    pin = "@" + DIGEST
    assert oci.parse("oci://ghcr.io/shop/ranker:46.1.0" + pin) == ("ghcr.io", "shop/ranker", DIGEST)
    assert oci.parse("oci://r.example:5000/a__b/c-d:v1_2") == ("r.example:5000", "a__b/c-d", "v1_2")
    assert oci.parse("oci://docker.io/busybox") == ("registry-1.docker.io", "library/busybox", "latest")
    assert oci.parse("oci://[::1]:5000/a") == ("[::1]:5000", "a", "latest")


_PATH = "/v2/shop/r"


def _served(layer: bytes, claimed: str, media_type: str = ONNX) -> tuple[bytes, dict[str, list[object]]]:
    manifest = (
        f'{{"schemaVersion": 2, "layers": [{{"mediaType": "{media_type}", "digest": "{claimed}", "size": 1}}]}}'
    ).encode()
    return manifest, {f"{_PATH}/manifests/1": [body(manifest)], f"{_PATH}/blobs/{claimed}": [body(layer)]}


@pytest.mark.parametrize("packing", [None, "tar"])
def test_a_registry_that_changes_a_layer(tmp_path: Path, packing: str | None) -> None:
    """A bit flipped beside the weights too: behind them in the tar."""
    good = tar({"models/model.onnx": WEIGHTS, "models/z": b"z" * 1000}) if packing else WEIGHTS
    bad = bytearray(good)
    bad[-600 if not packing else good.rindex(b"z")] ^= 1
    _, answers = _served(bytes(bad), sha256(good), TAR if packing else ONNX)
    with Web(answers) as web:  # type: ignore[arg-type]
        refused(f"oci://{web.host}/shop/r:1", tmp_path / "m", "the registry or the way to it", digest=None)
        assert len(web.asked) == 2, "a wrong layer is not asked for again"


@pytest.mark.parametrize("claimed", ["sha512:" + "0" * 128, "", "sha256:../../../evil"])
def test_a_layer_without_a_digest(tmp_path: Path, claimed: str) -> None:
    _, answers = _served(WEIGHTS, claimed)
    with Web(answers) as web:  # type: ignore[arg-type]
        refused(f"oci://{web.host}/shop/r:1", tmp_path / "m", "digest is no sha256", digest=None)


def test_a_registry_that_changes_a_manifest(tmp_path: Path) -> None:
    manifest, answers = _served(WEIGHTS, DIGEST)
    pinned = sha256(manifest)
    answers[f"{_PATH}/manifests/{pinned}"] = [body(manifest + b" ")]
    with Web(answers) as web:  # type: ignore[arg-type]
        refused(f"oci://{web.host}/shop/r@{pinned}", tmp_path / "m", f"the manifest is not {pinned}")


@pytest.mark.parametrize(
    "text", [b"<html>", b"[]", b"{}", b'{"layers": []}', b'{"layers": [{}]}', b"\xff", b"0" * (5 * 2**20)]
)
def test_manifests_that_are_none(tmp_path: Path, text: bytes) -> None:
    with Web({f"{_PATH}/manifests/1": [body(text)]}) as web:
        refused(f"oci://{web.host}/shop/r:1", tmp_path / "m", "JSON|no linux/amd64|holds no|more than")


def test_a_busy_registry_is_asked_again(tmp_path: Path) -> None:
    manifest, answers = _served(WEIGHTS, DIGEST)
    answers[f"{_PATH}/manifests/1"] = [body(b"", 503), body(manifest)]
    answers[f"{_PATH}/blobs/{DIGEST}"].insert(0, body(b"", 429))
    with Web(answers) as web:  # type: ignore[arg-type]
        assert fetch(f"oci://{web.host}/shop/r:1", DIGEST, tmp_path).read_bytes() == WEIGHTS


def test_a_layer_in_another_store(tmp_path: Path) -> None:
    _, answers = _served(WEIGHTS, DIGEST)
    with Web({"/signed": [body(WEIGHTS)]}) as store, Web(answers) as web:  # type: ignore[arg-type]
        web.answers[f"{_PATH}/blobs/{DIGEST}"] = [redirect(f"{store.url}/signed?signature=1")]
        assert fetch(f"oci://{web.host}/shop/r:1", DIGEST, tmp_path).read_bytes() == WEIGHTS
