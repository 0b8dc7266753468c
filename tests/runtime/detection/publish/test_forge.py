"""The connection: waits that are bounded, messages that are clear and hold no secret."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from modelway_runtime.detection import forge as forges
from modelway_runtime.detection.forge import ForgeFailed
from tests.runtime.detection.publish.publish_helpers import app_settings, forge, settings
from tests.support.github import Emulator, Fault, GitHub

WRONG = "ghp_wrong00000000000000000000000000000000"


def test_a_wrong_token_gives_a_clear_message_without_the_token(github: GitHub, tmp_path: Path) -> None:
    """The proxy repeats the token in its answer, as a server should not."""
    with pytest.raises(ForgeFailed) as failed:
        forge(settings(github, tmp_path, token=WRONG)).get("/git/ref/heads/main", dict)
    assert failed.value.status == 401
    assert "check the token" in str(failed.value)
    assert "wrong00" not in str(failed.value)
    assert len(github.requests) == 1


def test_a_wrong_key_of_an_app_gives_a_clear_message(
    running: Emulator, github: GitHub, tmp_path: Path
) -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(ForgeFailed, match="check the token or the App's key"):
        forge(app_settings(github, tmp_path, other.decode())).get("/git/ref/heads/main", dict)
    with pytest.raises(ForgeFailed, match="no RSA key"):
        forge(app_settings(github, tmp_path, "no key")).get("/git/ref/heads/main", dict)


def test_a_token_that_is_missing_or_empty(github: GitHub, tmp_path: Path) -> None:
    with pytest.raises(ForgeFailed, match=r"cannot read the token .*/nothing: No such file"):
        forge(settings(github, tmp_path, token_file=str(tmp_path / "nothing")))
    with pytest.raises(ForgeFailed, match="is empty"):
        forge(settings(github, tmp_path, token=" "))


@pytest.mark.parametrize("status", [429, 403])
def test_retry_after_is_waited_for(github: GitHub, tmp_path: Path, status: int) -> None:
    github.faults.append(Fault("GET .*", status=status, headers={"Retry-After": "1"}))
    start = time.monotonic()
    forge(settings(github, tmp_path)).get("/git/ref/heads/main", dict)
    assert time.monotonic() - start >= 1.0


@pytest.mark.parametrize("asked", ["retry", "reset"])
def test_a_wait_that_is_too_long_is_said_at_once(github: GitHub, tmp_path: Path, asked: str) -> None:
    reset = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(time.time()) + 3600)}
    headers = {"Retry-After": "3600"} if asked == "retry" else reset
    github.faults.append(Fault("GET .*", status=403, headers=headers))
    start = time.monotonic()
    with pytest.raises(ForgeFailed, match=r"asks to wait 3[56]\d\d s, longer than the 60 s"):
        forge(settings(github, tmp_path)).get("/git/ref/heads/main", dict)
    assert time.monotonic() - start < 5


def test_waits_that_add_up_are_bounded(
    github: GitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forges, "LONGEST_WAIT_S", 1.5)
    github.faults.append(Fault("GET .*", times=100, status=429, headers={"Retry-After": "1"}))
    start = time.monotonic()
    with pytest.raises(ForgeFailed, match="answered 429"):
        forge(settings(github, tmp_path)).get("/git/ref/heads/main", dict)
    assert time.monotonic() - start < 1.4


def test_a_forbidden_request_is_not_repeated(github: GitHub, tmp_path: Path) -> None:
    github.faults.append(Fault("GET .*", status=403, body=b'{"message": "Resource not accessible"}'))
    with pytest.raises(ForgeFailed, match="check what the token or the App may do"):
        forge(settings(github, tmp_path)).get("/git/ref/heads/main", dict)
    assert len(github.requests) == 1


def test_attempts_are_bounded(github: GitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forges, "ATTEMPTS", 2)
    github.faults.append(Fault("GET .*", times=100, status=500))
    with pytest.raises(ForgeFailed, match=r"answered 500: injected .*2 attempts"):
        forge(settings(github, tmp_path)).get("/git/ref/heads/main", dict)


def test_a_slow_answer_is_given_up_and_asked_for_again(
    github: GitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forges, "TIMEOUT_S", 1)
    github.faults.append(Fault("GET .*", delay_s=2.0))
    forge(settings(github, tmp_path)).get("/git/ref/heads/main", dict)
    assert len(github.requests) == 2


def test_a_server_that_is_not_there(github: GitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forges, "ATTEMPTS", 1)
    with pytest.raises(ForgeFailed, match="could not be reached: ConnectionError"):
        forge(settings(github, tmp_path, api_url="http://localhost:9")).get("/git/ref/heads/main", dict)


def test_a_redirect_to_another_host_is_not_followed(github: GitHub, tmp_path: Path) -> None:
    github.faults.append(Fault("GET .*", status=301, headers={"location": "http://evil.example/x"}, body=b""))
    with pytest.raises(ForgeFailed, match="makes no sense"):
        forge(settings(github, tmp_path)).get("/git/ref/heads/main", dict)
