"""The peers: which are installed, how their input is written (not timed), and whether they made the same.

A peer is a package from PyPI, looked for in this interpreter and in the virtual environments below the
folder that ``--peers`` names. Each gets its cheapest form: see templates.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from templates import JSONNET, KCL, Overlay, Template, expression, helm
from workload import Json, Shop, parameters

DRIVERS = Path(__file__).resolve().with_name("drivers.py")


class DifferentError(Exception):
    """A peer did not make the objects that modelway made; its figures would mean nothing."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer. ``write`` makes its input in a folder and gives the driver's arguments."""

    name: str
    what: str
    package: str
    driver: str
    write: Callable[[Path, list[Template]], list[str]]
    read: Callable[[str], Iterable[Json]]


@dataclass(frozen=True, slots=True)
class Installed:
    """A peer with the interpreter that has it."""

    peer: Peer
    python: str
    version: str

    def command(self, arguments: Sequence[str]) -> list[str]:
        """What is timed."""
        return [self.python, str(DRIVERS), self.peer.driver, *arguments]


def _helm(folder: Path, templates: list[Template]) -> list[str]:
    chart = folder / "chart"
    (chart / "templates").mkdir(parents=True, exist_ok=True)
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: models\nversion: 1.0.0\n")
    for number, template in enumerate(templates):
        text = f"{{{{- range .Values.models }}}}\n---\n{helm(template)}{{{{- end }}}}\n"
        (chart / "templates" / f"{number:02d}.yaml").write_text(text)
    return [str(chart), str(folder / "values.json")]


def _jsonnet(folder: Path, templates: list[Template]) -> list[str]:
    objects = expression(templates, JSONNET)
    program = f"local objects(m) = {objects};\nstd.flatMap(objects, (import 'values.json').models)\n"
    (folder / "main.jsonnet").write_text(program)
    return [str(folder / "main.jsonnet")]


def _kcl(folder: Path, templates: list[Template]) -> list[str]:
    program = (
        "import file\nimport json\nimport manifests\n\n"
        f"objects = lambda m {{\n{expression(templates, KCL)}\n}}\n"
        f"values = json.decode(file.read({json.dumps(str(folder / 'values.json'))}))\n"
        "manifests.yaml_stream([one for m in values.models for one in objects(m)])\n"
    )
    (folder / "main.k").write_text(program)
    return [str(folder / "main.k")]


def _read_yaml(text: str) -> Iterator[Json]:
    return (one for one in yaml.load_all(text, Loader=yaml.CSafeLoader) if one is not None)


def _read_json(text: str) -> Iterator[Json]:
    return iter(json.loads(text))


PEERS = (
    Peer("Helm", "helm template, one release", "helm-python-sdk", "helm-template", _helm, _read_yaml),
    Peer("Helm engine", "Helm's template engine only", "helm-python-sdk", "helm-render", _helm, _read_yaml),
    Peer("jsonnet", "jrsonnet, one JSON list", "rjsonnet", "jsonnet", _jsonnet, _read_json),
    Peer("KCL", "KCL, a stream of YAML", "kcl-lib", "kcl", _kcl, _read_yaml),
)


def find(folder: Path | None) -> tuple[list[Installed], list[Peer]]:
    """The peers that are installed, and those that are not."""
    below = [] if folder is None else [*folder.glob("bin/python"), *folder.glob("*/bin/python")]
    pythons = [*map(str, sorted(below)), sys.executable]
    installed, missing = [], []
    where = {package: _interpreter(package, pythons) for package in sorted({p.package for p in PEERS})}
    for peer in PEERS:
        if (found := where[peer.package]) is None:
            missing.append(peer)
        else:
            installed.append(Installed(peer, *found))
    return installed, missing


def _interpreter(package: str, pythons: Sequence[str]) -> tuple[str, str] | None:
    """The first interpreter that has the package, and the package's version."""
    for python in pythons:
        asked = f"from importlib.metadata import version; print(version({package!r}))"
        answer = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            return python, answer.stdout.strip()
    return None


@dataclass(frozen=True)
class Task:
    """What the peers are given: the objects of a shop as templates, and the values of each model."""

    shop: Shop
    templates: list[Template]
    rows: list[Json]

    @classmethod
    def of(cls, shop: Shop) -> Task:
        """Lay the objects of the models over each other."""
        overlay = Overlay([parameters(index) for index in range(shop.size)])
        templates = [overlay.template(column) for column in zip(*shop.objects, strict=True)]
        return cls(shop, templates, overlay.rows())

    def write(self, peer: Peer, folder: Path) -> list[str]:
        """Write the input of a peer; the arguments of its driver."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "values.json").write_text(json.dumps({"models": self.rows}))
        return peer.write(folder, self.templates)

    def compare(self, peer: Peer, output: Path) -> None:
        """Raises DifferentError unless the peer made the very objects that modelway made."""
        ours = _by_identity(one for objects in self.shop.objects for one in objects)
        theirs = _by_identity(peer.read(output.read_text(encoding="utf-8")))
        for what, rest in (("lacks", ours.keys() - theirs.keys()), ("adds", theirs.keys() - ours.keys())):
            if rest:
                raise DifferentError(f"{peer.name} {what} {len(rest)} objects, for example {min(rest)}")
        for identity, value in ours.items():
            if value != theirs[identity]:
                place = difference(value, theirs[identity])
                raise DifferentError(f"{peer.name} makes another {' '.join(identity)}: {place}")


def _by_identity(objects: Iterable[Json]) -> dict[tuple[str, str, str], Json]:
    found: dict[tuple[str, str, str], Json] = {}
    for one in objects:
        meta = one["metadata"]
        found[one["kind"], meta.get("namespace", ""), meta["name"]] = one
    return found


def difference(ours: Any, theirs: Any, place: str = "") -> str:
    """The first place at which two values differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        key = next(key for key in ours if ours[key] != theirs[key])
        return difference(ours[key], theirs[key], f"{place}.{key}")
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        index = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
        return difference(ours[index], theirs[index], f"{place}[{index}]")
    return f"{place or '.'} is {theirs!r:.200} and not {ours!r:.200}"
