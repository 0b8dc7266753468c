"""The wheel that the image installs: what is in it, and that its commands start."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.support.tools import missing

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ("LICENSE", "README.md", "pyproject.toml", "compiler/modelway", "runtime/modelway_runtime")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from what the Dockerfile copies, by the back end of pyproject.toml."""
    if importlib.util.find_spec("hatchling") is None:
        missing("hatchling is not installed (PyPI: hatchling)")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = target.iterdir()
    return built


def test_the_wheel_holds_both_packages_and_what_they_read(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        str(path.relative_to(ROOT / folder))
        for folder in ("compiler", "runtime")
        for path in (ROOT / folder).glob("modelway*/**/*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    extra = {name for name in packed if ".dist-info/" not in name} - expected
    assert not extra
    assert not expected - packed
    protocols = [
        f"{name}.{end}" for name in ("inference", "health", "reflection") for end in ("proto", "binpb")
    ]
    assert {f"modelway_runtime/serving/grpc/{name}" for name in protocols} <= packed
    assert not [name for name in packed if re.search(r"(^|/)(tests?|conftest)(/|_|\.)", name)]


def test_the_wheel_has_the_commands_and_extras_that_the_image_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (entry,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        scripts, described = archive.read(entry).decode(), archive.read(metadata).decode()
    assert "modelway-runtime = modelway_runtime.cli:run" in scripts
    assert {"runtime", "gpu", "torch"} <= set(re.findall(r"^Provides-Extra: (\S+)$", described, re.MULTILINE))


def test_the_pinned_packages_are_those_that_the_extras_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]

    def pinned(flavour: str) -> set[str]:
        text = (ROOT / "runtime" / "requirements" / f"{flavour}.txt").read_text()
        return set(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE))

    def named(*requirements: str) -> set[str]:
        names = {re.split(r"[\[<>=~! ]", text)[0].lower().replace("_", "-") for text in requirements}
        return names - {"modelway"}

    common = [*project["dependencies"], *extras["serving"]]
    assert not named(*common, *extras["runtime"]) - pinned("cpu")
    assert not named(*common, *extras["gpu"], *extras["torch"]) - pinned("gpu")


def test_the_command_starts_from_the_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own, with the dependencies of this one behind it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    (libraries,) = (tmp_path / "env").glob("lib/python3*/site-packages")
    # Only third-party packages are to come from here; a .pth line would also bring the editable install.
    behind = {"PYTHONPATH": f"{libraries}{os.pathsep}{_third_party()}", "PATH": os.environ["PATH"]}
    script = tmp_path / "env" / "bin" / "modelway-runtime"
    done = subprocess.run([script, "--help"], env=behind, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"serve", "fetch", "check"} <= set(done.stdout.split())
    where = [str(python), "-c", "import modelway_runtime; print(modelway_runtime.__file__)"]
    found = subprocess.run(where, env=behind, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert Path(found.strip()).is_relative_to(libraries)


def _third_party() -> str:
    import click

    return str(Path(click.__file__).parents[1])
