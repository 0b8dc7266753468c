"""What lowering makes: Kubernetes objects and, where there is no cluster, plain files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from modelway.lower import names

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class KubeObject:
    """An object, the folder of its environment that it lies in, and the spec it comes from."""

    folder: str
    value: Json
    spec: str

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.value['kind'].lower()}-{self.value['metadata']['name']}.yaml"


@dataclass(frozen=True, slots=True)
class PlainFile:
    """A file that is no Kubernetes object, for an environment without a cluster."""

    path: str
    data: bytes
    spec: str


Output = KubeObject | PlainFile


def json_text(value: object) -> str:
    """Pretty-printed JSON with a newline at its end, in the order of the value's own keys."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"


def json_by_lines(value: Json) -> str:
    """JSON with one line for each key, and one for each entry of its lists: a diff shows which changed."""

    def line(item: object) -> str:
        return msgspec.json.encode(item).decode()

    lines = []
    for key, item in value.items():
        if isinstance(item, list) and item:
            entries = ",\n    ".join(line(entry) for entry in item)
            lines.append(f"  {line(key)}: [\n    {entries}\n  ]")
        else:
            lines.append(f"  {line(key)}: {line(item)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def metadata(
    name: str,
    namespace: str | None,
    labels: Mapping[str, str],
    spec: str,
    wave: str,
    annotations: Mapping[str, str] | None = None,
) -> Json:
    """The metadata of an object; ``namespace`` is None for what is cluster-wide."""
    notes = {**(annotations or {}), names.SPEC: spec, names.SYNC_WAVE: wave}
    found: Json = {"name": name, "labels": dict(labels), "annotations": notes}
    if namespace is not None:
        found["namespace"] = namespace
    return found
