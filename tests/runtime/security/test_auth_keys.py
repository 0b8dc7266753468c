"""API keys: real files, rotated while in use."""

from __future__ import annotations

import json
import os
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from modelway_runtime.serving.auth import Authenticator, make_authenticator, new_key
from modelway_runtime.serving.errors import InferenceError
from modelway_runtime.serving.watch import MAX_BYTES, ConfigError
from modelway_runtime.settings import ApiKeyAuth, NoAuth


def entry(key: str, client: str = "checkout", **more: Any) -> dict[str, Any]:
    return {"client": client, "sha256": sha256(key.encode()).hexdigest(), **more}


def write(path: Path, *entries: dict[str, Any]) -> None:
    path.write_text(json.dumps({"keys": entries}))


def serving(path: Path, *entries: dict[str, Any]) -> Authenticator:
    write(path, *entries)
    return make_authenticator(ApiKeyAuth(keys_file=str(path)))


def refused(authenticator: Authenticator, authorization: bytes | str | None) -> str:
    with pytest.raises(InferenceError) as caught:
        authenticator.authenticate(authorization)
    assert (caught.value.status, caught.value.reason) == (401, "unauthorized")
    return caught.value.message


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_without_authentication_everybody_is_the_same_client() -> None:
    authenticator = make_authenticator(NoAuth())
    client = authenticator.authenticate(None)
    assert client is authenticator.authenticate(b"Bearer whatever")
    assert (client.name, client.models, client.admin, client.rate) == ("anonymous", None, True, None)
    assert authenticator.refresh() is None


def test_a_new_key_has_256_random_bits_and_its_digest_lets_it_in(file: Path) -> None:
    key, digest = new_key()
    assert re.fullmatch(r"mw_[A-Za-z0-9_-]{43}", key)
    assert len({new_key()[0] for _ in range(100)}) == 100
    authenticator = serving(file, {"client": "checkout", "sha256": digest})
    assert authenticator.authenticate(f"Bearer {key}").name == "checkout"


def test_a_key_gives_what_the_file_says(file: Path) -> None:
    authenticator = serving(
        file,
        entry("one", models=["ranker"], requests_per_second=10, burst=3, admin=True),
        entry("two", client="search"),
    )
    checkout = authenticator.authenticate(b"Bearer one")
    assert (checkout.name, checkout.models, checkout.admin) == ("checkout", {"ranker"}, True)
    assert checkout.rate is not None
    assert [checkout.rate.take() == 0.0 for _ in range(4)] == [True, True, True, False]
    search = authenticator.authenticate(b"Bearer two")
    assert (search.name, search.models, search.admin, search.rate) == ("search", None, False, None)
    assert authenticator.authenticate(b"Bearer one") is checkout


def test_the_scheme_may_be_written_in_any_case(file: Path) -> None:
    authenticator = serving(file, entry("one"))
    for header in (b"bearer one", "BEARER one", b"Bearer   one "):
        assert authenticator.authenticate(header).name == "checkout"


@pytest.mark.parametrize(
    "header",
    [None, b"", "", b"Bearer", b"Bearer ", b"Basic b25lOg==", b"one", b"Bearer\tone", b"Bearer one two",
     b"Bearer oneone", b"Bearer \xff\xfe", "Bearer \udcff", "Bearer ключ", b"Bearer " + b"x" * 100_000],
)  # fmt: skip
def test_other_headers_are_refused(file: Path, header: bytes | str | None) -> None:
    message = refused(serving(file, entry("one")), header)
    assert "one" not in message.split()


def test_the_digest_is_no_key(file: Path) -> None:
    authenticator = serving(file, entry("one"))
    refused(authenticator, "Bearer " + sha256(b"one").hexdigest())
    refused(authenticator, b"Bearer " + sha256(b"one").digest())


def test_an_expired_key_is_refused(file: Path) -> None:
    authenticator = serving(
        file,
        entry("old", expires="2001-01-01T00:00:00Z"),
        entry("new", expires="2999-01-01T00:00:00+02:00"),
    )
    assert refused(authenticator, b"Bearer old") == refused(authenticator, b"Bearer unknown")
    assert authenticator.authenticate(b"Bearer new").name == "checkout"


def test_keys_rotate_without_a_restart(file: Path) -> None:
    authenticator = serving(file, entry("old"))
    refused(authenticator, b"Bearer new")
    write(file, entry("old"), entry("new"))
    assert authenticator.refresh() is None
    assert authenticator.authenticate(b"Bearer old").name == authenticator.authenticate(b"Bearer new").name
    write(file, entry("new"))
    assert authenticator.refresh() is None
    refused(authenticator, b"Bearer old")
    assert authenticator.authenticate(b"Bearer new").name == "checkout"
    write(file, entry("old"))  # and back
    assert authenticator.refresh() is None
    refused(authenticator, b"Bearer new")
    assert authenticator.authenticate(b"Bearer old").name == "checkout"


def test_a_secret_mount_is_followed(tmp_path: Path) -> None:
    """Kubernetes swaps a symbolic link to a folder; size and time of the file may stay the same."""
    for name, key in (("v1", "old"), ("v2", "new")):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "keys.json", entry(key))
        os.utime(tmp_path / name / "keys.json", (1e9, 1e9))
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "keys.json").symlink_to("..data/keys.json")
    authenticator = make_authenticator(ApiKeyAuth(keys_file=str(tmp_path / "keys.json")))
    (tmp_path / "next").symlink_to("v2")
    (tmp_path / "next").rename(tmp_path / "..data")
    assert authenticator.refresh() is None
    refused(authenticator, b"Bearer old")
    assert authenticator.authenticate(b"Bearer new").name == "checkout"


def test_a_broken_file_keeps_the_keys_and_is_reported_once(file: Path) -> None:
    authenticator = serving(file, entry("one"))
    file.write_text('{"keys": [')
    assert "truncated" in (authenticator.refresh() or "")
    assert authenticator.refresh() is None
    file.unlink()
    assert "No such file" in (authenticator.refresh() or "")
    assert authenticator.authenticate(b"Bearer one").name == "checkout"
    write(file, entry("two"))
    assert authenticator.refresh() is None
    assert authenticator.authenticate(b"Bearer two").name == "checkout"
    refused(authenticator, b"Bearer one")


def test_a_rotation_keeps_the_limit_that_is_used_up(file: Path) -> None:
    limit = {"requests_per_second": 0.001, "burst": 1}
    authenticator = serving(file, entry("old", **limit), entry("new", **limit))
    old, new = (authenticator.authenticate(f"Bearer {key}").rate for key in ("old", "new"))
    assert old is not None
    assert old is new
    assert old.take() == 0.0
    write(file, entry("new", **limit), entry("other", client="other"))
    assert authenticator.refresh() is None
    kept = authenticator.authenticate(b"Bearer new").rate
    assert kept is not None
    assert kept.take() > 0
    write(file, entry("new", requests_per_second=0.001, burst=2))
    assert authenticator.refresh() is None
    changed = authenticator.authenticate(b"Bearer new").rate
    assert changed is not None
    assert changed.take() == 0.0


def test_the_burst_is_a_second_s_worth_unless_given(file: Path) -> None:
    authenticator = serving(
        file, entry("a", client="a", requests_per_second=4), entry("b", client="b", requests_per_second=0.1)
    )
    for key, burst in (("a", 4), ("b", 1)):
        rate = authenticator.authenticate(f"Bearer {key}").rate
        assert rate is not None
        assert [rate.take() == 0.0 for _ in range(burst + 1)] == [True] * burst + [False]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "truncated"),
        ("[]", "Expected `object`"),
        ("[" * 100_000, "wrong"),
        ('{"keys": []}', "$.keys"),
        ('{"keys": [{"client": "a"}]}', "sha256"),
        ('{"keys": [{"client": "a", "sha256": "mw_secret"}]}', "$.keys[0].sha256"),
        ('{"keys": [{"client": "a\\nb", "sha256": "SHA"}]}', "$.keys[0].client"),
        ('{"keys": [{"client": "a", "sha256": "SHA", "model": []}]}', "model"),
        ('{"keys": [{"client": "a", "sha256": "SHA", "models": []}]}', "$.keys[0].models"),
        ('{"keys": [{"client": "a", "sha256": "SHA", "models": ["NO"]}]}', "$.keys[0].models"),
        ('{"keys": [{"client": "a", "sha256": "SHA", "requests_per_second": 0}]}', "requests_per_second"),
        ('{"keys": [{"client": "a", "sha256": "SHA", "burst": 5}]}', "burst without requests_per_second"),
        ('{"keys": [{"client": "a", "sha256": "SHA", "expires": "2027-01-01T00:00:00"}]}', "expires"),
        ('{"keys": [{"client": "a", "sha256": "SHA", "admin": "no"}]}', "$.keys[0].admin"),
        ('{"keys": [{"client": "a", "sha256": "SHA"}, {"client": "b", "sha256": "SHA"}]}', "twice"),
        (
            '{"keys": [{"client": "a", "sha256": "SHA"}, {"client": "a", "sha256": "SH2", "requests_per_second": 1}]}',
            "'a' different rates",
        ),
        ("\xff", "wrong"),
    ],
)
def test_a_wrong_file_names_the_field_and_no_secret(file: Path, text: str, said: str) -> None:
    file.write_bytes(text.replace("SHA", "ab" * 32).replace("SH2", "cd" * 32).encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        make_authenticator(ApiKeyAuth(keys_file=str(file)))
    assert said in str(caught.value)
    assert str(file) in str(caught.value)
    assert "mw_secret" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b" " * (MAX_BYTES + 1))
    for name, said in (("missing", "No such file"), (".", "Is a directory"), ("large", "larger than")):
        with pytest.raises(ConfigError, match=said):
            make_authenticator(ApiKeyAuth(keys_file=str(tmp_path / name)))
