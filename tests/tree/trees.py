"""Folders to compile into, and what became of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from modelway.tree import GeneratedFile, index_files


def files(**texts: str) -> list[GeneratedFile]:
    """Files by path, `__` for a slash: prod__search__ranker__service="x" is a .yaml file."""
    made = []
    for key, text in texts.items():
        path = key.replace("__", "/").replace("platform", "_platform") + ".yaml"
        made.append(GeneratedFile(path, text.encode(), "Model " + "/".join(path.split("/")[1:-1])))
    return made


OLD = files(
    prod__search__ranker__rollout="ranker 1",
    prod__search__ranker__service="service",
    prod__search__encoder__rollout="encoder",
    prod__recommendation__tower__rollout="tower",
    prod__platform__namespace="namespace",
    staging__search__ranker__rollout="ranker 1",
    local__search__ranker__settings="settings",
)
# One changed, one the same, a model gone, a team gone, an environment gone; a model, a team, an
# environment new; a new index where nothing was.
NEW = files(
    prod__search__ranker__rollout="ranker 2",
    prod__search__ranker__service="service",
    prod__search__reranker__rollout="reranker",
    prod__vision__vgg__rollout="vgg",
    prod__platform__namespace="namespace 2",
    staging__search__ranker__rollout="ranker 2",
    staging__search__ranker__service="service",
    dev__search__ranker__rollout="ranker 2",
)


def wanted(generated: Sequence[GeneratedFile]) -> dict[str, bytes]:
    return {file.path: file.data for file in generated} | index_files(generated)


def snapshot(root: Path) -> dict[str, bytes]:
    """Every file and link below a folder, and each folder that is empty, with what it holds."""
    found: dict[str, bytes] = {}
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        if not folders and not names and here != root:
            found[here.relative_to(root).as_posix() + "/"] = b""
        for name in [*folders, *names]:
            path = here / name
            if path.is_symlink():
                found[path.relative_to(root).as_posix()] = b"-> " + os.fsencode(path.readlink())
            elif path.is_file():
                found[path.relative_to(root).as_posix()] = path.read_bytes()
    return found


def python(*arguments: str, status: int = 0) -> str:
    """What another Python prints that can import what this one can."""
    paths = [str(Path(__file__).parents[2]), *filter(None, sys.path)]
    done = subprocess.run(
        [sys.executable, "-B", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert done.returncode == status, done.stderr
    return done.stdout
