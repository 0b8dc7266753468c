"""`detect` and `replay` as a person on a laptop and a job of CI use them."""

from __future__ import annotations

import csv
import gzip
import json
import logging
import os
import pty
import re
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from modelway_runtime.cli import main
from modelway_runtime.detection.evidence import pack, unpack
from tests.contract.test_schemas import VERDICT, accepted
from tests.runtime.detection.service.processes import command, environment
from tests.runtime.detection.service.processes import run as process
from tests.runtime.detection.service.shop_past import (
    DAY,
    HOUR,
    MINUTE,
    RELEASED,
    past,
    settings,
    write,
)
from tests.support.github import GitHub
from tests.support.prometheus import Server

Json = dict[str, Any]


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str | Path, cwd: Path | None = None) -> Done:
    """The command in this process, which saves the seconds that importing takes."""
    root = logging.getLogger()
    handlers, before = root.handlers[:], os.getcwd()
    os.chdir(cwd or before)
    try:
        done = CliRunner().invoke(main, [str(one) for one in arguments], prog_name="modelway-runtime")
    finally:
        os.chdir(before)
        root.handlers[:] = handlers
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


def rfc3339(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def laptop(shop: Server, model: str = "ranker") -> list[str]:
    return ["detect", "--env", "prod", "--model", model, "--prometheus", shop.url]


def judged(done: Done) -> Json:
    assert done.returncode == 0, done.stderr
    document: Json = json.loads(done.stdout)
    assert accepted(VERDICT, document)
    return document


def test_a_laptop_needs_one_line(shop: Server) -> None:
    done = process(*laptop(shop))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("REGRESSED: ")
    assert "latency-p50" in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


def test_the_newest_release_is_judged(shop: Server) -> None:
    document = judged(run(*laptop(shop), "--format", "json"))
    assert (document["comparison"], document["state"]) == ("release", "regressed")
    assert document["rollout"]["started_at"] == rfc3339(RELEASED)
    assert (document["team"], document["namespace"]) == ("search", "search-prod")


def test_without_a_release_now_is_compared_with_before(shop: Server) -> None:
    document = judged(run(*laptop(shop, "encoder"), "--since", "6h", "--format", "json"))
    assert (document["comparison"], document["rollout"]) == ("watch", None)
    assert document["state"] == "unchanged" or document["reason"] == "no_data"


def test_a_time_names_the_release_near_it(shop: Server) -> None:
    document = judged(run(*laptop(shop), "--at", rfc3339(RELEASED + 2 * MINUTE), "--format", "json"))
    assert document["rollout"]["started_at"] == rfc3339(RELEASED)
    at = RELEASED - DAY
    document = judged(run(*laptop(shop), "--at", rfc3339(at), "--format", "json"))
    assert (document["rollout"]["version"], document["rollout"]["started_at"]) == ("unknown", rfc3339(at))
    metrics = [one for one in document["metrics"] if one["name"].startswith("latency")]
    assert {one["state"] for one in metrics} == {"unchanged"}


@pytest.fixture
def repository(tmp_path: Path) -> tuple[Path, str]:
    """A Git repository whose commit was rolled out ten minutes later."""
    folder = tmp_path / "repository"
    folder.mkdir()
    at = f"{int(RELEASED - 10 * MINUTE)} +0000"
    git = {"GIT_COMMITTER_DATE": at, "GIT_AUTHOR_DATE": at, "GIT_CONFIG_GLOBAL": "/dev/null"}
    who = ["-c", "user.name=dev", "-c", "user.email=dev@shop.example", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q"], [*who, "commit", "-q", "--allow-empty", "-m", "release"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True, env={**os.environ, **git})
    sha = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True)
    return folder, sha.stdout.strip()


def test_a_commit_of_the_repository_here_names_the_release(
    shop: Server, repository: tuple[Path, str]
) -> None:
    folder, sha = repository
    document = judged(run(*laptop(shop), "--at", sha[:8], "--format", "json", cwd=folder))
    assert document["rollout"]["started_at"] == rfc3339(RELEASED)
    assert document["commit"] == {"sha": sha, "found_by": "history"}
    shown = run(*laptop(shop), "--at", sha, "--format", "markdown", cwd=folder)
    assert f"git revert --no-edit -m 1 {sha}" in shown.stdout
    unknown = run(*laptop(shop), "--at", "0123456789", cwd=folder)
    assert unknown.returncode == 2
    assert "no commit 0123456789" in unknown.stderr
    never = run(*laptop(shop, "encoder"), "--at", sha, cwd=folder)
    assert never.returncode == 5
    assert "no rollout of encoder began within 24 hours" in never.stderr


def test_a_commit_of_the_forge_names_the_release_and_is_told(
    shop: Server, github: GitHub, tmp_path: Path
) -> None:
    sha = github.commit({"generated/prod/search/ranker/a.yaml": "2\n"}, date=rfc3339(RELEASED - 10 * MINUTE))
    (tmp_path / "forge-token").write_text(github.token)
    publish = {
        "api_url": github.api_url, "repository": github.name, "branch": "main", "folder": "generated",
        "comment": "always", "token_file": str(tmp_path / "forge-token"), "app": None,
    }  # fmt: skip
    file = write(tmp_path, settings(tmp_path, shop.url, publish=publish))
    options = ["detect", "--settings", file, "--model", "search/ranker", "--at", sha, "--format", "json"]
    done = run(*options, "--publish", "--fail-on", "regressed")
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["commit"] == {"sha": sha, "found_by": "history"}
    assert [one["conclusion"] for one in github.checks(sha)] == ["failure"]
    assert github.token not in done.stdout + done.stderr
    missing = run(*[*options[:-3], "f" * 40])
    assert missing.returncode == 2
    (tmp_path / "forge-token").write_text("ghp_wrong")
    refused = run(*options)
    assert refused.returncode == 5
    assert "ghp_wrong" not in refused.stderr


@pytest.mark.parametrize(
    ("form", "words"),
    [("text", "REGRESSED"), ("markdown", "> [!CAUTION]"), ("html", "<!DOCTYPE html>"), ("json", '"state"')],
)
def test_each_form_into_a_file(csv_file: Path, tmp_path: Path, form: str, words: str) -> None:
    file = tmp_path / "report"
    done = run(*table(csv_file), "--format", form, "--output", file)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert words.lower() in file.read_text().lower()
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []


@pytest.fixture(scope="module")
def csv_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten days of one model; it got slower two hours before the end, which is long ago."""
    import numpy as np

    random = np.random.default_rng(3)
    end = 1_790_000_040.0
    file = tmp_path_factory.mktemp("table") / "ranker.csv"
    with file.open("w", newline="") as opened:
        rows = csv.writer(opened)
        rows.writerow(["time", "load", "version", "latency-p50", "latency-p99", "errors", "throughput"])
        for minute in range(10 * 1440):
            at = end - 10 * DAY + minute * 60
            late = at >= end - 2 * HOUR
            load = 100 * (1 + 0.3 * np.sin(2 * np.pi * at / DAY)) * random.lognormal(0, 0.02)
            slow = random.lognormal(0, 0.03, 2) * (1.5 if late else 1.0)
            rows.writerow([at, load, "2" if late else "1", 0.01 * slow[0], 0.05 * slow[1], 0.01, load])
    return file


def table(file: Path) -> list[str | Path]:
    return ["detect", "--env", "prod", "--model", "ranker", "--series", file]


def test_a_table_needs_neither_team_nor_server(csv_file: Path) -> None:
    document = judged(run(*table(csv_file), "--format", "json"))
    assert (document["state"], document["rollout"]["version"]) == ("regressed", "2")
    assert document["judged_at"] == rfc3339(1_790_000_040 - HOUR)


def test_openmetrics_in_a_file_is_judged_as_a_server_is(tmp_path: Path) -> None:
    file = tmp_path / "past.om"
    file.write_text(past("sorter", "mixer"))
    document = judged(run(*table(file)[:3], "--model", "sorter", "--series", file, "--format", "json"))
    assert (document["namespace"], document["rollout"]["version"]) == ("search-prod", "2.0.0")
    nobody = run(*table(file)[:3], "--model", "nobody", "--series", file)
    assert nobody.returncode == 2
    assert "no requests of nobody" in nobody.stderr


@pytest.mark.parametrize(
    ("state", "code"), [(["regressed"], 1), (["improved"], 0), (["improved", "regressed"], 1), ([], 0)]
)
def test_a_job_fails_on_the_states_it_names(csv_file: Path, state: list[str], code: int) -> None:
    options = [word for one in state for word in ("--fail-on", one)]
    assert run(*table(csv_file), *options).returncode == code


@pytest.fixture(scope="module")
def saved(csv_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "deep"
    assert run(*table(csv_file), "--save", folder).returncode == 0
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The verdict and its series."""
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (verdict,) = tmp_path.glob("*.json")
    (series,) = tmp_path.glob("*.series.json.gz")
    return verdict, series


def test_what_is_saved_is_whole(saved: Path) -> None:
    (verdict,) = saved.glob("*.json")
    document = json.loads(verdict.read_text())
    assert accepted(VERDICT, document)
    identity = document["id"]
    assert {one.name for one in saved.iterdir()} == {
        f"{identity}{ending}" for ending in (".json", ".series.json.gz", ".html", ".svg")
    }
    assert (saved / f"{identity}.svg").read_text().startswith("<svg")


def test_a_saved_verdict_is_made_again(copy: tuple[Path, Path]) -> None:
    done = process("replay", copy[0])
    assert (done.returncode, done.stdout, done.stderr) == (0, "the same verdict\n", "")
    copy[1].rename(copy[1].with_name("renamed.series.json.gz"))
    assert run("replay", copy[0]).returncode == 0


@pytest.mark.parametrize(
    ("field", "pattern", "words"),
    [
        ("state", r'"regressed"', "state: "),
        ("before", r'"before": (0\.0\d+)', "metrics[0].before"),
    ],
)
def test_a_verdict_that_somebody_changed_differs(
    copy: tuple[Path, Path], field: str, pattern: str, words: str
) -> None:
    document = json.loads(copy[0].read_text())
    if field == "state":
        document |= {"state": "unchanged", "outcome": "success"}
    else:
        document["metrics"][0]["before"] *= 1.001
    copy[0].write_text(json.dumps(document))
    done = run("replay", copy[0])
    assert done.returncode == 1
    assert "the verdict differs" in done.stdout
    assert words in done.stdout
    assert " is now " in done.stdout


def test_series_that_somebody_changed_are_refused(copy: tuple[Path, Path]) -> None:
    verdict, series = copy
    evidence = unpack(series.read_bytes())
    evidence.load.values[-100] += 1.0
    series.write_bytes(pack(evidence))
    for options in ([], ["--series", series]):
        done = run("replay", verdict, *options)
        assert done.returncode == 5
        assert "these are other series, or somebody changed them" in done.stderr


@pytest.mark.parametrize(
    "content", [b"", b"no gzip", gzip.compress(b"{}", mtime=0), gzip.compress(b"x" * 1000, mtime=0)[:40]]
)
def test_damaged_series_are_told(copy: tuple[Path, Path], content: bytes) -> None:
    copy[1].write_bytes(content)
    done = run("replay", copy[0])
    assert done.returncode == 5
    assert "holds no series, or is damaged" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_verdict_and_missing_series_are_told(copy: tuple[Path, Path], tmp_path: Path) -> None:
    copy[1].unlink()
    done = run("replay", copy[0])
    assert done.returncode == 5
    assert "name them with --series" in done.stderr
    copy[0].write_text('{"schema": 1}')
    assert "is no verdict" in run("replay", copy[0]).stderr
    assert run("replay", tmp_path / "none.json").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give --settings FILE, or --env and --model"),
        (["--env", "prod", "--model", "m"], "give one of --prometheus URL and --series FILE"),
        (["--env", "prod", "--model", "m", "--prometheus", "http://x", "--publish"], "--publish needs --settings"),
        (["--env", "prod", "--model", "m", "--prometheus", "http://x", "--since", "1y"], "no duration"),
        (["--env", "prod", "--model", "m", "--prometheus", "http://x", "--fail-on", "x"], "--fail-on"),
        (["--env", "prod", "--model", "<b>", "--namespace", "n", "--prometheus", "http://x"], "no names of Kubernetes"),
    ],
)  # fmt: skip
def test_wrong_usage_exits_with_2(arguments: list[str], words: str) -> None:
    done = run("detect", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_settings_and_wrong_models_exit_with_2(tmp_path: Path) -> None:
    document = settings(tmp_path, "http://127.0.0.1:9")
    file = write(tmp_path, document)
    for options, words in (
        (["--model", "nobody"], "nobody is not watched: name one of search-prod/ranker"),
        ([], "several models are watched"),
        (["--env", "prod"], "--env is for looks without --settings"),
        (["--model", "ranker", "--publish"], "name no repository"),
        (["--model", "ranker", "--at", "yesterday"], "--at takes a commit"),
        (["--model", "ranker", "--at", "2126-01-01T00:00:00Z"], "later than the last sample"),
    ):
        done = run("detect", "--settings", file, *options)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
    file.write_text('{"schema": 2}')
    done = run("detect", "--settings", file, "--model", "ranker")
    assert done.returncode == 2
    assert "$.schema" in done.stderr


def test_a_history_that_cannot_be_read_exits_with_5(tmp_path: Path) -> None:
    away = run(*laptop(Server("http://127.0.0.1:9", None, tmp_path)), "--namespace", "search-prod")  # type: ignore[arg-type]
    assert away.returncode == 5
    assert "connection failed" in away.stderr
    broken = tmp_path / "broken.csv"
    broken.write_text("time,load\nx,y\n")
    done = run(*table(broken))
    assert done.returncode == 5
    assert str(broken) in done.stderr
    assert "Traceback" not in away.stderr + done.stderr


def test_a_missing_extra_says_what_to_install(csv_file: Path, tmp_path: Path) -> None:
    (tmp_path / "scipy.py").write_text("raise ModuleNotFoundError(\"No module named 'scipy'\", name='scipy')")
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    done = process(*table(csv_file), PYTHONPATH=path)
    assert done.returncode == 2
    assert done.stderr == "error: `modelway-runtime detect` needs scipy: pip install 'modelway[detect]'\n"
    assert "Traceback" not in done.stderr


def test_the_commands_are_there_and_cost_nothing() -> None:
    done = run("--help")
    for name in ("detect", "watch", "gate", "replay"):
        assert re.search(rf"^  {name} ", done.stdout, re.MULTILINE)
        assert run(name, "--help").returncode == 0
    heavy = ("numpy", "scipy", "matplotlib", "github", "kubernetes", "requests", "uvicorn", "sqlite3")
    probe = f"import sys, modelway_runtime.cli; print([one for one in {heavy} if one in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, env=environment()
    )
    assert found.stdout == "[]\n"


def test_options_are_completed() -> None:
    words = {"COMP_WORDS": "modelway-runtime detect --s", "COMP_CWORD": "2"}
    more = environment(_MODELWAY_RUNTIME_COMPLETE="bash_complete", **words)
    done = subprocess.run(command(), capture_output=True, text=True, timeout=30, check=False, env=more)
    found = {line.split(",")[-1] for line in done.stdout.splitlines()}
    assert found == {"--settings", "--series", "--since", "--save"}


def test_progress_is_shown_at_a_terminal(csv_file: Path, tmp_path: Path) -> None:
    """Of what takes longer than two seconds: here a file that does not come."""
    pipe = tmp_path / "slow.csv"
    os.mkfifo(pipe)
    terminal, side = pty.openpty()
    detecting = subprocess.Popen(
        command(*table(pipe)), stdout=subprocess.DEVNULL, stderr=side, env=environment(TERM="xterm")
    )
    os.close(side)
    try:
        shown = b""
        while b"Looking" not in shown:
            ready, _, _ = select.select([terminal], [], [], 20)
            assert ready, shown
            shown += os.read(terminal, 4096)
        pipe.write_bytes(csv_file.read_bytes())
        assert detecting.wait(30) == 0
    finally:
        detecting.kill()
        detecting.wait(10)
        os.close(terminal)
