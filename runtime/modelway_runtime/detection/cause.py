"""From a rollout to the commit it was made from, and to the pull request that brought the commit.

The chain: the revision that Argo CD had synced when the rollout started, else the head of the main
branch; from there the newest commit, not later than the start, that changed the model's generated
folder; its pull request. A pull request that was merged later than the start cannot have caused it,
however old its commits are. Where it was merged by a merge commit, that commit is the cause: it is the
one that stands on the main branch, and reverting it reverts the spec along with the generated files.
"""

from __future__ import annotations

import itertools
import logging
import re
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import msgspec
import requests

from modelway_runtime.detection.forge import Forge, ForgeFailed
from modelway_runtime.detection.settings import ArgoCd, Publish
from modelway_runtime.detection.verdict import Commit, PullRequest, Rollout

CANDIDATES = 20
"""Commits of a folder that are looked at; the pull request of each may have been merged too late."""
CLOSED = 300
"""Closed pull requests that are searched for a merge commit, the latest first."""
SLACK = timedelta(minutes=2)
"""A start that is read from samples a minute apart may seem this much earlier than it was."""
ARGOCD_TIMEOUT_S = 10.0
_SHA = re.compile(r"\A[0-9a-f]{40,64}\Z")
_log = logging.getLogger(__name__)


class Parent(msgspec.Struct, frozen=True):
    sha: str


class _Listed(msgspec.Struct, frozen=True):
    sha: str


class _Base(msgspec.Struct, frozen=True):
    ref: str


class _Pull(msgspec.Struct, frozen=True):
    number: int
    html_url: str
    merged_at: datetime | None
    merge_commit_sha: str | None
    base: _Base


class _GitCommit(msgspec.Struct, frozen=True):
    sha: str
    parents: tuple[Parent, ...]


class _Synced(msgspec.Struct, frozen=True, rename="camel"):
    revision: str = ""
    deployed_at: datetime | None = None
    deploy_started_at: datetime | None = None


class _Sync(msgspec.Struct, frozen=True):
    revision: str = ""


class _Status(msgspec.Struct, frozen=True):
    sync: _Sync = _Sync()
    history: tuple[_Synced, ...] = ()


class _Application(msgspec.Struct, frozen=True):
    status: _Status = _Status()


class _ArgoCdFailed(Exception):
    """Argo CD's API could not be asked; the text says why, without the token."""


def find(
    forge: Forge,
    settings: Publish,
    argocd: ArgoCd | None,
    rollout: Rollout,
    environment: str,
    team: str,
    model: str,
) -> tuple[Commit | None, PullRequest | None]:
    """What caused a rollout, as far as the forge knows. Raises ForgeFailed.

    Argo CD that cannot be asked is logged and done without.
    """
    revision = _revision(argocd, rollout.started_at, team, model) if argocd else None
    folder = f"{settings.folder}/{environment}/{team}/{model}"
    for sha in _candidates(forge, folder, revision or settings.branch, rollout.started_at):
        pulls = _merged(forge, sha, settings.branch)
        in_time = [pull for pull in pulls if pull.merged_at and pull.merged_at <= rollout.started_at + SLACK]
        if pulls and not in_time:
            continue
        pull = in_time[0] if in_time else None
        commit = Commit(
            sha=_on_main(forge, sha, pull), found_by="argocd" if revision is not None else "history"
        )
        return commit, PullRequest(number=pull.number, url=pull.html_url) if pull else None
    return None, None


def _candidates(forge: Forge, folder: str, head: str, until: datetime) -> list[str]:
    """Commits that changed the folder, the newest first. An unknown head or folder has none."""
    asked: dict[str, str | int] = {
        "path": folder, "sha": head, "until": until.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }  # fmt: skip
    listed = forge.pages("/commits", _Listed, "sha", asked)
    try:
        return [commit.sha for commit in itertools.islice(listed, CANDIDATES) if _SHA.match(commit.sha)]
    except ForgeFailed as failed:
        if failed.status in (404, 409):  # no such branch; a repository without commits
            return []
        raise


def _merged(forge: Forge, sha: str, branch: str) -> list[_Pull]:
    """Merged pull requests of a commit, the likeliest first: of this merge commit, into main, the first."""
    try:
        listed = list(forge.pages(f"/commits/{sha}/pulls", _Pull, "number"))
    except ForgeFailed as failed:
        if failed.status not in (404, 422):
            raise
        listed = []
    merged = [pull for pull in listed if pull.merged_at]
    if not merged:
        order: dict[str, str | int] = {
            "state": "closed", "base": branch, "sort": "updated", "direction": "desc",
        }  # fmt: skip
        closed = itertools.islice(forge.pages("/pulls", _Pull, "number", order), CLOSED)
        merged = [pull for pull in closed if pull.merged_at and pull.merge_commit_sha == sha][:1]

    def rank(pull: _Pull) -> tuple[bool, bool, datetime]:
        assert pull.merged_at is not None
        return pull.merge_commit_sha != sha, pull.base.ref != branch, pull.merged_at

    return sorted(merged, key=rank)


def _on_main(forge: Forge, sha: str, pull: _Pull | None) -> str:
    """The merge commit of the pull request where it is one, else the commit itself."""
    merge = pull.merge_commit_sha if pull else None
    if not merge or merge == sha or not _SHA.match(merge):
        return sha
    return merge if len(forge.get(f"/git/commits/{merge}", _GitCommit).parents) > 1 else sha


def _revision(argocd: ArgoCd, started_at: datetime, team: str, model: str) -> str | None:
    """The revision that was synced when the rollout started; None, with a line in the log, if unknown."""
    name = argocd.application.replace("{team}", team).replace("{model}", model)
    try:
        status = _application(argocd, name).status
    except _ArgoCdFailed as failed:
        _log.warning("%s; the history of the main branch is used instead", failed)
        return None
    synced = [(at, entry.revision) for entry in status.history if (at := _synced_at(entry)) is not None]
    revision = max(
        ((at, sha) for at, sha in synced if at <= started_at + SLACK), default=(None, status.sync.revision)
    )[1]
    if _SHA.match(revision):
        return revision
    _log.warning(
        "Argo CD names no Git revision of %s; the history of the main branch is used instead",
        name,
    )
    return None


def _synced_at(entry: _Synced) -> datetime | None:
    at = entry.deploy_started_at or entry.deployed_at
    return at if at is None or at.tzinfo else at.replace(tzinfo=UTC)


def _application(argocd: ArgoCd, name: str) -> _Application:
    url = f"{argocd.url.rstrip('/')}/api/v1/applications/{quote(name, safe='')}"
    try:
        with open(argocd.token_file, encoding="utf-8") as file:
            token = file.read().strip()
        answer = requests.get(
            url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=ARGOCD_TIMEOUT_S,
            allow_redirects=False,
        )
    except OSError as error:  # of the file; what requests raises is an OSError, too
        raise _ArgoCdFailed(f"Argo CD cannot be asked at {url}: {type(error).__name__}") from None
    except ValueError:
        raise _ArgoCdFailed(f"the token for Argo CD in {argocd.token_file} is no header's value") from None
    if answer.status_code != 200:
        raise _ArgoCdFailed(f"Argo CD answered {answer.status_code} to GET {url}")
    try:
        return msgspec.json.decode(answer.content, type=_Application)
    except msgspec.DecodeError as error:
        raise _ArgoCdFailed(f"Argo CD's answer to GET {url} is no application: {error}") from None
