"""A change as a pull request of ours: one commit on a branch whose name says what the change is for.

The name lets a second run find what the first one did. It proves nothing: whoever may push can take it
first. So a pull request is ours by its author alone, and a branch by its commit: the tree that we made and
our account as the author. Else the change goes to another name, and the answer says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from modelway_runtime.detection.forge import Forge, ForgeFailed
from modelway_runtime.detection.sanitise import code

NAMES = 3
"""Names of a branch that are tried: as asked for, then with ``-2`` and ``-3`` behind it."""

State: TypeAlias = Literal["opened", "open", "merged", "closed"]
Json: TypeAlias = Any


class Taken(Exception):
    """Every name of the branch holds what others put there; the text says which, as Markdown."""


class Object(msgspec.Struct, frozen=True):
    sha: str


class Ref(msgspec.Struct, frozen=True):
    object: Object


class GitCommit(msgspec.Struct, frozen=True):
    sha: str
    tree: Object
    parents: tuple[Object, ...]


class Change(msgspec.Struct, frozen=True):
    """What is proposed: entries of a tree on top of the main branch, and the words around them."""

    branch: str
    entries: list[Json]
    message: str
    title: str
    body: str


class _Account(msgspec.Struct, frozen=True):
    login: str


class _Content(msgspec.Struct, frozen=True):
    tree: Object


class _Listed(msgspec.Struct, frozen=True):
    commit: _Content
    author: _Account | None = None


class _Repository(msgspec.Struct, frozen=True):
    full_name: str


class _Head(msgspec.Struct, frozen=True):
    ref: str
    sha: str
    repo: _Repository | None = None


class Pull(msgspec.Struct, frozen=True):
    number: int
    html_url: str
    state: str
    user: _Account
    head: _Head
    body: str | None = None
    merged_at: str | None = None


class Proposal(msgspec.Struct, frozen=True):
    """A pull request of ours. ``avoided`` are the branches that others had taken before."""

    state: State
    pull: Pull
    avoided: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether its branch holds another commit than the one that we put there."""
        commit = _MARK.search(self.pull.body or "")
        return commit is None or commit[1] != self.pull.head.sha


_MARK = re.compile(r"<!-- modelway commit=([0-9a-f]{40,64}) -->\s*\Z")


def find(forge: Forge, branch: str) -> Proposal | None:
    """Our pull request of one of the branch's names; an open one before a merged one before a closed one."""
    return next((one for name in _names(branch) if (one := _of_branch(forge, name))), None)


def open_ones(forge: Forge, branches: re.Pattern[str]) -> Iterator[Proposal]:
    """Our open pull requests whose branch matches, whatever number stands behind its name."""
    pattern = re.compile(f"(?:{branches.pattern})(?:-[2-{NAMES}])?")
    for pull in forge.pages("/pulls", Pull, "number", {"state": "open", "base": forge.branch}):
        if pattern.fullmatch(pull.head.ref) and _ours(forge, pull):
            yield Proposal("open", pull)


def propose(forge: Forge, main: GitCommit, change: Change) -> Proposal:
    """A commit on a new branch, and its pull request.

    Whoever of us makes the branch or comes after it may open the pull request: the forge refuses a second
    one. Raises Taken, and ForgeFailed.
    """
    tree = forge.send("POST", "/git/trees", Object, {"base_tree": main.tree.sha, "tree": change.entries})
    commit = {"message": change.message, "tree": tree.sha, "parents": [main.sha]}
    made = forge.send("POST", "/git/commits", Object, commit)
    avoided: list[str] = []
    for branch in _names(change.branch):
        sha = _take(forge, branch, made.sha, tree.sha)
        ours = _open(forge, branch, change, sha) if sha else _of_branch(forge, branch)
        if ours is not None:
            return msgspec.structs.replace(ours, avoided=tuple(avoided))
        avoided.append(branch)
    raise Taken(_taken(avoided))


def _names(branch: str) -> Iterator[str]:
    assert branch.startswith("modelway/"), "nothing else is ours to write"
    yield branch
    yield from (f"{branch}-{number}" for number in range(2, NAMES + 1))


def _take(forge: Forge, branch: str, commit: str, tree: str) -> str | None:
    """The commit on our branch, which is made if it is new; None where the branch is not ours."""
    assert branch != forge.branch
    try:
        forge.send("POST", "/git/refs", Ref, {"ref": f"refs/heads/{branch}", "sha": commit})
    except ForgeFailed as failed:
        if failed.status != 422:  # else it exists: another run, one that was cut off here, or somebody
            raise
    else:
        return commit
    head = forge.get(f"/git/ref/heads/{branch}", Ref).object.sha
    if head == commit:
        return commit
    there = forge.get(f"/commits/{head}", _Listed)
    same = there.commit.tree.sha == tree and there.author is not None and there.author.login == forge.author
    return head if same else None


def _open(forge: Forge, branch: str, change: Change, commit: str) -> Proposal | None:
    """The pull request of our branch; None where somebody else has opened one of it."""
    asked = {
        "title": change.title,
        "body": f"{change.body}\n\n<!-- modelway commit={commit} -->",
        "head": branch,
        "base": forge.branch,
    }
    try:
        return Proposal("opened", forge.send("POST", "/pulls", Pull, asked))
    except ForgeFailed as failed:
        if failed.status != 422:
            raise
        pulls = _pulls_of(forge, branch)
        if not any(pull.state == "open" for pull in pulls):
            raise
        return _first(forge, pulls)


def _of_branch(forge: Forge, branch: str) -> Proposal | None:
    return _first(forge, _pulls_of(forge, branch))


def _pulls_of(forge: Forge, branch: str) -> list[Pull]:
    owner = forge.name.split("/")[0]
    asked: dict[str, str | int] = {"state": "all", "head": f"{owner}:{branch}", "base": forge.branch}
    return [pull for pull in forge.pages("/pulls", Pull, "number", asked) if pull.head.ref == branch]


def _first(forge: Forge, pulls: Sequence[Pull]) -> Proposal | None:
    ours = [pull for pull in pulls if _ours(forge, pull)]
    states: tuple[State, ...] = ("open", "merged", "closed")
    return next((Proposal(state, pull) for state in states for pull in ours if _state(pull) == state), None)


def _state(pull: Pull) -> State:
    if pull.state == "open":
        return "open"
    return "closed" if pull.merged_at is None else "merged"


def _ours(forge: Forge, pull: Pull) -> bool:
    here = pull.head.repo is not None and pull.head.repo.full_name.lower() == forge.name.lower()
    return here and pull.user.login == forge.author


def _taken(branches: Sequence[str]) -> str:
    listed = ", ".join(code(branch) for branch in branches)
    return f"the branches {listed} hold what somebody else put there; look at them, and remove them"
