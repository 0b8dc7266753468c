"""Run by test_tree_kill.py: kills `write` before each single change that it makes to the file system.

    python killed_writes.py OUT {old,new,nothing} {new,nothing} ENVIRONMENTS [EARLIER]

makes OUT/<k>, a folder as a `write` left it that was killed by SIGKILL before its k-th change, for every
k and for the first k that is one too many, and prints the last k. The folder to start with is as the
first set of files gives it, or EARLIER/<k>.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from modelway.tree import write
from tests.tree.trees import NEW, OLD

SETS = {"old": OLD, "new": NEW, "nothing": []}
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "os.chmod", "os.utime"}


def die_before(change: int) -> None:
    left = change

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in CHANGES or (event == "open" and arguments[2] & (os.O_CREAT | os.O_TRUNC)):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def killed(root: Path, change: int, files: list[Any], environments: frozenset[str] | None) -> bool:
    child = os.fork()
    if child == 0:
        die_before(change)
        write(root, files, environments=environments)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def main(out: Path, start: str, goal: str, names: str, earlier: Path | None) -> int:
    environments = frozenset(names.split(",")) if names != "all" else None
    first = out / "start"
    write(first, SETS[start], environments=None)
    for change in range(1, 1000):
        root = out / str(change)
        if earlier and not (earlier / str(change)).is_dir():
            return change - 1
        shutil.copytree(earlier / str(change) if earlier else first, root)
        # The second kill comes at another step than the first.
        if not killed(root, change % 7 + 1 if earlier else change, SETS[goal], environments) and not earlier:
            return change
    raise AssertionError("never done")


if __name__ == "__main__":
    where, before, after, limit, *more = sys.argv[1:]
    print(main(Path(where), before, after, limit, Path(more[0]) if more else None))
