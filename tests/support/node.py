"""What node says of schemas, documents and patterns: the engine of editors and of their validators."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.tools import missing, require_tool

FOLDER = Path(__file__).parents[1] / "node"


@dataclass(frozen=True)
class Answer:
    """Which documents are valid, and which texts of each pattern match it."""

    documents: list[bool]
    patterns: list[list[bool]]


def judge(
    schemas: Mapping[str, Any],
    documents: Sequence[tuple[str, Any]] = (),
    patterns: Sequence[tuple[str, Sequence[str]]] = (),
) -> Answer:
    """ajv's answer for (name of a schema, document), and that of ``RegExp(…, "u")`` for (pattern, texts)."""
    require_tool("node", "nodejs")
    if not (FOLDER / "node_modules").is_dir():
        missing("ajv is not installed (npm ci --prefix tests/node)")
    asked = {"schemas": schemas, "documents": documents, "patterns": patterns}
    done = subprocess.run(
        ["node", "judge.mjs"],
        cwd=FOLDER,
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Answer(**json.loads(done.stdout))
