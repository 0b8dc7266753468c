"""The pull requests that revert and that fail over: what is in them, and when there is none."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from modelway_runtime.detection.follow_up import CannotEdit, activate, revert_command, unpack
from modelway_runtime.detection.forge import ForgeFailed
from modelway_runtime.detection.publish import Published
from modelway_runtime.detection.verdict import Commit
from tests.runtime.detection.publish.publish_helpers import (
    FOLDER,
    changed,
    later,
    live,
    run,
    settings,
    verdict,
)
from tests.support import small_shop
from tests.support.github import Fault, GitHub

REVERT = "modelway/revert-{}-prod-ranker"


def rolled_back(github: GitHub, folder: Path, sha: str, number: int | None) -> Published:
    return run(settings(github, folder), verdict(sha, number), "notify", "rollback")


def test_the_revert_puts_every_file_back(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    github.commit({"specs/search/other.yaml": "later\n"})
    main = github.head()
    (done,) = rolled_back(github, tmp_path, sha, number).follow_ups
    assert (done.kind, done.state) == ("rollback", "opened")
    branch = REVERT.format(sha[:7])
    assert github.files(branch) == {
        "README.md": github.files("main")["README.md"],
        "specs/search/ranker.yaml": "version: 45\n",
        "specs/search/other.yaml": "later\n",
        f"{FOLDER}/a.yaml": "45\n",
        f"{FOLDER}/gone.yaml": "x\n",
    }
    commit = github.ask("GET", f"git/commits/{github.head(branch)}")
    assert [each["sha"] for each in commit["parents"]] == [main]
    assert f"This reverts commit {sha}." in commit["message"]
    assert github.head() == main
    pull = github.ask("GET", f"pulls/{done.number}")
    assert (pull["head"]["ref"], pull["base"]["ref"], pull["state"]) == (branch, "main", "open")
    assert f"Pull request #{done.number} reverts the change" in live(github, number)[0]
    assert f"git revert --no-edit -m 1 {sha}" in pull["body"]


def test_a_merge_commit_is_reverted_to_its_first_parent(github: GitHub, tmp_path: Path) -> None:
    github.commit({"specs/a.yaml": "1\n", f"{FOLDER}/a.yaml": "1\n"})
    github.commit({"specs/a.yaml": "2\n"}, on="feature")
    github.commit({f"{FOLDER}/a.yaml": "2\n"}, on="feature")
    number = github.pull("feature")
    sha = github.merge(number, "merge")
    rolled_back(github, tmp_path, sha, number)
    files = github.files(REVERT.format(sha[:7]))
    assert (files["specs/a.yaml"], files[f"{FOLDER}/a.yaml"]) == ("1\n", "1\n")


def test_a_second_run_opens_no_second_and_writes_nothing(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    first = rolled_back(github, tmp_path, sha, number)
    github.requests.clear()
    again = rolled_back(github, tmp_path, sha, number)
    assert again.follow_ups[0].number == first.follow_ups[0].number
    assert (again.follow_ups[0].state, again.comment) == ("open", "unchanged")
    assert [each for each in github.requests if not each.startswith("GET")] == []


def test_one_that_was_closed_stays_closed(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    (done,) = rolled_back(github, tmp_path, sha, number).follow_ups
    github.ask("PATCH", f"pulls/{done.number}", {"state": "closed"})
    (again,) = run(settings(github, tmp_path), verdict(sha, number, **later(5)), "rollback").follow_ups
    assert (again.state, again.number) == ("closed", done.number)
    assert len(github.pulls()) == 2


def test_a_run_that_was_cut_off_behind_the_branch_is_finished(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    github.faults.append(Fault("POST .*/pulls", status=422))
    (cut,) = rolled_back(github, tmp_path, sha, number).follow_ups
    assert cut.state == "failed"
    assert "No pull request for the rollback" in live(github, number)[0]
    (done,) = rolled_back(github, tmp_path, sha, number).follow_ups
    assert done.state == "opened"
    assert f"Pull request #{done.number}" in live(github, number)[0]


@pytest.mark.parametrize("what", ["trees", "commits", "refs", "pulls"])
def test_answers_that_are_lost_open_no_second(github: GitHub, tmp_path: Path, what: str) -> None:
    sha, number = changed(github)
    github.faults.append(Fault(f"POST .*/{what}", status=502, after=True))
    (done,) = rolled_back(github, tmp_path, sha, number).follow_ups
    assert done.state in ("opened", "open")
    assert len(github.pulls()) == 2


def test_a_file_that_changed_again_is_a_conflict(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    github.commit({f"{FOLDER}/a.yaml": "47\n"})
    (done,) = rolled_back(github, tmp_path, sha, number).follow_ups
    assert (done.state, done.number) == ("conflict", None)
    assert len(github.pulls()) == 1
    text = live(github, number)[0]
    assert f"- `{FOLDER}/a.yaml`\n" in text
    assert "new.yaml" not in text
    assert f"```sh\ngit revert --no-edit -m 1 {sha}\n```" in text


def test_what_is_back_already_is_left(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    github.commit({"specs/search/ranker.yaml": "version: 45\n", f"{FOLDER}/gone.yaml": "x\n"})
    github.commit({f"{FOLDER}/a.yaml": "45\n", f"{FOLDER}/new.yaml": None})
    (done,) = rolled_back(github, tmp_path, sha, number).follow_ups
    assert done.state == "nothing"
    assert len(github.pulls()) == 1


@pytest.mark.parametrize("state", ["improved", "unchanged", "pending", "inconclusive"])
def test_only_a_regression_has_follow_ups(github: GitHub, tmp_path: Path, state: str) -> None:
    sha, number = changed(github)
    done = run(settings(github, tmp_path), verdict(sha, number, state=state), "rollback", "failover")
    assert done.follow_ups == ()
    assert len(github.pulls()) == 1


def test_only_what_the_response_names_is_done(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    assert run(settings(github, tmp_path), verdict(sha, number), "notify", "restart").follow_ups == ()
    assert len(github.pulls()) == 1


def test_a_list_of_files_that_is_cut_short_reverts_nothing(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    short = Fault("GET .*/git/trees/", change=lambda *_: (200, {}, b'{"tree": [], "truncated": true}'))
    github.faults.append(short)
    (done,) = rolled_back(github, tmp_path, sha, number).follow_ups
    assert done.state == "failed"
    assert len(github.pulls()) == 1


def test_the_revert_command_reverts_both_kinds_of_commit(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=x", "-c", "user.email=x@x", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    file = tmp_path / "file"
    git("init", "-q", "-b", "main")
    for text in ("1", "2"):
        file.write_text(text)
        git("add", "-A")
        git("commit", "-qm", text)
    plain = git("rev-parse", "HEAD")
    git("switch", "-qc", "feature")
    file.write_text("3")
    git("commit", "-qam", "3")
    git("switch", "-q", "main")
    git("merge", "-q", "--no-ff", "feature")
    merge = git("rev-parse", "HEAD")
    for sha, text in ((merge, "2"), (plain, "1")):
        git(*revert_command(Commit(sha=sha, found_by="history")).split()[1:])
        assert file.read_text() == text
    assert revert_command(Commit(sha="$(id)", found_by="history")).endswith(" '$(id)'")


LITE = small_shop.MODEL.replace("name: ranker,", "name: ranker-lite,").replace("ranker.onnx", "lite.onnx")
PRIMARY = small_shop.MODEL.replace(
    "serving: {resource: cpu-small}",
    "serving:\n    resource: cpu-small # small enough\n    standby: {model: ranker-lite}\n  # the end",
)
SPECS = {
    "modelway.yaml": small_shop.SETTINGS,
    "specs/environments/local.yaml": small_shop.LOCAL,
    "specs/environments/prod.yaml": small_shop.PROD,
    "specs/resources/cpu-small.yaml": small_shop.CPU,
    "specs/search/models.yaml": f"{LITE}---\n{PRIMARY}",
}


def modelway(command: str, tree: Path) -> int:
    program = Path(sys.executable).with_name("modelway")
    done = subprocess.run([program, command, "--quiet"], cwd=tree, capture_output=True, text=True, timeout=60)
    print(done.stdout, done.stderr)
    return done.returncode


def write(files: dict[str, str], tree: Path) -> None:
    for path, text in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)


def shop(github: GitHub, tree: Path) -> None:
    """A repository that compiles, with its generated files."""
    write(SPECS, tree)
    assert modelway("compile", tree) == 0
    github.commit(
        {path.relative_to(tree).as_posix(): path.read_text() for path in tree.rglob("*") if path.is_file()}
    )


def test_failover_switches_the_standby_and_recompiles(github: GitHub, tmp_path: Path) -> None:
    shop(github, tmp_path / "shop")
    sha, number = changed_spec(github)
    main, before = github.head(), github.files("main")
    done = run(settings(github, tmp_path), verdict(sha, number), "failover").follow_ups[0]
    assert (done.kind, done.state) == ("failover", "opened"), done.text
    assert github.head() == main
    branch = f"modelway/failover-prod-ranker-{sha[:7]}"
    after = github.files(branch)
    differing = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    ours = ("generated/prod/search/", "generated/.index/prod/")
    assert [path for path in differing if not path.startswith(ours)] == ["specs/search/models.yaml"]
    assert len(differing) > 1
    added = set(after["specs/search/models.yaml"].splitlines()) - set(
        before["specs/search/models.yaml"].splitlines()
    )
    assert added == {"  environments: {prod: {serving: {standby: {active: true}}}}"}
    write(after, tmp_path / "after")
    assert modelway("check", tmp_path / "after") == 0
    assert f"Pull request #{done.number} shifts the traffic" in live(github, number)[0]
    again = run(settings(github, tmp_path), verdict(sha, number, **later(5)), "failover").follow_ups[0]
    assert (again.state, again.number) == ("open", done.number)


def changed_spec(github: GitHub) -> tuple[str, int]:
    github.commit({"docs.md": "x\n"}, on="slower")
    number = github.pull("slower")
    return github.merge(number), number


def test_failover_of_a_repository_that_does_not_compile(github: GitHub, tmp_path: Path) -> None:
    shop(github, tmp_path / "shop")
    github.commit({"specs/resources/cpu-small.yaml": None})
    sha, number = changed_spec(github)
    (done,) = run(settings(github, tmp_path), verdict(sha, number), "failover").follow_ups
    assert done.state == "failed"
    assert "the specs do not compile with it" in live(github, number)[0]
    assert "cpu-small" in live(github, number)[0]
    assert len(github.pulls()) == 1


def test_failover_of_a_repository_without_the_model(github: GitHub, tmp_path: Path) -> None:
    shop(github, tmp_path / "shop")
    sha, number = changed_spec(github)
    (done,) = run(settings(github, tmp_path), verdict(sha, number, team="ads"), "failover").follow_ups
    assert (done.state, "no spec is of `ads/ranker`" in done.text) == ("failed", True)


def test_failover_from_a_hostile_archive(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    github.archive = archive(("top/../../escaped", b"x", tarfile.REGTYPE))
    (done,) = run(settings(github, tmp_path), verdict(sha, number), "failover").follow_ups
    assert done.state == "failed"
    assert "names a place outside" in re.sub(r"[\\\u2060]", "", done.text)


def archive(*members: tuple[str, bytes, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content, kind in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            member.linkname = content.decode() if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            member.size = len(content) if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "members",
    [
        [("/etc/escaped", b"x", tarfile.REGTYPE)],
        [("top/../escaped", b"x", tarfile.REGTYPE)],
        [("../escaped", b"x", tarfile.REGTYPE)],
        [("top/a", b"x", tarfile.REGTYPE), ("top/a", b"y", tarfile.REGTYPE)],
        [("top/a", b"x", tarfile.REGTYPE), ("top/a/b", b"y", tarfile.REGTYPE)],
    ],
)
def test_entries_that_are_hostile_are_refused(
    tmp_path: Path, members: list[tuple[str, bytes, bytes]]
) -> None:
    (tmp_path / "archive").write_bytes(archive(*members))
    with pytest.raises(ForgeFailed):
        unpack(tmp_path / "archive", tmp_path / "in" / "tree")
    assert list(tmp_path.rglob("escaped")) == []


def test_links_and_devices_are_left_out(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    members = [
        ("top/link", str(outside).encode(), tarfile.SYMTYPE),
        ("top/link/escaped", b"x", tarfile.REGTYPE),
        ("top/hard", b"/etc/passwd", tarfile.LNKTYPE),
        ("top/pipe", b"", tarfile.FIFOTYPE),
    ]
    (tmp_path / "archive").write_bytes(archive(*members))
    unpack(tmp_path / "archive", tmp_path / "tree")
    assert [path.name for path in (tmp_path / "tree").rglob("*") if not path.is_dir()] == ["escaped"]
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("what", ["empty", "none", "short"])
def test_an_archive_that_is_broken_is_an_error(tmp_path: Path, what: str) -> None:
    short = archive(("top/a", b"x" * 9999, tarfile.REGTYPE))[:60]
    (tmp_path / "archive").write_bytes({"empty": b"", "none": b"no tar", "short": short}[what])
    with pytest.raises(ForgeFailed, match="broken"):
        unpack(tmp_path / "archive", tmp_path / "tree")


HEAD = "kind: Model\nmetadata: {team: search, name: ranker}\n"
SPELLINGS = [
    HEAD + "spec: {version: 1}\n",
    HEAD + "spec: {}\n",
    HEAD + "spec:\n  version: 1 # comment\n",
    HEAD + "spec:\n  version: 1",
    HEAD + "spec:\n  environments: {}\n  version: 1\n",
    HEAD + "spec:\n  environments: {dev: {version: 2},}\n",
    HEAD + "spec:\n  environments:\n    # first\n    dev: {version: 2}\n    # last\n",
    HEAD + "spec:\n  environments:\n    prod: {version: 2}\n",
    HEAD + "spec:\n  environments:\n    prod:\n      serving:\n        standby:\n          tripAfter: 2\n  x: 1\n",
    HEAD + "spec:\n  environments:\n    prod: {serving: {standby: {active: false}}}\n",
    HEAD + "spec:\n  environments:\n    prod:\n      notes: |\n        text\n\n        more\n",
    HEAD + "spec:\n  environments:\n    prod:\n      list:\n      - a\n      - b: 1\n        c: 2\n  x: 1\n",
    "a: 1\n---\n" + HEAD + "spec:\n  version: 1\n...\n---\nb: 2\n",
    HEAD.replace("\n", "\r\n") + "spec:\r\n  version: 1\r\n",
    HEAD + "spec:\n  version: größer 🚀\n  environments: {dev: {version: ä}}\n",
]  # fmt: skip


@pytest.mark.parametrize("spec", SPELLINGS)
def test_one_place_of_a_spec_is_changed(spec: str) -> None:
    edited = activate(spec, "prod", "search", "ranker")
    assert edited is not None
    before, after = (list(yaml.safe_load_all(text)) for text in (spec, edited))
    (new,) = (each for each in after if each.get("kind") == "Model")
    assert new["spec"]["environments"]["prod"]["serving"]["standby"].pop("active") is True
    for kept in re.findall(r"#.*", spec):
        assert kept in edited
    assert len(set(edited.splitlines()) - set(spec.splitlines())) == 1
    assert len(before) == len(after)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (HEAD + "spec: {environments: {prod: {serving: {standby: {active: true}}}}}\n", "active already"),
        (HEAD + "spec: {environments: {prod: {serving: null}}}\n", "no mapping"),
        (HEAD + "spec: &s {environments: {}}\nother: *s\n", "aliases"),
    ],
)
def test_a_spec_that_cannot_be_changed_is_refused(spec: str, why: str) -> None:
    with pytest.raises(CannotEdit, match=why):
        activate(spec, "prod", "search", "ranker")


def test_another_models_spec_is_none() -> None:
    assert activate(HEAD + "spec: {}\n", "prod", "ads", "ranker") is None
    assert (
        activate("kind: Alert\nmetadata: {team: search, name: ranker}\n", "prod", "search", "ranker") is None
    )
