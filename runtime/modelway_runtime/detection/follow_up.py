"""What a regression sets off in the repository: pull requests that revert, or that shift to the standby.

Nothing is ever pushed to the main branch. A branch's name says what it is for, so a second run finds the
branch and the pull request of the first and opens no second; one that somebody closed stays closed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias

import msgspec
import requests
import yaml

from modelway_runtime.detection.forge import Forge, ForgeFailed
from modelway_runtime.detection.proposing import (
    Change,
    GitCommit,
    Proposal,
    Ref,
    Taken,
    find,
    open_ones,
    propose,
)
from modelway_runtime.detection.sanitise import code, fence, plain, text
from modelway_runtime.detection.settings import Publish, Watched
from modelway_runtime.detection.verdict import Commit, Verdict

ARCHIVE_BYTES = 256 * 2**20
UNPACKED_BYTES = 1024 * 2**20
UNPACKED_FILES = 100_000
COMPILE_S = 300
NAMED = 10
"""Files that a comment names; more are counted."""

Kind: TypeAlias = Literal["rollback", "failover"]
State: TypeAlias = Literal["opened", "open", "merged", "closed", "conflict", "nothing", "failed"]
Json: TypeAlias = Any
File: TypeAlias = tuple[bytes, bool]
"""Content, and whether it may be executed."""


class FollowUp(msgspec.Struct, frozen=True):
    """What came of one response. ``text`` is Markdown for the comment, sanitised."""

    kind: Kind
    state: State
    text: str
    number: int | None = None
    url: str | None = None


class _NotPossible(Exception):
    """There will be no pull request; the text says why, as Markdown."""

    def __init__(self, state: State, why: str) -> None:
        super().__init__(why)
        self.state: State = state


class _Entry(msgspec.Struct, frozen=True):
    path: str
    mode: str
    type: str
    sha: str


class _Tree(msgspec.Struct, frozen=True):
    tree: tuple[_Entry, ...]
    truncated: bool = False


def follow_up(forge: Forge, settings: Publish, watched: Watched, verdict: Verdict) -> tuple[FollowUp, ...]:
    """Do what the response asks of the repository. What fails is said in the text, not raised."""
    if verdict.state != "regressed":
        return ()
    done = []
    if "rollback" in watched.response:
        done.append(_careful("rollback", lambda: _revert(forge, verdict)))
    if "failover" in watched.response:
        done.append(_careful("failover", lambda: _fail_over(forge, settings, verdict)))
    return tuple(done)


def revert_command(commit: Commit) -> str:
    """The shell command that reverts a commit, whether it merges or not (Git 2.21 and later)."""
    return f"git revert --no-edit -m 1 {shlex.quote(commit.sha)}"


def _careful(kind: Kind, work: Callable[[], Proposal]) -> FollowUp:
    try:
        proposal = work()
    except _NotPossible as reason:
        return FollowUp(kind, reason.state, str(reason))
    except Taken as taken:
        return FollowUp(kind, "failed", f"No pull request for the {kind}: {taken}.")
    except ForgeFailed as failed:
        return FollowUp(kind, "failed", f"No pull request for the {kind}: {text(str(failed), 600)}.")
    return FollowUp(kind, proposal.state, _said(kind, proposal), proposal.pull.number, proposal.pull.html_url)


def _said(kind: Kind, proposal: Proposal) -> str:
    """What the comment says of a pull request, as Markdown."""
    what = {"rollback": "reverts the change", "failover": "shifts the traffic to the standby"}[kind]
    number = f"Pull request #{proposal.pull.number}"
    if proposal.state == "merged":
        return f"{number}, which {what}, is merged."
    if proposal.state == "closed":
        return f"{number}, which {what}, was closed; no other is opened."
    said = f"{number} {what}: review and merge it."
    if proposal.changed:
        said = f"{number}, which {what}, has other commits than ours by now: review them."
    avoided = (
        f" The branch {code(branch)} holds what somebody else put there; look at it, and remove it."
        for branch in proposal.avoided
    )
    return said + "".join(avoided)


def _revert(forge: Forge, verdict: Verdict) -> Proposal:
    commit = verdict.commit
    if commit is None:
        raise _NotPossible("nothing", "Nothing is reverted: the commit that caused it is not known.")
    short = commit.sha[:7]
    branch = _branch(f"revert-{short}", verdict)
    if proposal := find(forge, branch):
        return proposal
    main = _git_commit(forge, forge.get(f"/git/ref/heads/{forge.branch}", Ref).object.sha)
    entries = _reverted(forge, commit, main)
    subject = plain(f"Revert {short}: {verdict.model} regressed in {verdict.environment}", 120)
    message = f"{subject}\n\nThis reverts commit {plain(commit.sha)}.\nVerdict: {plain(verdict.id)}"
    body = (
        f"{code(verdict.model)} regressed in {code(verdict.environment)} after {code(commit.sha)}"
        f"{_see(verdict)}. This puts every file that the commit changed back to what it was before.\n\n"
        f"The same by hand:\n{fence(revert_command(commit), 'sh')}"
    )
    return propose(forge, main, Change(branch, entries, message, subject, body))


def _reverted(forge: Forge, commit: Commit, main: GitCommit) -> list[Json]:
    """Entries of a tree that undoes the commit; refused where main has gone on from what it wrote."""
    changed = _git_commit(forge, commit.sha)
    if not changed.parents:
        raise _NotPossible("nothing", "Nothing is reverted: the commit is the first of the repository.")
    parent = _git_commit(forge, changed.parents[0].sha)
    before, after, now = (_files(forge, each.tree.sha) for each in (parent, changed, main))
    entries: list[Json] = []
    conflicts = []
    for path in sorted(before.keys() | after.keys()):
        old, new, current = (_content(side.get(path)) for side in (before, after, now))
        if old == new or current == old:
            continue
        if current != new:
            conflicts.append(path)
        elif path in before:
            entry = before[path]
            entries.append({"path": path, "mode": entry.mode, "type": entry.type, "sha": entry.sha})
        else:
            entry = after[path]
            entries.append({"path": path, "mode": entry.mode, "type": entry.type, "sha": None})
    if conflicts:
        raise _NotPossible("conflict", _conflict(commit, conflicts))
    if not entries:
        raise _NotPossible("nothing", "Nothing is reverted: the main branch has none of the change any more.")
    return entries


def _conflict(commit: Commit, paths: list[str]) -> str:
    named = "".join(f"- {code(path)}\n" for path in paths[:NAMED])
    more = f"- and {len(paths) - NAMED} more\n" if len(paths) > NAMED else ""
    return (
        f"No pull request reverts it: {len(paths)} of its files changed again since.\n{named}{more}\n"
        f"By hand, with those conflicts to solve:\n{fence(revert_command(commit), 'sh')}"
    )


def _git_commit(forge: Forge, sha: str) -> GitCommit:
    return forge.get(f"/git/commits/{sha}", GitCommit)


def _files(forge: Forge, tree: str) -> dict[str, _Entry]:
    answer = forge.get(f"/git/trees/{tree}", _Tree, {"recursive": "1"})
    if answer.truncated:
        raise _NotPossible(
            "failed", "No pull request reverts it: the repository is too large for GitHub's list of files."
        )
    return {entry.path: entry for entry in answer.tree if entry.type != "tree"}


def _content(entry: _Entry | None) -> tuple[str, str] | None:
    return (entry.mode, entry.sha) if entry else None


def _branch(purpose: str, verdict: Verdict, suffix: str = "") -> str:
    names = (re.sub("[^a-z0-9-]", "-", name.lower())[:63] for name in (verdict.environment, verdict.model))
    return f"modelway/{purpose}-{'-'.join(names)}{suffix}"


def _see(verdict: Verdict) -> str:
    return f" (see #{verdict.pull_request.number})" if verdict.pull_request else ""


def _fail_over(forge: Forge, settings: Publish, verdict: Verdict) -> Proposal:
    prefix = _branch("failover", verdict, "-")
    branch = prefix + _occasion(verdict)
    opened = next(open_ones(forge, re.compile(re.escape(prefix) + "[0-9a-f]{7}")), None)
    if proposal := opened or find(forge, branch):
        return proposal
    main = _git_commit(forge, forge.get(f"/git/ref/heads/{forge.branch}", Ref).object.sha)
    with tempfile.TemporaryDirectory(prefix="modelway-failover-") as folder:
        archive, tree = Path(folder, "archive"), Path(folder, "tree")
        _download(forge.archive(main.sha), archive)
        unpack(archive, tree)
        entries = _entries(_switched(tree, settings, verdict))
    title = plain(f"Fail over {verdict.model} to its standby in {verdict.environment}", 120)
    body = (
        f"{code(verdict.model)} regressed in {code(verdict.environment)}{_see(verdict)}. This sets "
        "`spec.serving.standby.active` for that environment and carries the recompiled files. "
        "Revert it when the model is well again."
    )
    message = f"{title}\n\nVerdict: {plain(verdict.id)}"
    return propose(forge, main, Change(branch, entries, message, title, body))


def _occasion(verdict: Verdict) -> str:
    """Seven digits for what is failed over from: the commit, else the rollout, else the day."""
    if verdict.commit and re.match("[0-9a-f]{7}", verdict.commit.sha):
        return verdict.commit.sha[:7]
    start = verdict.rollout.started_at if verdict.rollout else verdict.judged_at.date()
    return hashlib.sha256(f"{verdict.namespace}/{verdict.model}/{start.isoformat()}".encode()).hexdigest()[:7]


def _download(url: str, to: Path) -> None:
    """The address may hold a secret, so no message names it."""
    size = 0
    try:
        with requests.get(url, stream=True, timeout=(10, 30)) as answer, to.open("xb") as file:
            if answer.status_code != 200:
                raise ForgeFailed(f"GitHub answered {answer.status_code} to the download of the repository")
            for chunk in answer.iter_content(2**20):
                size += len(chunk)
                if size > ARCHIVE_BYTES:
                    raise ForgeFailed(f"the repository's archive is larger than {ARCHIVE_BYTES >> 20} MiB")
                file.write(chunk)
    except OSError as error:  # what requests raises is an OSError, too
        raise ForgeFailed(f"the repository could not be downloaded: {type(error).__name__}") from None


def unpack(archive: Path, into: Path) -> None:
    """Unpack the regular files of a repository's tar file, without the folder around them.

    Links and devices are left out, so that nothing can be written through one. Raises ForgeFailed for an
    archive that is broken, too large, or names a place outside.
    """
    files = size = 0
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts or "\0" in member.name:
                    raise ForgeFailed(f"the repository's archive names a place outside: {plain(member.name)}")
                files, size = files + 1, size + member.size
                if files > UNPACKED_FILES or size > UNPACKED_BYTES:
                    raise ForgeFailed("the repository's archive holds too much")
                content = tar.extractfile(member) if member.isreg() and len(path.parts) > 1 else None
                if content is None:
                    continue
                target = into.joinpath(*path.parts[1:])
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as file:
                    shutil.copyfileobj(content, file)
                target.chmod(0o755 if member.mode & 0o100 else 0o644)
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError) as error:
        raise ForgeFailed(f"the repository's archive is broken: {type(error).__name__}") from None


def _switched(tree: Path, settings: Publish, verdict: Verdict) -> dict[str, File | None]:
    """What changes when the standby takes over: new contents by path, None for files that go."""
    root = next(
        (
            tree / each
            for each in PurePosixPath(settings.folder).parents
            if (tree / each / "modelway.yaml").is_file()
        ),
        None,
    )
    if root is None:
        raise _NotPossible("failed", "No failover: the repository has no `modelway.yaml`.")
    spec, edited = _edited(root, verdict)
    before, executable = _snapshot(tree, settings.folder), bool(spec.stat().st_mode & 0o100)
    spec.write_bytes(edited)
    _compile(root, verdict.environment)
    after = _snapshot(tree, settings.folder)
    changed: dict[str, File | None] = {
        path: after.get(path) for path in before.keys() | after.keys() if before.get(path) != after.get(path)
    }
    if not changed:
        raise _NotPossible("failed", f"No failover: it changes nothing below {code(settings.folder)}.")
    return {spec.relative_to(tree).as_posix(): (edited, executable), **changed}


def _edited(root: Path, verdict: Verdict) -> tuple[Path, bytes]:
    """The file of the model's spec, and what it says with the standby active."""
    try:
        settings = yaml.safe_load((root / "modelway.yaml").read_bytes())
        specs = root / str((settings or {}).get("specs", "specs"))
        for path in sorted(each for each in specs.rglob("*") if each.suffix in (".yaml", ".yml")):
            edited = activate(path.read_text("utf-8"), verdict.environment, verdict.team, verdict.model)
            if edited is not None:
                return path, edited.encode()
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, AttributeError, RecursionError) as error:
        why = str(error) if isinstance(error, CannotEdit) else f"a spec is no YAML ({type(error).__name__})"
        raise _NotPossible("failed", f"No failover: {text(why)}.") from None
    raise _NotPossible("failed", f"No failover: no spec is of {code(verdict.team + '/' + verdict.model)}.")


def _compile(root: Path, environment: str) -> None:
    """The compiler of this installation, as a program of its own, which sees no variable of ours."""
    program = Path(sys.executable).with_name("modelway")
    if not program.is_file():
        raise _NotPossible("failed", "No failover: the compiler `modelway` is not installed here.")
    command = [str(program), "compile", "--quiet", "--environment", environment]
    variables = {"PATH": os.defpath, "LANG": "C.UTF-8", "NO_COLOR": "1"}
    try:
        done = subprocess.run(  # noqa: S603 - our own program, no shell
            command, cwd=root, env=variables, capture_output=True, timeout=COMPILE_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise _NotPossible("failed", f"No failover: compiling took longer than {COMPILE_S} s.") from None
    if done.returncode != 0:
        said = (done.stderr + done.stdout).decode("utf-8", "replace").strip()[:2000]
        raise _NotPossible("failed", f"No failover: the specs do not compile with it.\n{fence(said)}")


def _snapshot(tree: Path, folder: str) -> dict[str, File]:
    found = {path.relative_to(tree).as_posix(): path for path in (tree / folder).rglob("*") if path.is_file()}
    return {name: (path.read_bytes(), bool(path.stat().st_mode & 0o100)) for name, path in found.items()}


def _entries(changed: dict[str, File | None]) -> list[Json]:
    entries: list[Json] = []
    for path, new in sorted(changed.items()):
        entry: Json = {"path": path, "mode": "100755" if new and new[1] else "100644", "type": "blob"}
        entries.append(
            {**entry, "sha": None} if new is None else {**entry, "content": new[0].decode("utf-8")}
        )
    return entries


class CannotEdit(ValueError):
    """The spec cannot be changed by a program; the text says why."""


def activate(spec: str, environment: str, team: str, model: str) -> str | None:
    """A spec's text with ``spec.serving.standby.active: true`` for one environment; None: another model's.

    A single place is changed, so that comments and form stay; what comes out is read again and compared.
    Raises CannotEdit, and YAMLError where it is no YAML.
    """
    if model not in spec:
        return None
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(spec, yaml.SafeLoader)):
        raise CannotEdit(f"the file of {model}'s spec uses aliases of YAML, change it by hand")
    documents = list(yaml.safe_load_all(spec))
    index = next((at for at, each in enumerate(documents) if _is_model(each, team, model)), None)
    if index is None:
        return None
    path = ["spec", "environments", environment, "serving", "standby", "active"]
    edited = _with(spec, list(yaml.compose_all(spec, yaml.SafeLoader))[index], path)
    try:
        right = list(yaml.safe_load_all(edited)) == _wanted(documents, index, path)
    except (yaml.YAMLError, AttributeError):
        right = False
    if not right:
        raise CannotEdit(
            f"the spec of {model} is written in a way that a program cannot change, do it by hand"
        )
    return edited


def _is_model(document: object, team: str, model: str) -> bool:
    if not isinstance(document, dict) or document.get("kind") != "Model":
        return False
    metadata = document.get("metadata")
    return isinstance(metadata, dict) and (metadata.get("team"), metadata.get("name")) == (team, model)


def _wanted(documents: list[Json], index: int, path: list[str]) -> list[Json]:
    wanted = deepcopy(documents)
    inner = wanted[index]
    for key in path[:-1]:
        inner = inner.setdefault(key, {})
    inner[path[-1]] = True
    return wanted


def _with(spec: str, node: yaml.Node, path: list[str]) -> str:
    """The text with ``true`` at the path: the value replaced, or one entry added to the deepest mapping."""
    while path:
        if not isinstance(node, yaml.MappingNode):
            raise CannotEdit("a part of the spec that leads to the standby is no mapping, change it by hand")
        found = next((value for key, value in node.value if key.value == path[0]), None)
        if found is None:
            return _added(spec, node, path)
        node, path = found, path[1:]
    if isinstance(node, yaml.ScalarNode) and node.value == "true":
        raise CannotEdit("the standby is active already")
    return spec[: node.start_mark.index] + "true" + spec[node.end_mark.index :]


def _added(spec: str, mapping: yaml.MappingNode, path: list[str]) -> str:
    entry = f"{path[0]}: " + "".join(f"{{{key}: " for key in path[1:]) + "true" + "}" * (len(path) - 1)
    if not mapping.value:
        return spec[: mapping.start_mark.index] + "{" + entry + "}" + spec[mapping.end_mark.index :]
    at = _end(mapping.value[-1][1])
    if mapping.flow_style:
        return f"{spec[:at]}, {entry}{spec[at:]}"
    indent = " " * mapping.value[0][0].start_mark.column
    if at and spec[at - 1] == "\n":  # behind a block scalar
        return f"{spec[:at]}{indent}{entry}\n{spec[at:]}"
    line = spec.find("\n", at)
    line = len(spec) if line < 0 else line
    return f"{spec[:line]}\n{indent}{entry}{spec[line:]}"


def _end(node: yaml.Node) -> int:
    """Where a value's text ends; of a block collection PyYAML only says where the next token is."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)
