"""The build does not change by itself: what is installed anywhere comes from ``constraints.txt``."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "constraints.txt"
IMAGE = ROOT / "runtime" / "requirements"


def pins(path: Path) -> list[Requirement]:
    """The lines that name a package; hashes and comments are left out."""
    lines = (line.split(" \\")[0].strip() for line in path.read_text().splitlines())
    return [Requirement(line) for line in lines if re.match(r"[A-Za-z0-9]", line)]


def versions(path: Path, python: str) -> dict[str, str]:
    """Package -> version on Linux with this Python."""
    environment = {
        **default_environment(),
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    held: dict[str, str] = {}
    for pin in pins(path):
        if pin.marker is None or pin.marker.evaluate(environment):
            (specifier,) = pin.specifier
            assert specifier.operator == "==", pin
            name = canonicalize_name(pin.name)
            assert name not in held, f"{name} is pinned twice on {python}"
            held[name] = specifier.version
    assert held
    return held


def requirements() -> list[Requirement]:
    """All that pyproject.toml asks for: the project, each extra, the build."""
    described = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = described["project"]
    listed = [
        *project["dependencies"],
        *(text for extra in project["optional-dependencies"].values() for text in extra),
        *described["build-system"]["requires"],
    ]
    return [one for one in map(Requirement, listed) if one.name != "modelway"]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_every_requirement_is_pinned_at_a_version_that_it_allows(python: str) -> None:
    held = versions(CONSTRAINTS, python)
    for requirement in requirements():
        version = held[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), requirement


@pytest.mark.parametrize("name", ["cpu", "gpu", "build"])
def test_the_image_installs_the_versions_that_the_tests_run_on(name: str) -> None:
    held = versions(CONSTRAINTS, "3.11")
    for package, version in versions(IMAGE / f"{name}.txt", "3.11").items():
        assert held[package] == version, package


def test_no_file_names_a_registry() -> None:
    for path in (CONSTRAINTS, *IMAGE.iterdir()):
        text = path.read_text()
        assert text
        assert "://" not in text, path
        assert "index" not in {word for line in text.splitlines() for word in line.split()[:1]}, path


def test_make_installs_with_the_constraints() -> None:
    def commands(*arguments: str) -> str:
        make = ["make", "--no-print-directory", "--dry-run", "--always-make", *arguments, ".venv/.installed"]
        return subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    pinned = "PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt .venv/bin/pip install"
    assert pinned in commands()
    assert "CONSTRAINT" not in commands("CONSTRAINTS=")


def test_a_change_of_the_constraints_makes_the_environment_anew() -> None:
    rule = re.search(r"^\$\(STAMP\): (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert rule
    assert "$(CONSTRAINTS)" in rule[1]
