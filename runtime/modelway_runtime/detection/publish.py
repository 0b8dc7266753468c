"""A verdict on the pull request that caused it: one comment a model and environment, a check, a label.

``publish`` may be called again with the same verdict, by many runs at once, after a crash at any point:
it reads what stands and changes only what differs. What is done, in this order:

1. our comment on the pull request is looked for; if it holds a later verdict, nothing is done;
2. the follow-ups of a regression (``follow_up``), since the comment names their pull requests;
3. the comment, 4. the check run on the commit, 5. the label.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Literal, TypeAlias
from urllib.parse import quote

import msgspec

from modelway_runtime.detection.follow_up import FollowUp, follow_up
from modelway_runtime.detection.forge import Forge, ForgeFailed
from modelway_runtime.detection.sanitise import code, plain, text
from modelway_runtime.detection.settings import Publish, Watched
from modelway_runtime.detection.verdict import State, Verdict

LIMIT = 65_536
"""Characters of a comment; GitHub refuses more."""
ROUNDS = 8
"""Times that a comment is looked at and mended before it is left to the next run."""
STATES: tuple[State, ...] = ("regressed", "inconclusive", "pending", "improved", "unchanged")
"""The one that weighs most is the label of a pull request with several verdicts."""
COMMENTED: dict[str, frozenset[State]] = {
    "always": frozenset(STATES),
    "changed": frozenset({"regressed", "improved"}),
    "regressed": frozenset({"regressed"}),
}
_PREFIX = "modelway:"
_MARKER = re.compile(
    r"<!-- modelway key=(?P<key>\S+) run=(?P<run>\S+) at=(?P<at>\S+) digest=(?P<digest>sha256:[0-9a-f]{64})"
    r" state=(?P<state>[a-z]+) -->"
)
_DUPLICATE = "duplicate"

Done: TypeAlias = Literal["created", "updated", "unchanged", "older", "none"]


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """What was done. ``problems`` says what could not be, other than the comment, which raises."""

    comment: Done
    comment_id: int | None = None
    check: Done = "none"
    label: str | None = None
    follow_ups: tuple[FollowUp, ...] = ()
    problems: tuple[str, ...] = ()


class Marker(msgspec.Struct, frozen=True):
    """The first line of a comment. Of two, the later ``(at, run)`` holds."""

    key: str
    run: str
    at: datetime
    digest: str
    state: str

    @property
    def version(self) -> tuple[datetime, str]:
        return self.at, self.run

    def __str__(self) -> str:
        at = self.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return (
            f"<!-- modelway key={self.key} run={self.run} at={at} digest={self.digest} state={self.state} -->"
        )


class _Author(msgspec.Struct, frozen=True):
    login: str


class _Comment(msgspec.Struct, frozen=True):
    id: int
    body: str | None = None
    user: _Author | None = None


class _Ours(msgspec.Struct, frozen=True):
    """A comment of ours."""

    id: int
    marker: Marker
    body: str


class _Label(msgspec.Struct, frozen=True):
    name: str


class _App(msgspec.Struct, frozen=True):
    slug: str | None = None


class _Output(msgspec.Struct, frozen=True):
    title: str | None = None
    summary: str | None = None


class _CheckRun(msgspec.Struct, frozen=True):
    id: int
    name: str
    status: str
    conclusion: str | None = None
    external_id: str | None = None
    output: _Output = _Output()
    app: _App | None = None


class _Nothing(msgspec.Struct, frozen=True):
    """An answer that nothing is read from."""


def publish(
    forge: Forge, settings: Publish, watched: Watched, verdict: Verdict, body_of: Callable[[Verdict], str]
) -> Published:
    """Publish a verdict, given the comment's Markdown. Raises ForgeFailed where the comment fails."""
    number = verdict.pull_request.number if verdict.pull_request else None
    standing = _comments(forge, number) if number is not None else []
    key = _key(verdict)
    mine = [comment for comment in standing if comment.marker.key == key]
    if any(comment.marker.version > _version(verdict) for comment in mine if _is_live(comment)):
        return Published(comment="older", comment_id=mine[0].id)
    done = follow_up(forge, settings, watched, verdict)
    comment: Done = "none"
    comment_id = None
    if number is not None and (mine or verdict.state in COMMENTED[settings.comment]):
        comment, comment_id = _settle(forge, number, compose(verdict, body_of(verdict), done))
    problems: list[str] = []
    check: Done = "none"
    label = None
    try:
        check = _check(forge, verdict) if verdict.commit else "none"
    except ForgeFailed as failed:
        problems.append(f"no check run: {failed}")
    try:
        label = _label(forge, number, verdict) if number is not None else None
    except ForgeFailed as failed:
        problems.append(f"no label: {failed}")
    return Published(
        comment=comment,
        comment_id=comment_id,
        check=check,
        label=label,
        follow_ups=done,
        problems=tuple(problems),
    )


def compose(verdict: Verdict, body: str, done: Iterable[FollowUp] = ()) -> str:
    """The comment: marker, what was left out, the body with the follow-ups before its first ``<details>``."""
    sections = _sections(body)
    follow_ups = [f"{each.text}\n" for each in done]
    first = next((index for index, (title, _) in enumerate(sections) if title is not None), len(sections))
    sections[first:first] = [(None, each) for each in follow_ups]
    at, run = _version(verdict)
    marker = Marker(_key(verdict), run, at, "sha256:" + "0" * 64, verdict.state)
    fitted = fit(sections, LIMIT - len(str(marker)) - 1)
    digest = "sha256:" + hashlib.sha256(fitted.encode("utf-8", "replace")).hexdigest()
    return f"{msgspec.structs.replace(marker, digest=digest)}\n{fitted}"


Section: TypeAlias = tuple[str | None, str]
"""A part of a body, and the title where it is a ``<details>``."""


def fit(sections: list[Section], budget: int) -> str:
    """The parts that fit, in their order; what stands outside ``<details>`` goes first. Says what misses."""
    whole = "\n".join(part for _, part in sections)
    if len(whole) <= budget:
        return whole
    left = budget - 2_000  # for the line that says what is missing
    kept: dict[int, str] = {}
    missing: list[str] = []
    for index in sorted(range(len(sections)), key=lambda index: sections[index][0] is not None):
        title, part = sections[index]
        if len(part) + 1 > left:
            missing.append(title if title is not None else "the end of the text")
            part = _cut(part, left - 1) if title is None else ""
        if part:
            kept[index] = part
            left -= len(part) + 1
    named = "; ".join(code(title, 60) for title in missing[:8])
    more = f"; and {len(missing) - 8} more" if len(missing) > 8 else ""
    note = f"> [!NOTE]\n> Too long for a comment, left out: {named}{more}.\n"
    return "\n".join([note, *(kept[index] for index in sorted(kept))])


def _sections(body: str) -> list[Section]:
    """A body at the bounds of its outermost ``<details>``; what stands in a fence is no bound."""
    sections: list[Section] = []
    lines: list[str] = []
    depth, fence = 0, ""

    def end(title: str | None) -> None:
        if lines:
            sections.append((title, "\n".join(lines)))
            lines.clear()

    for line in body.split("\n"):
        ticks = re.match(r" {0,3}(`{3,}|~{3,})", line)
        if ticks and not fence:
            fence = ticks[1]
        elif ticks and line.strip().strip(fence[0]) == "" and len(ticks[1]) >= len(fence):
            fence = ""
        opened = 0 if fence else line.count("<details")
        if opened and depth == 0:
            end(None)
        lines.append(line)
        if opened or (depth and not fence):
            depth += opened - line.count("</details>")
            if depth <= 0:
                depth = 0
                end(_title("\n".join(lines)))
    end(_title("\n".join(lines)) if depth else None)
    return sections


def _title(part: str) -> str:
    found = re.search(r"<summary>(.*?)</summary>", part, re.DOTALL)
    return plain(re.sub(r"<[^>]*>|[`*_\\]", "", found[1])).strip() if found else "a section"


def _cut(part: str, longest: int) -> str:
    """The lines that fit; a fence that is open at the cut is closed."""
    lines: list[str] = []
    fence, left = "", longest - 200
    for line in part.split("\n"):
        if len(line) + 1 > left:
            break
        ticks = re.match(r" {0,3}(`{3,}|~{3,})", line)
        if ticks and len(ticks[1]) < 190:
            fence = ticks[1] if not fence else "" if ticks[1].startswith(fence) else fence
        lines.append(line)
        left -= len(line) + 1
    return "\n".join([*lines, *([fence] if fence else [])])


def _key(verdict: Verdict) -> str:
    names = (quote(name, safe="") for name in (verdict.environment, verdict.team, verdict.model))
    return "verdict/" + "/".join(names)


def _version(verdict: Verdict) -> tuple[datetime, str]:
    return verdict.judged_at.astimezone(UTC).replace(microsecond=0), quote(verdict.id, safe="")


def _marker(body: str | None) -> Marker | None:
    found = _MARKER.fullmatch((body or "").split("\n", 1)[0].strip())
    if not found:
        return None
    try:
        at = datetime.fromisoformat(found["at"])
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return Marker(found["key"], found["run"], at, found["digest"], found["state"])


def _comments(forge: Forge, number: int) -> list[_Ours]:
    """Our comments on a pull request, the lowest id first: by the marker and by the author."""
    listed = forge.pages(f"/issues/{number}/comments", _Comment, "id")
    marked = [(comment, marker) for comment in listed if (marker := _marker(comment.body))]
    if not marked:
        return []
    author = forge.author.lower()
    ours = (
        _Ours(comment.id, marker, (comment.body or "").replace("\r\n", "\n"))
        for comment, marker in marked
        if comment.user and comment.user.login.lower() == author
    )
    return sorted(ours, key=lambda comment: comment.id)


def _is_live(comment: _Ours) -> bool:
    return comment.marker.state != _DUPLICATE


def _settle(forge: Forge, number: int, body: str) -> tuple[Done, int | None]:
    """Look, mend, look again, until one live comment holds the latest verdict. No run can lock GitHub, so
    each that has written looks whether another wrote meanwhile: the lowest id wins, with the latest text."""
    mine = _marker(body)
    assert mine is not None
    done: Done = "unchanged"
    posted = None
    for _ in range(ROUNDS):
        ours = [each for each in _comments(forge, number) if each.marker.key == mine.key]
        if not ours:
            if posted is not None:  # GitHub does not list it yet
                break
            posted = forge.send("POST", f"/issues/{number}/comments", _Comment, {"body": body}).id
            done = "created"
            continue
        first, *others = ours
        live = [each for each in others if _is_live(each)]
        best = max([_Ours(0, mine, body), *live], key=lambda each: each.marker.version)
        stands = first.marker
        newer = best.marker.version >= stands.version and best.marker.digest != stands.digest
        if newer or not _is_live(first):
            forge.send("PATCH", f"/issues/comments/{first.id}", _Nothing, {"body": best.body})
            done = "updated" if done == "unchanged" else done
        elif not live:
            return ("older" if stands.version > mine.version else done), first.id
        for each in live:
            pointer = _pointer(each.marker, first.id)
            forge.send("PATCH", f"/issues/comments/{each.id}", _Nothing, {"body": pointer})
    return done, posted


def _pointer(marker: Marker, to: int) -> str:
    pointer = msgspec.structs.replace(marker, state=_DUPLICATE)
    return f"{pointer}\nTwo runs wrote at once: the verdict stands in [this comment](#issuecomment-{to})."


def _check(forge: Forge, verdict: Verdict) -> Done:
    """A check run on the commit. GitHub lets only Apps write them: a token's refusal ends as a problem."""
    assert verdict.commit is not None
    name = _key(verdict).replace("verdict/", "modelway/verdict/", 1)
    at, run = _version(verdict)
    wanted = {
        "external_id": f"{at.isoformat()} {run}",
        "output": {"title": _headline(verdict), "summary": _summary(verdict)},
        **_conclusion(verdict),
    }
    path = f"/commits/{verdict.commit.sha}/check-runs"
    asked: dict[str, str | int] = {"check_name": name, "filter": "latest"}
    listed = forge.pages(path, _CheckRun, "id", asked, item="check_runs")
    standing = max(
        (run for run in listed if _is_ours(forge, run, name)), key=lambda run: run.id, default=None
    )
    if standing is None:
        body = {"name": name, "head_sha": verdict.commit.sha, **wanted}
        forge.send("POST", "/check-runs", _Nothing, body)
        return "created"
    held = str(standing.external_id or "").split(" ", 1)
    if _is_later(held, (at, run)):
        return "older"
    same = (standing.status, standing.conclusion, standing.output.title, standing.output.summary)
    if same == (wanted["status"], wanted.get("conclusion"), _headline(verdict), _summary(verdict)):
        return "unchanged"
    forge.send("PATCH", f"/check-runs/{standing.id}", _Nothing, wanted)
    return "updated"


def _is_ours(forge: Forge, run: _CheckRun, name: str) -> bool:
    author = forge.author
    other = author.endswith("[bot]") and run.app and run.app.slug and f"{run.app.slug}[bot]" != author
    return run.name == name and not other


def _is_later(held: list[str], version: tuple[datetime, str]) -> bool:
    """Whether the ``external_id`` of a check run is of a later verdict."""
    try:
        at = datetime.fromisoformat(held[0])
    except ValueError:
        return False
    return len(held) == 2 and at.tzinfo is not None and (at, held[1]) > version


def _conclusion(verdict: Verdict) -> dict[str, str]:
    if verdict.state == "pending":
        return {"status": "in_progress"}
    conclusion = "neutral" if verdict.outcome == "inconclusive" else verdict.outcome
    return {"status": "completed", "conclusion": conclusion}


def _headline(verdict: Verdict) -> str:
    return plain(f"{verdict.model} {verdict.state} in {verdict.environment}", 200)


def _summary(verdict: Verdict) -> str:
    """Markdown: which metrics, and what is not decided."""
    lines = [f"{text(each.name)}: {each.state}" for each in verdict.metrics[:50]]
    if verdict.reason is not msgspec.UNSET:
        lines.append(f"Not decided: {verdict.reason.replace('_', ' ')}.")
    if verdict.decided_at is not msgspec.UNSET:
        lines.append(f"Decided at {verdict.decided_at.isoformat()}.")
    return "\n".join(f"- {line}" for line in lines)


def _label(forge: Forge, number: int, verdict: Verdict) -> str:
    """One label of ours: of the weightiest verdict that stands on the pull request, this one included."""
    key = _key(verdict)
    states = {verdict.state} | {
        each.marker.state for each in _comments(forge, number) if each.marker.key != key
    }
    wanted = _PREFIX + next(state for state in STATES if state in states)
    labels = {each.name for each in forge.pages(f"/issues/{number}/labels", _Label, "name")}
    if wanted not in labels:
        forge.send("POST", f"/issues/{number}/labels", list[_Label], {"labels": [wanted]})
    for name in sorted(labels & {_PREFIX + state for state in STATES} - {wanted}):
        try:
            forge.send("DELETE", f"/issues/{number}/labels/{quote(name, safe='')}", list[_Label])
        except ForgeFailed as failed:
            if failed.status != 404:  # another run took it off
                raise
    return wanted
