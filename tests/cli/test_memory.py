"""Whatever a file of specs holds, memory and time grow with its size and no faster.

Measured as the kernel counts it, in a process of its own. A multiple of four cannot be had: a mapping
of one key takes eight characters of text, and Python 230 bytes for the value and as many for its places.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.cli.running import RUN, environment, repository
from tests.support.small_shop import ALERT, CPU, HEAD, MODEL, PROD

SIZE = 200_000
TIMES = 64  # the size, beside what a compile of nothing takes
TIMES_TINY = 200  # where nearly every character is a value of its own
SPARE = 4 << 20  # for libyaml and what only a refusal imports
CPU_SECONDS = 15  # one or two, on a machine that does nothing else
CAP = 1 << 30  # not to take the machine along

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")

MEASURED = f"""
import os
try:
    {RUN}
finally:
    with open("/proc/self/status") as status, open(os.environ["PEAK"], "w") as peak:
        peak.write(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


def many(entry: str) -> str:
    """The entry again and again, numbered where it says #."""
    size = len(entry.replace("#", "12345").encode())
    return "".join(entry.replace("#", str(number)) for number in range(SIZE // size))


def resource_with(body: str, metadata: str = "{name: bad}") -> str:
    return f"{HEAD}kind: Resource\nmetadata: {metadata}\nspec:\n  cpu: '2'\n  memory: 4Gi\n{body}"


def model_with(body: str) -> str:
    return MODEL.replace("name: ranker,", "name: bad,") + body


def in_documents(document: str) -> str:
    return many(f"---\n{HEAD}{document}\n")


def labels(entry: str) -> str:
    return resource_with("", "{name: bad, labels: {" + many(entry) + "}}")


def inputs(entry: str, before: str = "  ") -> str:
    lines = f"interface:\n{before}  inputs:\n" + many(f"{before}    {entry}\n")
    return f"{before}{lines}"


OVERLAY = "  environments:\n    prod: {}\n"
SHAPES: dict[str, Callable[[], str]] = {
    "unknown fields": lambda: resource_with(many("  key#: x\n")),
    "unknown fields on one line": lambda: resource_with(f"  x: {{{many('k#: x, ')}}}\n"),
    "unknown fields with controls": lambda: resource_with(many('  "\\x01#": x\n')),
    "unknown fields of four bytes a character": lambda: resource_with(many("  😀😀#: x\n")),
    "wrong keys of labels": lambda: labels("-a#: x, "),
    "wrong values of labels": lambda: labels("k#: '-', "),
    "wrong keys of environments": lambda: model_with("  environments:\n" + many("    K#: {}\n")),
    "unknown environments": lambda: model_with("  environments:\n" + many("    environment-#: {}\n")),
    "wrong overlays": lambda: model_with("  environments:\n" + many("    k#: {serving: {nothing: 1}}\n")),
    "wrong names of inputs": lambda: model_with(inputs("'?#': {}")),
    "wrong inputs": lambda: model_with(inputs("k#: {}")),
    "inputs that lack all, in an overlay": lambda: model_with(
        "  environments:\n    prod:\n" + inputs("input#: {}", "      ")
    ),
    "wrong defaults of an environment": lambda: (
        PROD + "  defaults:\n    model:\n" + inputs("'?#': {}", "      ")
    ),
    "wrong hyperparameters": lambda: model_with(
        "  lineage:\n    hyperparameters:\n" + many("      '?#': [a]\n")
    ),
    "steps that are no mappings": lambda: model_with("  rollout:\n    steps:\n" + many("    - wrong\n")),
    "unknown targets": lambda: model_with(f"  targets: [{many('environment-#, ')}]\n"),
    "wrong targets": lambda: model_with(f"  targets: [{many('Environment-#, ')}]\n"),
    "wrong thresholds": lambda: ALERT + "  thresholds:\n" + many("    k#: {}\n"),
    "wrong names of patterns": lambda: ALERT + "  patterns:\n" + many("    K#: {}\n"),
    "wrong address ranges": lambda: PROD + f"  artifactStore: {{cidrs: [{many('nothing, ')}]}}\n",
    "a long string": lambda: model_with("").replace("46.1.0", f"'{many('x y')}'"),
    "a long key": lambda: resource_with(f"  ? '{many('k')}'\n  : 1\n"),
    "a long name": lambda: CPU.replace("cpu-small", many("x")),
    "long wrong strings": lambda: model_with("  targets:\n" + many(f"  - '#{'x y ' * 500}'\n")),
    "many passwords": lambda: MODEL.replace("s3://shop-models/ranker.onnx", "s3:" + many("//a@")),
    "a list where a word is due": lambda: resource_with("").replace("'2'", f"[{many('none, ')}]"),
    "a mapping where a word is due": lambda: resource_with("").replace("'2'", f"{{{many('k#: 1, ')}}}"),
    "a mapping for its kind": lambda: HEAD + f"kind: {{{many('k#: 1, ')}}}\n",
    "documents of no kind": lambda: in_documents("kind: X#"),
    "documents that lack all": lambda: in_documents("kind: Resource\nmetadata: {name: a#}\nspec: {}"),
    "documents of one name": lambda: in_documents(CPU.removeprefix(HEAD)),
    "documents that refer to nothing": lambda: in_documents(
        MODEL.removeprefix(HEAD).replace("ranker,", "m#,").replace("cpu-small", "nothing")
    ),
    "documents whose aliases are wrong everywhere": lambda: in_documents(
        f"kind: Resource\nmetadata: {{name: a#, labels: &a {{{'-a: 1, ' * 9}}}, annotations: *a}}\nspec: {{x: *a, cpu: *a}}"
    ),
    "malformed documents": lambda: many("---\n[ # nothing closes it\n"),
    "aliases of a long list": lambda: resource_with(f"  a: &a [{'wrong, ' * 990}]\n  b: [{'*a, ' * 99}]\n"),
    "one key again and again": lambda: many("key: value\n"),
    "words that readers do not agree about": lambda: f"a: [{many('no, ')}]\n",
    "a comment": lambda: many("# nothing\n"),
}
TINY: dict[str, Callable[[], str]] = {
    "a list of letters": lambda: "a:\n" + many("- a\n"),
    "a list of nothing": lambda: "a:\n" + many("-\n"),
    "lists in lists": lambda: f"a: [{many('[[[[1]]]], ')}]\n",
    "an open list": lambda: f"a: [{many('x, ')}",
    "anchors": lambda: f"a: [{many('&a# 1, ')}]\n",
    "steps of one wrong field": lambda: model_with(f"  rollout: {{steps: [{many('{a: 1}, ')}]}}\n"),
    "steps that do not rise": lambda: model_with(
        f"  rollout: {{strategy: canary, steps: [{many('{weight: 5}, ')}]}}\n"
    ),
}


@dataclass(frozen=True)
class Cost:
    """What a compile took."""

    peak: int
    cpu_seconds: float
    code: int
    printed: int


def compiled(folder: Path, files: dict[str, str | bytes], form: str) -> Cost:
    """Compile beside a repository that compiles, in a process that may not take all memory."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, "compile", "--format", form],
        cwd=repository(folder, files),
        env=environment({"PEAK": str(folder / "peak")}),
        capture_output=True,
        timeout=120,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (CAP, CAP)),
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = int((folder / "peak").read_text() or 0) << 10
    return Cost(peak, seconds, done.returncode, len(done.stdout) + len(done.stderr))


@cache
def nothing_wrong(folder: Path) -> int:
    """The peak of a compile of small specs."""
    folder.mkdir(exist_ok=True)
    cost = compiled(folder, {}, "text")
    assert cost.code == 0
    return cost.peak


def assert_bounded(cost: Cost, size: int, times: int, base: int) -> None:
    assert cost.code in (0, 1), "it ended by itself"
    assert cost.peak <= base + SPARE + times * size, (
        f"{(cost.peak - base) / size:.0f} times the {size:,} bytes of the file"
    )
    assert cost.cpu_seconds < CPU_SECONDS
    assert cost.printed < 16 * size


@pytest.mark.parametrize("name", [*SHAPES, *TINY])
def test_memory_is_a_multiple_of_the_size(name: str, tmp_path: Path) -> None:
    text = (SHAPES | TINY)[name]()
    assert len(text.encode()) > SIZE / 2 or "alias" in name
    cost = compiled(tmp_path, {"specs/bad.yaml": text}, "text")
    base = nothing_wrong(tmp_path.parent / f"base-{os.getpid()}")
    assert_bounded(cost, SIZE, TIMES if name in SHAPES else TIMES_TINY, base)


@pytest.mark.parametrize("form", ["json", "sarif", "github"])
@pytest.mark.parametrize(
    "name",
    ["unknown fields on one line", "wrong keys of labels", "documents that lack all", "long wrong strings"],
)
def test_no_form_of_report_takes_more(name: str, form: str, tmp_path: Path) -> None:
    """A line that is quoted for each of its findings is the danger: 100 copies of 200 kB."""
    cost = compiled(tmp_path, {"specs/bad.yaml": SHAPES[name]()}, form)
    base = nothing_wrong(tmp_path.parent / f"base-{os.getpid()}")
    assert_bounded(cost, SIZE, TIMES, base)


def test_other_files_are_told_of_beside_a_mapping_of_wrong_keys(tmp_path: Path) -> None:
    """What is counted and not listed hides nothing of another kind, nor of another file."""
    hostile = SHAPES["unknown fields"]() + "  gpu: 3\n"
    root = repository(tmp_path, {"specs/bad.yaml": hostile, "specs/worse.yaml": CPU.replace("4Gi", "4Gx")})
    done = subprocess.run(
        [sys.executable, "-c", RUN, "compile"],
        cwd=root,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    fields = hostile.count("key")
    assert f"… and {fields - 3:,} more MW104 (unknown field) in 1 file" in done.stderr
    assert f"{fields + 2:,} errors in 2 files" in done.stderr
    assert "error[MW106]: spec.gpu: 3 is a whole number, not a mapping" in done.stderr
    assert "specs/worse.yaml:4" in done.stderr
