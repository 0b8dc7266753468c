"""The commands as a user meets them: their output, their exit codes, what they leave on the disk."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import modelway as package
from tests.cli.running import (
    DISK,
    FOUND,
    RUN,
    STALE,
    USAGE,
    Ran,
    assert_harmless,
    assert_told,
    environment,
    modelway,
    on_terminal,
    repository,
    snapshot,
    write,
)
from tests.support.small_shop import ALERT, CPU, MODEL, PROD, SETTINGS

COMMANDS = ("check", "compile", "completion", "explain", "init", "list", "schema")
# A canary without Argo Rollouts is a warning, weights in an image without image volumes a note.
WARNED = {
    "specs/prod.yaml": PROD.replace("rollouts: true, ", "").replace(", imageVolumes: true", ""),
    "specs/ranker.yaml": MODEL.replace(
        "s3://shop-models/ranker.onnx", f"oci://registry.example/r@sha256:{'1' * 64}"
    )
    + "  rollout: {strategy: canary, steps: [{weight: 5}]}\n",
}


def ok(ran: Ran) -> str:
    """The standard output of a command that did its work."""
    assert ran.code == 0, f"exit {ran.code}\n{ran.out}\n{ran.err}"
    assert_harmless(ran)
    return ran.out


def files_of(made: dict[str, str]) -> list[str]:
    return [name for name, what in made.items() if what != "folder"]


# --- from nothing ---------------------------------------------------------------------------------


def test_init_compile_check_edit(tmp_path: Path) -> None:
    root = tmp_path / "shop"
    root.mkdir()
    wrote = ok(modelway("init", cwd=root))
    assert "Next: modelway compile" in wrote
    written = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert set(re.findall("^  wrote (.*)$", wrote, re.MULTILINE)) == written
    assert {
        "modelway.yaml",
        "specs/search/ranker.yaml",
        "specs/environments/local.yaml",
        ".gitattributes",
        ".editorconfig",
        ".vscode/settings.json",
        ".github/workflows/modelway.yaml",
        "policies/schemas/model.json",
    } <= written
    attributes = (root / ".gitattributes").read_text()
    assert "eol=lf" in attributes
    assert "generated/** linguist-generated=true" in attributes

    summary = ok(modelway("compile", cwd=root))
    assert summary.startswith("generated: ")
    assert " created" in summary
    made = snapshot(root / "generated")
    assert made

    assert ok(modelway("check", cwd=root)).startswith("generated: up to date")

    spec = root / "specs/search/ranker.yaml"
    spec.write_text(spec.read_text().replace("version: 0.1.0", "version: 0.2.0"))
    stale = modelway("check", cwd=root)
    found = assert_told(stale, STALE)
    assert ("MW503", "generated/local/search/ranker/settings-ranker.json", 1, 1) in found
    assert "run: modelway compile" in stale.err
    assert snapshot(root / "generated") == made

    again = ok(modelway("compile", cwd=root))
    changed = {name for name, what in snapshot(root / "generated").items() if made[name] != what}
    assert {"local/search/ranker/settings-ranker.json", ".index/local/search.json"} <= changed
    assert again == f"generated: {len(changed)} changed, {len(files_of(made)) - len(changed)} unchanged\n"
    ok(modelway("check", cwd=root))


def test_init_refuses_what_is_there(tmp_path: Path) -> None:
    write(tmp_path, {"specs/resources/cpu-small.yaml": "mine\n"})
    before = snapshot(tmp_path)
    refused = modelway("init", cwd=tmp_path)
    assert refused.code == USAGE
    assert "specs/resources/cpu-small.yaml is there already" in refused.err
    for options in (["--team", "A B"], ["--model", "../x"], ["--team", "{{ 7 * 7 }}"]):
        assert modelway("init", "new", *options, cwd=tmp_path).code == USAGE
    assert snapshot(tmp_path) == before


def test_init_is_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / ".github").write_text("a file where a folder is wanted\n")
    before = snapshot(tmp_path)
    ran = modelway("init", cwd=tmp_path)
    assert ran.code in (USAGE, DISK)
    assert_harmless(ran)
    assert snapshot(tmp_path) == before


def test_init_elsewhere_with_names(tmp_path: Path) -> None:
    wrote = ok(modelway("init", "ads", "--team", "ads", "--model", "bidder", cwd=tmp_path))
    assert "cd ads && modelway compile" in wrote
    ok(modelway("compile", cwd=tmp_path / "ads"))
    assert (tmp_path / "ads/generated/local/ads/bidder/settings-bidder.json").is_file()


# --- compile and check ----------------------------------------------------------------------------


def test_one_environment_is_written_and_all_are_checked(tmp_path: Path) -> None:
    root = repository(tmp_path)
    ok(modelway("compile", "-e", "local", cwd=root))
    made = snapshot(root / "generated")
    assert {name.split("/")[0] for name in made} == {".index", "local"}
    ok(modelway("check", "-e", "local", cwd=root))
    stale = modelway("check", "-e", "prod", "--format", "json", cwd=root)
    assert stale.code == STALE
    report = json.loads(stale.out)
    assert all(re.match("generated/(.index/)?prod/", one["path"]) for one in report["diagnostics"])
    assert {one["hint"] for one in report["diagnostics"]} == {"run: modelway compile -e prod"}

    # A mistake for prod alone stops local too.
    (root / "specs/ranker.yaml").write_text(
        f"{MODEL}  environments: {{prod: {{serving: {{resource: cpu-smal}}}}}}\n"
    )
    assert [code for code, *_ in assert_told(modelway("compile", "-e", "local", cwd=root))] == ["MW202"]
    assert snapshot(root / "generated") == made


def test_an_unknown_environment_is_refused(tmp_path: Path) -> None:
    root = repository(tmp_path)
    ran = modelway("compile", "-e", "prd", cwd=root)
    assert ran.code in (FOUND, USAGE)
    assert 'there is no environment "prd"' in ran.err
    assert_harmless(ran)
    assert not (root / "generated").exists()


def test_what_no_spec_gives_any_more_is_removed(tmp_path: Path) -> None:
    root = repository(tmp_path, {"specs/slo.yaml": ALERT})
    ok(modelway("compile", cwd=root))
    (root / "specs/slo.yaml").unlink()
    extra = modelway("check", cwd=root)
    assert {code for code, *_ in assert_told(extra, STALE)} == {"MW503", "MW505"}
    assert " removed" in ok(modelway("compile", cwd=root))
    assert not list((root / "generated").rglob("*slo*"))
    ok(modelway("check", cwd=root))


def test_strict_makes_warnings_fail_and_quiet_hides_the_rest(tmp_path: Path) -> None:
    root = repository(tmp_path, WARNED)
    ran = modelway("compile", "--strict", cwd=root)
    codes = {code for code, *_ in assert_told(ran)}
    assert {"MW401", "MW403"} <= codes
    assert not (root / "generated").exists()
    quiet = modelway("compile", "--strict", "--quiet", cwd=root)
    assert {code for code, *_ in assert_told(quiet)} == {"MW401"}
    assert quiet.out == ""

    silent = modelway("compile", "--quiet", cwd=root)
    assert (silent.code, silent.out, silent.err) == (0, "", "")
    loud = modelway("check", cwd=root)
    ok(loud)
    assert "warning[MW401]" in loud.err
    assert "note[MW403]" in loud.err


def test_folders_by_option_from_anywhere(tmp_path: Path) -> None:
    shop = repository(tmp_path)
    (shop / "modelway.yaml").unlink()
    away = tmp_path / "away"
    away.mkdir()
    options = ("--specs", str(shop / "specs"), "--output", str(tmp_path / "a b"))
    ok(modelway("compile", *options, cwd=away))
    assert not list(away.iterdir())
    (shop / "specs/ranker.yaml").write_text(MODEL.replace("46.1.0", "46.2.0"))
    stale = modelway("check", *options, "--format", "json", cwd=away)
    assert stale.code == STALE
    # The command that mends it does, as it stands there.
    [hint] = {one["hint"] for one in json.loads(stale.out)["diagnostics"]}
    words = hint.removeprefix("run: ").replace("modelway ", f"{sys.executable} -c '{RUN}' ", 1)
    done = subprocess.run(["sh", "-c", words], cwd=away, env=environment(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    ok(modelway("check", *options, cwd=away))


def test_from_a_folder_below(tmp_path: Path) -> None:
    root = repository(tmp_path)
    below = root / "specs" / "deep" / "er"
    below.mkdir(parents=True)
    ok(modelway("compile", cwd=below))
    assert (root / "generated/prod").is_dir()
    assert not list(below.iterdir())
    (root / "specs/ranker.yaml").write_text(MODEL.replace("cpu-small", "cpu-smal"))
    [(code, path, line, _)] = assert_told(modelway("check", cwd=below))
    assert (code, line) == ("MW202", 7)
    assert (below / path).resolve() == root / "specs/ranker.yaml"


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        (None, "MW001", 1),
        ("", "MW101", 1),
        ("requires: '9.9'\n", "MW120", 1),
        ("requires: '0.1.99'\n", "MW120", 1),
        ("specs: specs\n", "MW105", 1),
        ("requires: '0.1'\nspec: specs\n", "MW104", 2),
        ("requires: 0.1\n", "MW106", 1),
        ("requires: '0.1'\noutput: ../out\n", "MW108", 2),
        ("requires: '0.1'\noutput: /tmp/out\n", "MW108", 2),
        ("requires: [\n", "MW006", 1),
        ("requires: '0.1'\n---\nrequires: '0.1'\n", "MW101", 3),
        ("- requires\n", "MW106", 1),
    ],
)
def test_settings(tmp_path: Path, text: str | None, code: str, line: int) -> None:
    root = repository(tmp_path)
    (root / "modelway.yaml").unlink()
    if text is not None:
        (root / "modelway.yaml").write_text(text)
    ran = modelway("compile", cwd=root)
    [found] = [one for one in assert_told(ran) if one[0] != "MW018"]
    assert found[:2] == (code, "modelway.yaml")
    assert found[2] in (line, line + 1 if text == "requires: [\n" else line)
    assert not (root / "generated").exists()


# --- forms of the output --------------------------------------------------------------------------


def test_formats_for_machines(tmp_path: Path) -> None:
    root = repository(tmp_path, {"specs/ranker.yaml": MODEL.replace("resource:", "resorce:"), **_slo()})
    ran = {form: modelway("compile", "--format", form, cwd=root) for form in ("json", "github", "sarif")}
    for one in ran.values():
        assert (one.code, one.err) == (FOUND, "")
        assert_harmless(one)
    report = json.loads(ran["json"].out)
    assert report["exitCode"] == FOUND
    assert report["files"] == {}
    found = [(one["code"], one["path"], one["line"], one["column"]) for one in report["diagnostics"]]
    assert ("MW104", "specs/ranker.yaml", 7, 13) in found
    assert report["summary"]["errors"] == len(found) == 3  # the wrong name, the right one's lack, the SLO

    commands = [line for line in ran["github"].out.splitlines() if line.startswith("::")]
    assert len(commands) == len(found)
    assert "file=specs/ranker.yaml,line=7" in ran["github"].out

    [log] = json.loads(ran["sarif"].out)["runs"]
    assert [one["ruleId"] for one in log["results"]].count("MW104") == 1
    assert len(log["results"]) == len(found)


def test_formats_when_all_is_well(tmp_path: Path) -> None:
    root = repository(tmp_path)
    report = json.loads(ok(modelway("compile", "--format", "json", cwd=root)))
    assert report["diagnostics"] == []
    assert report["exitCode"] == 0
    assert report["files"]["created"] > 10
    assert json.loads(ok(modelway("check", "--format", "sarif", cwd=root)))["runs"][0]["results"] == []
    assert ok(modelway("check", "--format", "github", cwd=root)).count("::") == 0
    again = json.loads(ok(modelway("check", "--format", "json", cwd=root)))
    assert all(count == 0 for name, count in again["files"].items() if name != "unchanged")
    assert all(count >= 0 for count in again["files"].values())


def test_counts_are_never_negative(tmp_path: Path) -> None:
    """Before the first compile every file is missing, and none is anything else."""
    root = repository(tmp_path)
    report = json.loads(modelway("check", "--format", "json", cwd=root).out)
    assert report["files"]["missing"] == report["summary"]["errors"]
    assert report["files"]["unchanged"] == 0


def test_colours_only_when_asked(tmp_path: Path) -> None:
    root = repository(tmp_path, {"specs/ranker.yaml": MODEL.replace("resource:", "resorce:")})
    assert "\x1b" not in modelway("check", cwd=root).err
    always = modelway("check", "--colour", "always", cwd=root)
    assert "\x1b[1;31m" in always.err
    assert always.err.count("\x1b[") % 2 == 0
    assert "\x1b" not in modelway("check", "--colour", "never", cwd=root).err


def test_a_terminal_gets_colours_and_nothing_more(tmp_path: Path) -> None:
    root = repository(tmp_path, {"specs/ranker.yaml": MODEL.replace("resource:", "resorce:")})
    shown = on_terminal("check", cwd=root)
    assert shown.code == FOUND
    assert "\x1b[1;31merror[MW104]" in shown.out
    assert set(re.findall("\x1b\\[[^a-zA-Z]*([a-zA-Z])", shown.out)) == {"m"}
    assert "\x1b" not in on_terminal("check", cwd=root, env={"NO_COLOR": "1"}).out


IMPATIENT = "import modelway.console; modelway.console._PATIENCE_S = 0"


def test_a_bar_while_it_lasts(tmp_path: Path) -> None:
    root = repository(tmp_path)
    shown = on_terminal("compile", cwd=root, prelude=IMPATIENT)
    assert shown.code == 0
    assert "\x1b[?25l" in shown.out, "no bar was drawn"
    assert shown.out.rindex("\x1b[?25h") > shown.out.rindex("\x1b[?25l")
    assert shown.out.rstrip().endswith("unchanged")
    assert "\x1b" not in on_terminal("check", cwd=root).out, "what is quick needs no bar"
    assert on_terminal("compile", "--quiet", cwd=root, prelude=IMPATIENT).out == ""


def test_a_bar_leaves_the_cursor_when_the_disk_fails(tmp_path: Path) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    shown = on_terminal("compile", cwd=repository(tmp_path), prelude=IMPATIENT, limits=limited)
    assert shown.code == DISK
    assert "\x1b[?25l" in shown.out
    assert shown.out.rindex("\x1b[?25h") > shown.out.rindex("\x1b[?25l")


def _slo() -> dict[str, str]:
    return {"specs/slo.yaml": ALERT.replace("99.9", "101")}


# --- the other commands ---------------------------------------------------------------------------


def test_list(tmp_path: Path) -> None:
    root = repository(
        tmp_path,
        {
            "specs/ranker.yaml": MODEL.replace(
                "cpu-small}", "cpu-small, scaling: {minReplicas: 2, maxReplicas: 5}}"
            )
        },
    )
    table = ok(modelway("list", cwd=root))
    rows = [line.split() for line in table.splitlines() if line.startswith(("local", "prod"))]
    assert [row[:5] for row in rows] == [
        ["local", "search/ranker", "46.1.0", "ranker", "1"],  # one process on a laptop
        ["prod", "search/ranker", "46.1.0", "ranker", "2-5"],
    ]
    assert "0.2 USD" in table
    data = json.loads(ok(modelway("list", "--json", "-e", "prod", cwd=root)))
    [model] = data["models"]
    assert (model["environment"], model["minReplicas"], model["costPerHour"]) == ("prod", 2, "0.2")
    assert [one["environment"] for one in data["totals"]] == ["prod"]
    assert not (root / "generated").exists()


def test_list_of_an_environment_without_models(tmp_path: Path) -> None:
    """It is there all the same."""
    root = repository(
        tmp_path, {"specs/ranker.yaml": MODEL.replace("spec:\n", "spec:\n  targets: [prod]\n", 1)}
    )
    assert json.loads(ok(modelway("list", "--json", "-e", "local", cwd=root)))["models"] == []


def test_list_says_what_is_wrong(tmp_path: Path) -> None:
    root = repository(tmp_path, {"specs/ranker.yaml": MODEL.replace("cpu-small", "cpu-smal")})
    assert {code for code, *_ in assert_told(modelway("list", cwd=root))} == {"MW202"}


def test_explain(tmp_path: Path) -> None:
    kinds = ok(modelway("explain", cwd=tmp_path))
    assert [line.split()[0] for line in kinds.splitlines()][:4] == [
        "Model",
        "Alert",
        "Resource",
        "Environment",
    ]
    text = ok(modelway("explain", "Model.spec.serving.batching.maxRows", cwd=tmp_path))
    assert "default  1" in text
    assert "example  64" in text
    data = json.loads(ok(modelway("explain", "Model.spec.serving.batching", "--json", cwd=tmp_path)))
    assert set(data["properties"]) == {"maxRows", "maxDelay", "preferredRows"}
    for path, words in (
        ("Model.spec.servin", 'did you mean "serving"?'),
        ("Modl", 'did you mean "Model"?'),
        ("Model.spec.serving.resource.cpu", "it holds no fields"),
        ("", "there are Model"),
    ):
        ran = modelway("explain", path, cwd=tmp_path)
        assert ran.code == USAGE
        assert words in ran.err


def test_explain_of_entries(tmp_path: Path) -> None:
    """What ``explain`` of a list or mapping shows can be asked for, and what is required is marked."""
    steps = ok(modelway("explain", "Model.spec.rollout.steps", cwd=tmp_path))
    assert any(line.split()[:1] == ["weight"] and line.endswith("(required)") for line in steps.splitlines())
    assert "Share of requests" in ok(modelway("explain", "Model.spec.rollout.steps.weight", cwd=tmp_path))


def test_schema(tmp_path: Path) -> None:
    schema: dict[str, Any] = json.loads(ok(modelway("schema", "Model", cwd=tmp_path)))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    wrote = ok(modelway("schema", "--output", "out/schemas", cwd=tmp_path)).split()
    assert {Path(path).name for path in wrote} == {
        f"{kind}.json" for kind in ("model", "alert", "resource", "environment", "repository")
    }
    assert json.loads((tmp_path / "out/schemas/model.json").read_bytes()) == schema
    ran = modelway("schema", "Modl", cwd=tmp_path)
    assert ran.code == USAGE
    assert "Model" in ran.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(tmp_path: Path, shell: str) -> None:
    assert "_MODELWAY_COMPLETE" in ok(modelway("completion", shell, cwd=tmp_path))


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("modelway com", {"compile", "completion"}),
        ("modelway compile -e ", {"local", "prod"}),
        ("modelway explain Model.spec.serving.sc", {"Model.spec.serving.scaling"}),
        ("modelway check --format ", {"text", "json", "github", "sarif"}),
    ],
)
def test_completion(tmp_path: Path, line: str, wanted: set[str]) -> None:
    root = repository(tmp_path)
    words = line.split(" ")
    asked = {
        "_MODELWAY_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    out = modelway(cwd=root, env=asked).out
    assert {reply.split(",")[-1] for reply in out.split()} == wanted


def test_completion_where_there_is_no_repository(tmp_path: Path) -> None:
    asked = {"_MODELWAY_COMPLETE": "bash_complete", "COMP_WORDS": "modelway compile -e ", "COMP_CWORD": "3"}
    ran = modelway(cwd=tmp_path, env=asked)
    assert (ran.out.strip(), ran.err) == ("", "")


def test_version_and_help(tmp_path: Path) -> None:
    assert ok(modelway("--version", cwd=tmp_path)) == f"modelway {package.__version__}\n"
    text = ok(modelway("--help", cwd=tmp_path))
    listed = text.partition("Commands:")[2].splitlines()
    assert tuple(sorted(line.split()[0] for line in listed if line.strip())) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(tmp_path: Path, command: str) -> None:
    text = ok(modelway(command, "-h", cwd=tmp_path))
    assert text.startswith(f"Usage: modelway {command}")
    assert len(text.splitlines()) > 5


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("kompile",),
        ("compile", "--format", "xml"),
        ("compile", "specs"),
        ("completion", "tcsh"),
        ("schema",),
    ],
)
def test_wrong_command_lines(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    root = repository(tmp_path)
    ran = modelway(*arguments, cwd=root)
    assert ran.code == USAGE
    assert "Usage: modelway" in ran.err + ran.out
    assert_harmless(ran)
    assert not (root / "generated").exists()


def test_no_environment_is_said(tmp_path: Path) -> None:
    """Specs for no environment compile to nothing, and would remove all that was there."""
    root = write(
        tmp_path / "shop", {"modelway.yaml": SETTINGS, "specs/cpu.yaml": CPU, "specs/ranker.yaml": MODEL}
    )
    ran = modelway("compile", cwd=root)
    assert "nvironment" in ran.err
