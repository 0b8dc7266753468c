"""Whatever is wrong with specs, folders, disk or surroundings: it is told, and nothing is written."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.running import (
    DISK,
    FOUND,
    RUN,
    STALE,
    Ran,
    assert_harmless,
    assert_told,
    environment,
    modelway,
    repository,
    snapshot,
)
from tests.support.small_shop import ALERT, CPU, HEAD, MODEL, PROD, ZEROS

Placed = tuple[str, int]  # code and line


def compiled(tmp_path: Path, files: dict[str, str | bytes] | None = None) -> tuple[Path, dict[str, str]]:
    """A repository that was compiled, and what its output folder holds."""
    root = repository(tmp_path, files)
    ran = modelway("compile", cwd=root)
    assert ran.code == 0, ran.err
    return root, snapshot(root / "generated")


def reported(ran: Ran) -> dict[str, set[Placed]]:
    """Path -> what ``--format json`` says of it; warnings and notes left out."""
    assert ran.err == "", ran.err
    assert_harmless(ran)
    found: dict[str, set[Placed]] = {}
    for one in json.loads(ran.out)["diagnostics"]:
        assert one["message"]
        assert one["line"] >= 1
        assert one["column"] >= 1
        if one["severity"] == "error":
            found.setdefault(one["path"], set()).add((one["code"], one["line"]))
    return found


def cpu(body: str) -> str:
    """A Resource whose ``spec`` begins in line 4."""
    return f"{HEAD}kind: Resource\nmetadata: {{name: bad}}\nspec:\n{body}"


def labelled(value: str) -> str:
    """A Resource with ``value`` for a label, in line 3."""
    return CPU.replace("name: cpu-small", f"name: bad, labels: {{a: {value}}}")


def called(name: str) -> str:
    """A Resource of this name, in line 3."""
    return CPU.replace("cpu-small", name)


def bomb(depth: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, depth)]
    return "\n".join(lines) + "\n"


# Files that are wrong by themselves, and what is said of each.
FILES: dict[str, tuple[str | bytes, set[Placed]]] = {
    "latin1": (labelled("Zoë").encode("latin-1"), {("MW004", 3)}),
    "utf16": (CPU.encode("utf-16"), {("MW004", 1)}),
    "utf16-without-mark": (CPU.encode("utf-16-be"), {("MW004", 1)}),
    "utf32": (CPU.encode("utf-32"), {("MW004", 1)}),
    "overlong": (labelled("a").encode() + b"# \xc0\xaf\n", {("MW004", 5)}),
    "surrogate": (labelled("a").encode() + b"# \xed\xa0\x80\n", {("MW005", 5)}),
    "nul": (labelled('"a\0b"'), {("MW005", 3)}),
    "bell": (labelled("a\x07"), {("MW005", 3)}),
    "escape": (labelled("\x1b[31mred"), {("MW005", 3)}),
    "line-separator": (labelled("a\u2028b"), {("MW005", 3)}),
    "tab": (cpu("\tcpu: '2'\n"), {("MW006", 5)}),
    "unclosed": (cpu("  cpu: '2\n"), {("MW006", 6)}),
    "no-yaml": ("<html><body>&nbsp;</body></html>\n", {("MW101", 1)}),
    "binary": (bytes(range(256)) * 8, {("MW004", 3)}),
    "duplicate": (cpu("  cpu: '2'\n  memory: 4Gi\n  cpu: '2'\n"), {("MW012", 7)}),
    "self-alias": (cpu("  cpu: &a [*a]\n"), {("MW009", 5)}),
    "no-anchor": (cpu("  cpu: *a\n"), {("MW006", 5)}),
    "laughs": (bomb(9), {("MW008", 5)}),
    "tag": (cpu("  cpu: !!python/object/apply:os.system ['touch pwned']\n"), {("MW010", 5)}),
    "merge": (cpu("  <<: {cpu: '2'}\n  memory: 4Gi\n"), {("MW011", 5)}),
    "yes": (labelled("yes"), {("MW014", 3)}),
    "off": (labelled("Off"), {("MW014", 3)}),
    "octal": (labelled("010"), {("MW015", 3)}),
    "octal-1.2": (labelled("0o10"), {("MW015", 3)}),
    "sexagesimal": (labelled("12:30:45"), {("MW015", 3)}),
    "commit": (labelled("1494e89"), {("MW015", 3)}),
    "date": (labelled("2026-11-01"), {("MW016", 3)}),
    "time": (labelled("2026-11-01T10:00:00Z"), {("MW016", 3)}),
    "infinite": (labelled(".inf"), {("MW017", 3)}),
    "nan": (labelled(".NaN"), {("MW017", 3)}),
    "long-number": (labelled("9" * 5000), {("MW017", 3)}),
    "long-fraction": (labelled("0." + "9" * 5000), {("MW106", 3)}),
    "nested": (cpu("  cpu: " + "[" * 20_000 + "]" * 20_000 + "\n"), {("MW007", 5)}),
    "nested-blocks": (cpu("  cpu:\n" + "".join(" " * n + "-\n" for n in range(4, 300))), {("MW007", 104)}),
    "unclosed-nested": ("{" * 20_000, {("MW007", 1)}),
    "list": (f"- {HEAD}", {("MW101", 1)}),
    "scalar": ("ranker\n", {("MW101", 1)}),
    "list-for-mapping": (f"{HEAD}kind: Resource\nmetadata: [bad]\nspec: []\n", {("MW106", 3), ("MW106", 4)}),
    "number-key": (cpu("  1: 2\n  cpu: '2'\n  memory: 4Gi\n"), {("MW013", 5)}),
    "list-key": (cpu("  [a]: 2\n"), {("MW013", 5)}),
    "null-key": (cpu("  ~: 2\n"), {("MW013", 5)}),
    "unknown-field": (cpu("  cpu: '2'\n  memory: 4Gi\n  memroy: 4Gi\n"), {("MW104", 7)}),
    "unknown-kind": ("apiVersion: modelway.dev/v1alpha1\nkind: Modell\n", {("MW102", 2)}),
    "unknown-version": ("apiVersion: modelway.dev/v2\nkind: Model\n", {("MW103", 1)}),
    "later-document": (
        called("first") + "---\n" + cpu("  cpu: 2"),
        {("MW105", 9), ("MW106", 10)},
    ),
    "after-malformed": ("a: [\n---\nkind: Modell\n", {("MW006", 2), ("MW101", 3)}),
    "digest": (
        MODEL.replace("ranker", "bad").replace(ZEROS, "sha256:abc"),
        {("MW108", 6)},
    ),
    "up": (called("../../../etc/passwd"), {("MW108", 3)}),
    "absolute": (called("/etc/passwd"), {("MW108", 3)}),
    "markup": (called('"<script>alert(1)</script>"'), {("MW108", 3)}),
    "ansi-name": (called(r'"\e[2J\e[31mred"'), {("MW108", 3)}),
    "template-name": (called('"{{ 7*7 }}"'), {("MW108", 3)}),
    "long-name": (called("a" * 64), {("MW108", 3)}),
    "ansi-key": (cpu("  \"\\e]0;owned\\a\": 1\n  cpu: '2'\n  memory: 4Gi\n"), {("MW104", 5)}),
    "workflow-command": (
        cpu("  \"\\n::set-output name=a::b\\n::error::x\": 1\n  cpu: '2'\n  memory: 4Gi\n"),
        {("MW104", 5)},
    ),
    "bidi": (cpu("  \"\\u202Eupc\": 1\n  cpu: '2'\n  memory: 4Gi\n"), {("MW104", 5)}),
    "null-spec": (f"{HEAD}kind: Resource\nmetadata:\nspec:\n", {("MW106", 3), ("MW106", 4)}),
    "secret": (
        MODEL.replace("ranker", "bad").replace("s3://", "https://user:hunter2@"),
        {("MW108", 6)},
    ),
}
EMPTY: dict[str, str | bytes] = {
    "specs/empty/nothing.yaml": "",
    "specs/empty/comment.yaml": "# nothing yet\n",
    "specs/empty/documents.yaml": "---\n---\n# no\n---\n...\n",
    "specs/empty/mark.yaml": b"\xef\xbb\xbf",
}


def test_files_that_are_wrong_by_themselves(tmp_path: Path) -> None:
    """All in one folder, so that none hides another, and two that are right besides."""
    root, before = compiled(tmp_path)
    for name, (text, _) in FILES.items():
        target = root / "specs/bad" / f"{name}.yaml"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(text if isinstance(text, bytes) else text.encode())
    ran = modelway("compile", "--format", "json", cwd=root)
    assert ran.code == FOUND
    assert reported(ran) == {f"specs/bad/{name}.yaml": placed for name, (_, placed) in FILES.items()}

    told = assert_told(modelway("check", cwd=root))
    assert {path.partition("/bad/")[0] for _, path, _, _ in told} == {"specs"}

    # Our own colours are the only thing that a terminal is told.
    coloured = modelway("compile", "--colour", "always", cwd=root)
    assert coloured.code == FOUND
    assert "\x1b" not in re.sub("\x1b\\[[0-9;]*m", "", coloured.err)
    assert coloured.err.count("\x1b[0m") * 2 == coloured.err.count("\x1b[")

    commands = modelway("compile", "--format", "github", cwd=root)
    assert_harmless(commands)
    lines = [line for line in commands.out.splitlines() if line.startswith("::")]
    assert all(re.match(r"::(error|warning|notice) file=specs/", line) for line in lines)

    sarif = modelway("compile", "--format", "sarif", cwd=root)
    assert_harmless(sarif)
    assert json.loads(sarif.out)["runs"][0]["results"]

    assert snapshot(root / "generated") == before
    assert not list(root.glob("**/pwned"))


def test_a_whole_number_with_a_point(tmp_path: Path) -> None:
    """JSON Schema takes 5.0 for an integer, and so does everything that is made from it."""
    written: list[dict[str, str]] = []
    for priority in ("5.0", "5", "6"):
        text = CPU.replace("cost:", f"priority: {priority}, cost:")
        root = repository(tmp_path / priority, {"specs/cpu-small.yaml": text})
        ran = modelway("compile", cwd=root)
        assert ran.code == 0, ran.err
        written.append({name: said.split()[0] for name, said in snapshot(root / "generated").items()})
    assert written[0] == written[1]
    assert written[0] != written[2], "a priority is in what is compiled"


def test_empty_files_are_only_noted(tmp_path: Path) -> None:
    root, before = compiled(tmp_path, EMPTY)
    ran = modelway("check", cwd=root)
    told = assert_told(ran, 0)
    assert {code for code, *_ in told} == {"MW018"}
    assert {path for _, path, _, _ in told} == set(EMPTY)
    assert snapshot(root / "generated") == before


def team(name: str, text: str) -> str:
    return text.replace("team: search", f"team: {name}")


def named(name: str, text: str = MODEL, **more: str) -> str:
    """A model of another name; ``more`` is put into its ``serving``."""
    extra = "".join(f", {key}: {value}" for key, value in more.items())
    return text.replace("name: ranker,", f"name: {name},").replace("cpu-small}", f"cpu-small{extra}}}")


def test_specs_that_contradict_each_other(tmp_path: Path) -> None:
    root, before = compiled(tmp_path)
    environments = "  environments: {prdo: {version: 1.0.0}}\n"
    specs: dict[str, tuple[str, set[Placed]]] = {
        "nothing": (named("a").replace("cpu-small", "cpu-smal"), {("MW202", 7)}),
        "itself": (named("b", standby="{model: b}"), {("MW204", 7)}),
        "cycle-1": (named("c1", standby="{model: c2}"), {("MW204", 7)}),
        "cycle-2": (named("c2", standby="{model: c3}"), {("MW204", 7)}),
        "cycle-3": (named("c3", standby="{model: c1}"), {("MW204", 7)}),
        "no-standby": (named("d", standby="{model: ranke}"), {("MW202", 7)}),
        "foreign-standby": (named("e", standby="{model: ads/x}"), {("MW202", 7)}),
        "overlay": (named("f") + environments, {("MW203", 8)}),
        "target": (named("g").replace("spec:\n", "spec:\n  targets: [prod, lokal]\n", 1), {("MW203", 5)}),
        "weights": (
            named("h") + "  rollout: {strategy: canary, steps: [{weight: 50}, {weight: 20}]}\n",
            {("MW206", 8)},
        ),
        "host": (team("ads", named("ranker")), {("MW205", 3)}),
        "again": (CPU, {("MW201", 3)}),
        "gpu": (
            CPU.replace("cpu-small", "gpu").replace("4Gi,", "4Gi, gpu: {product: h100},"),
            {("MW208", 4)},
        ),
        "undigested": (
            named("i").replace(f', digest: "{ZEROS}"', ""),
            {("MW209", 6)},
        ),
        "long": (named("j" * 60), {("MW406", 3)}),
        "window": (
            ALERT.replace("ranker-slo", "k") + "  thresholds: {latency: {above: 1s, window: 60d}}\n",
            {("MW210", 7)},
        ),
        "same-objective": (ALERT.replace("ranker-slo", "l"), {("MW211", 6)}),
        "files-in-a-cluster": (named("m").replace("s3://", "file:"), {("MW408", 6)}),
        "limits": (named("n", scaling="{minReplicas: 4, maxReplicas: 2}"), {("MW212", 7)}),
    }
    for name, (text, _) in specs.items():
        (root / "specs" / f"{name}.yaml").write_text(text)
    found = reported(modelway("compile", "--format", "json", cwd=root))
    expected = {f"specs/{name}.yaml": placed for name, (_, placed) in specs.items()}
    # Of two of one name the second by path is wrong; a clash of hosts is told at the later team.
    expected["specs/cpu-small.yaml"] = expected.pop("specs/again.yaml")
    for path, placed in expected.items():
        if "MW406" not in {code for code, _ in placed}:  # names are only made once all else is right
            assert placed <= found.get(path, set()) | found.get("specs/ranker.yaml", set()), path
    assert snapshot(root / "generated") == before
    assert_told(modelway("check", cwd=root))


@pytest.mark.parametrize("name", ["j" * 60, "a" * 63])
def test_names_too_long_once_suffixed(tmp_path: Path, name: str) -> None:
    root, before = compiled(tmp_path)
    (root / "specs/long.yaml").write_text(named(name))
    told = assert_told(modelway("compile", cwd=root))
    assert {(code, path, line) for code, path, line, _ in told} == {("MW406", "specs/long.yaml", 3)}
    assert snapshot(root / "generated") == before


# --- size -----------------------------------------------------------------------------------------


def test_a_file_of_ten_megabytes(tmp_path: Path) -> None:
    root, before = compiled(tmp_path)
    (root / "specs/large.yaml").write_bytes(CPU.encode() + b"# " + b"x" * 10_000_000)
    [(code, path, *_)] = assert_told(modelway("compile", cwd=root))
    assert (code, path) == ("MW002", "specs/large.yaml")
    assert snapshot(root / "generated") == before


def test_two_hundred_thousand_unknown_keys(tmp_path: Path) -> None:
    root, before = compiled(tmp_path)
    body = "".join(f"  key{number}: x\n" for number in range(200_000))
    (root / "specs/many.yaml").write_text(cpu(body + "  cpu: '2'\n  memory: 4Gi\n"))
    started = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = modelway("compile", cwd=root)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.ru_utime - started.ru_utime < 20, "a few seconds on a machine that does nothing else"
    told = assert_told(ran)
    assert {code for code, *_ in told} == {"MW104"}
    assert len(told) < 50
    assert len(ran.err.splitlines()) < 300
    assert "more MW104" in ran.err
    assert re.search(r"[\d,]+ errors in 1 file", ran.err.splitlines()[-1])
    assert snapshot(root / "generated") == before


# --- text that is a template to others ------------------------------------------------------------

TEXT = "{{ $value }} $(HOSTNAME) ${{ github.token }} %(a)s {% x %} <b>&amp;"
_ESCAPED = re.compile(r'\{\{ "(\{\{)" \}\}')  # how Prometheus' templates write two braces


def test_template_text_stays_text(tmp_path: Path) -> None:
    note = f"annotations: {{note: '{TEXT}'}}"
    root, _ = compiled(
        tmp_path,
        {
            "specs/ranker.yaml": MODEL.replace("team: search}", f"team: search, {note}}}")
            + f"  lineage: {{architecture: '{TEXT}', hyperparameters: {{text: '{TEXT}'}}}}\n",
            "specs/slo.yaml": ALERT + f"  summary: '{TEXT}'\n  absence: {{}}\n",
        },
    )
    strings: dict[str, list[str]] = {}
    for path in (root / "generated").rglob("*.yaml"):
        strings[path.name] = list(texts(yaml.safe_load(path.read_bytes())))
    holders = {name for name, found in strings.items() if any("HOSTNAME" in text for text in found)}
    assert {"deployment-ranker.yaml", "prometheusrule-ranker-slo.yaml", "rules-ranker-slo.yaml"} <= holders
    assert TEXT in strings["deployment-ranker.yaml"]
    lineage = [text for text in strings["deployment-ranker.yaml"] if '"architecture"' in text]
    assert [json.loads(text)["architecture"] for text in lineage] == [TEXT]
    for rules in ("prometheusrule-ranker-slo.yaml", "rules-ranker-slo.yaml"):
        summaries = [text for text in strings[rules] if "HOSTNAME" in text]
        assert summaries
        for text in summaries:  # Prometheus would expand a bare one
            assert "{{" not in _ESCAPED.sub("", text), text
            assert _ESCAPED.sub(r"\1", text) == TEXT
    # Kubernetes expands $(VAR) in commands, arguments and the values of variables, and there alone.
    for path in (root / "generated/prod").rglob("*.yaml"):
        for container in containers(yaml.safe_load(path.read_bytes())):
            told = [*container.get("command", []), *container.get("args", [])]
            told += [variable.get("value", "") for variable in container.get("env", [])]
            assert not [text for text in told if re.search(r"(?<!\$)(\$\$)*\$\(", text)]


def texts(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in texts(item)]
    return [value] if isinstance(value, str) else []


def containers(value: object) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        here = [*value.get("containers", []), *value.get("initContainers", [])]
        return [one for one in here if isinstance(one, dict)] + [
            one for item in value.values() for one in containers(item)
        ]
    if isinstance(value, list):
        return [one for item in value for one in containers(item)]
    return []


# --- links, folders, disk -------------------------------------------------------------------------


def test_links_out_of_the_tree(tmp_path: Path) -> None:
    root, before = compiled(tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.yaml").write_text(CPU.replace("cpu-small", "secret"))
    (root / "specs/file.yaml").symlink_to(outside / "secret.yaml")
    (root / "specs/folder").symlink_to(outside)
    (root / "specs/passwd.yaml").symlink_to("/etc/passwd")
    (root / "specs/loop.yaml").symlink_to("loop.yaml")
    (root / "specs/gone.yaml").symlink_to("nowhere.yaml")
    os.mkfifo(root / "specs/pipe.yaml")
    found = reported(modelway("compile", "--format", "json", cwd=root))
    assert {path: {code for code, _ in placed} for path, placed in found.items()} == {
        "specs/file.yaml": {"MW003"},
        "specs/folder": {"MW003"},
        "specs/passwd.yaml": {"MW003"},
        "specs/loop.yaml": {"MW001"},
        "specs/gone.yaml": {"MW001"},
        "specs/pipe.yaml": {"MW001"},
    }
    assert snapshot(root / "generated") == before


def test_a_file_that_is_not_ours_stands_in_the_way(tmp_path: Path) -> None:
    root, _ = compiled(tmp_path)
    for path in ("notes.txt", "prod/search/ranker/mine.yaml", ".index/prod/notes.json.bak"):
        (root / "generated" / path).write_text("mine\n")
    (root / "generated/prod/link").symlink_to("/etc")
    (root / "specs/ranker.yaml").write_text(MODEL.replace("46.1.0", "46.2.0"))
    before = snapshot(root / "generated")
    for command in ("compile", "check"):
        told = assert_told(modelway(command, cwd=root))
        assert {path for code, path, *_ in told if code == "MW501"} == {
            "generated/notes.txt",
            "generated/prod/search/ranker/mine.yaml",
            "generated/.index/prod/notes.json.bak",
            "generated/prod/link",
        }
        assert snapshot(root / "generated") == before


@pytest.mark.parametrize("what", ["file", "link", "dangling", "pipe"])
def test_an_output_folder_that_is_none(tmp_path: Path, what: str) -> None:
    root = repository(tmp_path)
    output, elsewhere = root / "generated", tmp_path / "elsewhere"
    elsewhere.mkdir()
    if what == "file":
        output.write_text("mine\n")
    elif what == "pipe":
        os.mkfifo(output)
    else:
        output.symlink_to(elsewhere if what == "link" else tmp_path / "nowhere")
    before = snapshot(tmp_path)
    for command in ("compile", "check"):
        ran = modelway(command, cwd=root, timeout=30)
        assert ran.code in (FOUND, DISK), ran.err
        assert_harmless(ran)
        assert "generated" in ran.err
        assert snapshot(tmp_path) == before


def test_output_where_nothing_can_be_written(tmp_path: Path) -> None:
    root = repository(tmp_path)
    ran = modelway("compile", "--output", "/proc/generated", cwd=root)
    assert ran.code == DISK
    assert_harmless(ran)
    assert "/proc" in ran.err


def test_output_among_the_specs_is_refused(tmp_path: Path) -> None:
    """Else the next compile reads the manifests as specs."""
    root = repository(tmp_path)
    before = snapshot(root)
    ran = modelway("compile", "--output", "specs/generated", cwd=root)
    assert ran.code != 0
    assert_harmless(ran)
    assert snapshot(root) == before


@pytest.mark.parametrize("first", [True, False], ids=["first", "again"])
def test_a_full_disk(tmp_path: Path, first: bool) -> None:
    """Files of more than 3,000 bytes cannot be written: some are there by then, some are not."""
    root = repository(tmp_path)
    if not first:
        assert modelway("compile", cwd=root).code == 0
        spec = root / "specs/ranker.yaml"
        spec.write_text(MODEL.replace("46.1.0", "46.2.0"))
    old = {path: path.read_bytes() for path in (root / "generated").rglob("*") if path.is_file()}

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    ran = modelway("compile", cwd=root, limits=limited)
    assert ran.code == DISK
    assert_harmless(ran)
    assert re.fullmatch(r"modelway: cannot use \S*/generated/\S+: File too large\n", ran.err)
    left = {path: path.read_bytes() for path in (root / "generated").rglob("*") if path.is_file()}
    assert old.keys() <= left.keys()

    assert_told(modelway("check", cwd=root), STALE)
    assert modelway("compile", cwd=root).code == 0
    assert modelway("check", cwd=root).code == 0
    new = {path: path.read_bytes() for path in (root / "generated").rglob("*") if path.is_file()}
    # What the disk refused left each file either as it was or as it was to be, and nothing half-written.
    for path, data in left.items():
        assert data in (old.get(path), new.get(path)) or "/.index/" in str(path)


KILL = """
import os, signal
left, replace = {count}, os.replace
def counted(*arguments, **options):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(*arguments, **options)
os.replace = counted
"""


@pytest.mark.parametrize("count", [0, 5])
@pytest.mark.parametrize("first", [True, False], ids=["first", "again"])
def test_killed_in_the_middle(tmp_path: Path, count: int, first: bool) -> None:
    """The process kills itself before its (count + 1)th file is put in place, as ``kill -9`` would."""
    root = repository(tmp_path)
    if not first:
        assert modelway("compile", cwd=root).code == 0
        (root / "specs/ranker.yaml").write_text(named("ranker-next"))
    assert modelway("compile", cwd=root, prelude=KILL.format(count=count)).code == -signal.SIGKILL
    assert_told(modelway("check", cwd=root), STALE)
    assert modelway("compile", cwd=root).code == 0
    assert modelway("check", cwd=root).code == 0

    fresh = repository(tmp_path / "fresh", {"specs/ranker.yaml": (root / "specs/ranker.yaml").read_bytes()})
    assert modelway("compile", cwd=fresh).code == 0
    assert bytes_of(root / "generated") == bytes_of(fresh / "generated")


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


# --- surroundings ---------------------------------------------------------------------------------


def shell(command: str, cwd: Path) -> Ran:
    """A command of bash; ``modelway`` in it is the real one. Its exit code is that of the first of a pipe."""
    words = f'modelway() {{ "{sys.executable}" -c "{RUN}" "$@"; }}; {command}; exit "${{PIPESTATUS[0]}}"'
    done = subprocess.run(
        ["bash", "-c", words], cwd=cwd, env=environment(), capture_output=True, timeout=60, check=False
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


def test_a_reader_that_leaves(tmp_path: Path) -> None:
    root = repository(tmp_path)
    ran = shell("modelway schema Model | head -c 1", root)
    assert (ran.code, ran.out, ran.err) == (0, "{", "")
    many = "".join(f"  key{number}: x\n" for number in range(2000))
    (root / "specs/bad.yaml").write_text(cpu(many))
    # An error stays one, though nobody has read all of it.
    ran = shell("modelway compile --format json | head -c 1", root)
    assert (ran.code, ran.out, ran.err) == (FOUND, "{", "")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("modelway compile >&-", 0),
        ("modelway list >&-", 0),
        ("modelway compile --specs nowhere 2>&-", FOUND),
        ("modelway compile --specs nowhere >&- 2>&-", FOUND),
        ("modelway nonsense 2>&-", 2),
        ("modelway schema Model >/dev/full", DISK),
        ("modelway compile --format json >/dev/full", DISK),
    ],
)
def test_closed_and_full_streams(tmp_path: Path, command: str, code: int) -> None:
    root = repository(tmp_path)
    ran = shell(command, root)
    assert_harmless(ran)
    assert ran.code == code, ran.err


@pytest.mark.parametrize(
    "env",
    [
        {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "POSIX", "PYTHONIOENCODING": "latin-1:strict"},
        {"LC_ALL": None, "HOME": None, "TERM": None, "COLUMNS": None},
    ],
    ids=["ascii", "posix", "latin-1", "bare"],
)
def test_locales(tmp_path: Path, env: dict[str, str | None]) -> None:
    """The same bytes whatever the surroundings, and a name that they cannot show stops nothing."""
    model = {"specs/ranker.yaml": MODEL + "  lineage: {architecture: naïve ☃}  # größer\n"}
    root, reference = (repository(tmp_path / name, model) for name in ("fête", "reference"))
    assert modelway("compile", cwd=reference).code == 0
    ran = modelway("compile", cwd=root, env=env)
    assert ran.code == 0, ran.err
    assert bytes_of(root / "generated") == bytes_of(reference / "generated")

    (root / "specs/bad-ß☃.yaml").write_text(CPU.replace("cpu-small", "größe-☃"))
    command = [sys.executable, "-c", RUN, "compile"]
    done = subprocess.run(command, cwd=root, env=environment(env), capture_output=True, check=False)
    assert done.returncode == FOUND
    assert b"Traceback" not in done.stderr
    assert b"MW108" in done.stderr


@pytest.mark.parametrize("where", ["/proc", "gone"])
def test_a_working_folder_that_is_no_use(tmp_path: Path, where: str) -> None:
    root = repository(tmp_path)
    folder = f"{tmp_path}/gone"
    go = "cd /proc" if where == "/proc" else f"mkdir '{folder}' && cd '{folder}' && rmdir '{folder}'"
    options = f"--specs '{root}/specs' --output '{root}/generated'"
    ran = shell(f"{go}; modelway compile", tmp_path)
    assert ran.code in (FOUND, DISK)
    assert_harmless(ran)
    ran = shell(f"{go}; modelway compile {options}", tmp_path)
    assert_harmless(ran)
    assert ran.code == (0 if where == "/proc" else DISK)
    ran = shell(f"{go}; modelway init", tmp_path)
    assert ran.code == DISK
    assert_harmless(ran)


def test_two_at_once(tmp_path: Path) -> None:
    """Each ends well or is told to wait for another; the tree is right in the end."""
    root = repository(tmp_path)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", RUN, "compile"],
            cwd=root,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(3)
    ]
    for process in running:
        out, err = process.communicate(timeout=60)
        ran = Ran(process.returncode, out.decode(), err.decode())
        if ran.code:
            assert {code for code, *_ in assert_told(ran)} == {"MW502"}
    assert modelway("check", cwd=root).code == 0


def test_interrupted(tmp_path: Path) -> None:
    root = repository(tmp_path)
    ran = modelway("compile", cwd=root, prelude=KILL.format(count=3).replace("SIGKILL", "SIGINT"))
    assert ran.code == 130
    assert_harmless(ran)
    assert not list((root / "generated").rglob(".modelway-tmp-*"))
    assert modelway("compile", cwd=root).code == 0


Mend = Callable[[str], str]

# Environments that lack something, which is an error rather than a step down.
ENVIRONMENTS: dict[str, tuple[Mend, str]] = {
    "no-gateway": (lambda text: re.sub(r"  gateway:.*\n", "", text), "MW214"),
    "no-image": (lambda text: re.sub(r"  images:.*\n", "", text), "MW214"),
    "no-digest": (lambda text: text.replace(f"@{ZEROS}", ":latest"), "MW209"),
    "short-retention": (lambda text: text.replace("30d", "7d"), "MW210"),
    "old-kubernetes": (lambda text: text.replace('"1.36"', '"1.12"'), "MW107"),
    "number-for-version": (lambda text: text.replace('"1.36"', "1.36"), "MW107"),
    "unknown-add-on": (lambda text: text.replace("keda: true", "kedda: true"), "MW104"),
}


def test_environments(tmp_path: Path) -> None:
    """Each wrong in its own way, in one repository."""
    root, before = compiled(tmp_path, {"specs/slo.yaml": ALERT})
    for name, (mend, _) in ENVIRONMENTS.items():
        text = mend(PROD.replace("name: prod", f"name: {name}").replace("models.shop", f"{name}.shop"))
        (root / f"specs/env-{name}.yaml").write_text(text)
    found = reported(modelway("compile", "--format", "json", cwd=root))
    codes = {code for placed in found.values() for code, _ in placed}
    assert codes == {code for _, code in ENVIRONMENTS.values()}
    for name, (_, code) in ENVIRONMENTS.items():
        path = "specs/slo.yaml" if code == "MW210" else f"specs/env-{name}.yaml"
        assert code in {one for one, _ in found[path]}, name
    assert snapshot(root / "generated") == before
