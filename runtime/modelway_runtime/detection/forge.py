"""The connection to GitHub or GitHub Enterprise Server.

PyGithub authenticates (token or App), spaces requests out and speaks HTTP; its objects are not used:
answers are checked against the few fields that are needed, and pages are counted here instead of
following links, since a server may answer anything. What is tried again, and for how long, is decided
here, too: PyGithub alone waits as long as the server likes.
"""

from __future__ import annotations

import itertools
import random
import re
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import requests

from modelway_runtime.detection.sanitise import plain
from modelway_runtime.detection.settings import Publish

if TYPE_CHECKING:
    from github import Github
    from github.Auth import Auth

LONGEST_WAIT_S = 60.0
"""Seconds that one request may wait between its attempts, all together."""
ATTEMPTS = 6
TIMEOUT_S = 15
"""Seconds to connect, and again until the server goes on to answer."""
PAGE = 100
PAGES = 100
EMPTY_PAGES = 3
"""So many empty pages in a row are the end, whatever the server says of a next one."""
_TOKENS = re.compile(r"\b(gh[a-z]_|github_pat_|eyJ)[A-Za-z0-9_.-]{8,}")
"""What tokens and JWTs of GitHub look like: an answer that repeats one must not bring it into a log."""
_NEXT = re.compile(r'<[^>]*>\s*;\s*rel="?next"?')

T = TypeVar("T")
Parameters = dict[str, str | int]


class ForgeFailed(Exception):
    """GitHub could not be asked; the text says what was asked, what came back, what to do; no secret.

    ``status`` is that of the last answer, or None where there was none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class _User(msgspec.Struct, frozen=True):
    login: str


class Forge:
    """One repository, as one author. Made by ``connect`` for a run; tokens are read then."""

    def __init__(self, settings: Publish, github: Github, secret: str) -> None:
        self.name = settings.repository
        self.branch = settings.branch
        self._settings = settings
        self._github = github
        self._secret = secret

    @cached_property
    def author(self) -> str:
        """The login that our comments bear. Raises ForgeFailed."""
        app = self._settings.app
        if app is None:
            return self._value("GET", "/user", self._ask("GET", "/user")[1], _User).login
        from github import GithubIntegration

        def who() -> str:
            integration = GithubIntegration(
                auth=_app_auth(self._settings), base_url=_base(self._settings), timeout=TIMEOUT_S, retry=None
            )
            try:
                return str(integration.get_app().slug)
            finally:
                integration.close()

        return self._patiently("GET", "/app", who) + "[bot]"

    def get(self, path: str, kind: type[T], parameters: Parameters | None = None) -> T:
        """What lies at ``path`` below the repository. Raises ForgeFailed."""
        url = self._url(path)
        return self._value("GET", url, self._ask("GET", url, parameters)[1], kind)

    def send(self, verb: str, path: str, kind: type[T], body: object = None) -> T:
        """Send JSON. It may arrive twice where an answer is lost: callers see to it that this is harmless."""
        url = self._url(path)
        return self._value(verb, url, self._ask(verb, url, body=body)[1], kind)

    def pages(
        self,
        path: str,
        kind: type[T],
        key: str,
        parameters: Parameters | None = None,
        item: str | None = None,
    ) -> Iterator[T]:
        """All of a list; ``key`` is the field that tells its members apart, ``item`` the list in a mapping.

        Raises ForgeFailed, also where the pages repeat or do not end.
        """
        url, seen, empty = self._url(path), set[object](), 0
        for number in range(1, PAGES + 1):
            headers, data = self._ask("GET", url, {**(parameters or {}), "per_page": PAGE, "page": number})
            values = self._value(
                "GET", url, data.get(item) if item and isinstance(data, dict) else data, list[T]
            )
            members = [self._value("GET", url, value, kind) for value in values]
            fresh = [member for member in members if getattr(member, key) not in seen]
            if members and not fresh:
                raise ForgeFailed(
                    f"GitHub gives the same page of {url} again and again; nothing was done with it"
                )
            seen.update(getattr(member, key) for member in fresh)
            yield from fresh
            empty = 0 if members else empty + 1
            if not _NEXT.search(str(headers.get("link", ""))) or empty == EMPTY_PAGES:
                return
        raise ForgeFailed(f"GitHub's list {url} does not end within {PAGES} pages of {PAGE}")

    def archive(self, sha: str) -> str:
        """The address of the repository's tar file at a commit; it may hold a secret of its own."""
        url = self._url(f"/tarball/{sha}")
        location = self._ask("GET", url)[0].get("location")
        schemes = ("https://",) if self._settings.api_url.startswith("https:") else ("https://", "http://")
        if not isinstance(location, str) or not location.startswith(schemes):
            raise ForgeFailed(f"GitHub gives no address for {url}")
        return location

    def close(self) -> None:
        self._github.close()

    def _url(self, path: str) -> str:
        return f"/repos/{self.name}{path}"

    def _ask(
        self, verb: str, url: str, parameters: Parameters | None = None, body: object = None
    ) -> tuple[dict[str, Any], Any]:
        requester = self._github.requester
        return self._patiently(
            verb, url, lambda: requester.requestJsonAndCheck(verb, url, parameters=parameters, input=body)
        )

    def _patiently(self, verb: str, url: str, ask: Callable[[], T]) -> T:
        """The answer, after as many attempts and as much waiting as is allowed."""
        from github import GithubException
        from jwt import PyJWTError

        left = LONGEST_WAIT_S
        for attempt in itertools.count(1):
            status = None
            try:
                return ask()
            except GithubException as failed:
                status, wait = failed.status, _wait(failed, attempt)
                problem = f"answered {status}: {_message(failed)}"
            except requests.RequestException as failed:
                wait, problem = _backoff(attempt), f"could not be reached: {type(failed).__name__}"
            except (PyJWTError, ValueError):
                wait, problem = None, "was not asked: the App's private key is no RSA key in PEM"
            except (AssertionError, RuntimeError, KeyError, TypeError, AttributeError) as failed:
                # PyGithub's ways to say that a redirect or a body is not what it should be
                wait, problem = None, f"gave an answer that makes no sense: {type(failed).__name__}"
            if wait is None or attempt == ATTEMPTS or wait > left:
                break
            left -= wait
            time.sleep(wait)
        raise ForgeFailed(self._clean(_advice(verb, url, problem, status, wait, attempt)), status) from None

    def _value(self, verb: str, url: str, data: object, kind: type[T]) -> T:
        try:
            return msgspec.convert(data, kind)
        except msgspec.ValidationError as error:
            text = f"GitHub's answer to {verb} {url} is not what its API promises: {error}"
            raise ForgeFailed(self._clean(text)) from None

    def _clean(self, message: str) -> str:
        known = message.replace(self._secret, "***") if self._secret else message
        return plain(_TOKENS.sub("***", known), 600)


def connect(settings: Publish, pause_s: float = 1.0) -> Forge:
    """A connection; the token or the key is read from its file now. ``pause_s`` lies between writes.

    Raises ForgeFailed where the file cannot be read. The server is not asked yet.
    """
    from github import Auth, Github

    auth: Auth.Auth
    if settings.app is not None:
        secret, auth = "", _app_auth(settings).get_installation_auth(settings.app.installation_id)
    else:
        secret = _read(settings.token_file or "", "token")
        auth = Auth.Token(secret)
    github = Github(
        auth=auth,
        base_url=_base(settings),
        timeout=TIMEOUT_S,
        retry=None,
        per_page=PAGE,
        user_agent="modelway-detector",
        seconds_between_requests=None,
        seconds_between_writes=pause_s,
    )
    return Forge(settings, github, secret)


def _app_auth(settings: Publish) -> Any:
    from github import Auth

    assert settings.app is not None
    return Auth.AppAuth(settings.app.id, _read(settings.app.private_key_file, "private key"))


def _base(settings: Publish) -> str:
    return settings.api_url.rstrip("/")


def _read(path: str, what: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            secret = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ForgeFailed(f"cannot read the {what} for GitHub in {path}: {reason}") from None
    if not secret:
        raise ForgeFailed(f"the {what} for GitHub in {path} is empty")
    return secret


def _wait(failed: Any, attempt: int) -> float | None:
    """Seconds until it may be tried again; None: it need not be."""
    headers = {name.lower(): value for name, value in (failed.headers or {}).items()}
    limited = (
        "retry-after" in headers
        or headers.get("x-ratelimit-remaining") == "0"
        or "rate limit" in _message(failed).lower()
    )
    if failed.status == 429 or (failed.status == 403 and limited):
        if str(headers.get("retry-after", "")).isdigit():
            return float(headers["retry-after"])
        if headers.get("x-ratelimit-remaining") == "0" and str(headers.get("x-ratelimit-reset")).isdigit():
            return max(float(headers["x-ratelimit-reset"]) - time.time(), 0.0) + 1.0
        return _backoff(attempt)
    return _backoff(attempt) if failed.status >= 500 else None


def _backoff(attempt: int) -> float:
    """Doubles from half a second; jitter keeps runs that fail together from coming back together."""
    return float(0.5 * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))  # noqa: S311 - no secret


def _message(failed: Any) -> str:
    data = failed.data
    return plain(str(data.get("message", "")) if isinstance(data, dict) else str(data or ""))


def _advice(verb: str, url: str, problem: str, status: int | None, wait: float | None, attempts: int) -> str:
    text = f"GitHub {problem} ({verb} {url}, {attempts} {'attempt' if attempts == 1 else 'attempts'})"
    if status == 401:
        return f"{text}; check the token or the App's key, and that it has not expired"
    if wait is not None and wait > LONGEST_WAIT_S:
        longest = f"longer than the {LONGEST_WAIT_S:.0f} s that a request may take"
        return f"{text}; it asks to wait {wait:.0f} s, {longest}: run again later"
    if status == 403:
        return f"{text}; check what the token or the App may do in the repository"
    if status == 404:
        return f"{text}; check the repository's name, and that the token or the App may see it"
    return text
