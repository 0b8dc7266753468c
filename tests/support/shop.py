"""The reference shop, compiled once for each test process."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from modelway.pipeline import Compilation, compile_specs
from modelway.sources import read_specs

ROOT = Path(__file__).resolve().parents[2]
Json = dict[str, Any]


@cache
def compiled() -> Compilation:
    sources, unread = read_specs(ROOT / "specs", shown="specs")
    return compile_specs(sources, unread)


@cache
def objects() -> dict[str, Json]:
    """Path -> Kubernetes object, for every environment with a cluster."""
    return {
        file.path: yaml.load(file.data, Loader=yaml.CSafeLoader)
        for file in compiled().files
        if not file.path.startswith("local/")
    }


def of_kind(kind: str) -> dict[str, Json]:
    return {path: value for path, value in objects().items() if value["kind"] == kind}


KUBERNETES = {"dev": "1.33", "staging": "1.35", "prod": "1.37"}
"""Version of each environment's cluster, as its spec says."""
