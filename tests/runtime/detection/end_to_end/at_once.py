"""``python at_once.py COUNT ARGUMENT…``: so many runs of modelway-runtime at once, each a process of its own.

They are forked from one that has imported what they need, or most of the time would go into imports. Prints a
JSON list of [exit code, what it wrote to standard error].
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import traceback
from typing import IO

from modelway_runtime.cli import main
from modelway_runtime.detection import life, publish, replay, targets, watcher  # noqa: F401
from modelway_runtime.detection.report import html, markdown, text  # noqa: F401


def run(count: int, arguments: list[str]) -> list[tuple[int, str]]:
    gate, opened = os.pipe()
    with contextlib.ExitStack() as stack:
        errors = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(count)]
        children = [_fork(gate, opened, each, arguments) for each in errors]
        os.close(gate)
        os.close(opened)  # now all begin
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        for each in errors:
            each.seek(0)
        return [(code, each.read().decode()) for code, each in zip(codes, errors, strict=True)]


def _fork(gate: int, opened: int, errors: IO[bytes], arguments: list[str]) -> int:
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.dup2(errors.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.close(opened)
        os.read(gate, 1)
        main(arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        if sys.exc_info()[1] is not None:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]), sys.argv[2:])))
