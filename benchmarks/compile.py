"""How much a compile takes, and what others take to make the same objects.

    python benchmarks/compile.py                all sizes; some minutes
    python benchmarks/compile.py --peers DIR    with the peers found in virtual environments below DIR
    python benchmarks/compile.py --quick        ten models, once: does the benchmark itself work?

Whole processes, medians of several runs after one that warms up. Machines are shared and noisy: compare
CPU seconds. benchmarks/README.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measure import FailedError, Figures, Program
from peers import DRIVERS, DifferentError, Task, find
from report import data, machine, text
from results import CHECK, COMPILE, CREATE, MODELWAY, STARTED, WRITE, Results, Row
from templates import ShapeError
from workload import Shop

RUN = "from modelway.cli import run; run()"
QUICK = 10  # models
MOST = 1000  # models: more are checked only


@dataclass(frozen=True, slots=True)
class Options:
    """What is to be measured."""

    sizes: tuple[int, ...]
    runs: int
    warm_ups: int
    peers: Path | None
    json: bool


class Progress:
    """Says on standard error what is being done: in one line on a terminal, else in a line each."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def __call__(self, doing: str) -> None:
        line = f"[{time.monotonic() - self._begin:4.0f} s] {doing}"
        before, after = ("\r\x1b[K", "") if self._terminal else ("", "\n")
        print(before + line, end=after, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Clear the line."""
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Bench:
    """Measures, in a folder of its own that the caller removes."""

    folder: Path
    options: Options
    version: str
    say: Progress
    results: Results = field(default_factory=Results)

    def run(self) -> Results:
        """Everything."""
        self.say("looking for peers")
        installed, missing = find(self.options.peers)
        self.results.installed.extend(installed)
        self.results.missing.extend(missing)
        self._measure(MODELWAY, STARTED, 0, self._modelway(self.folder, "--version"))
        for size in self.options.sizes:
            self._size(size)
        return self.results

    def _size(self, size: int) -> None:
        shop = Shop(self.folder / f"shop-{size}", size)
        self.say(f"writing the specs of {size} models and compiling them")
        shop.write(self.version)
        self._modelway(shop.root, "compile").run()
        self.results.workload.update(shop.summary())
        self._measure(MODELWAY, CHECK, size, self._modelway(shop.root, "check"))
        if size <= MOST:
            self._measure(MODELWAY, COMPILE, size, self._modelway(shop.root, "compile"))
            self._create(shop)
            self._peers(shop)
        shutil.rmtree(shop.root)

    def _create(self, shop: Shop) -> None:
        """The files come into being: made by modelway, then the same bytes by plain writes."""
        made, archive, files = self.folder / "made", self.folder / "files", shop.files()
        archive.write_bytes(pickle.dumps(files))
        creating = self._modelway(shop.root, "compile", "--output", str(made))
        writing = self._program([sys.executable, str(DRIVERS), "write", str(archive), str(made)])
        for subject, case, program in ((MODELWAY, CREATE, creating), ("Python", WRITE, writing)):
            self._measure(subject, case, shop.size, program, remove=made, files=len(files))
        shutil.rmtree(made)

    def _peers(self, shop: Shop) -> None:
        """Each peer makes the objects of the shop; they are compared with those that modelway made."""
        if not self.results.installed:
            return
        self.say(f"making templates of {shop.size} models for the peers")
        task = Task.of(shop)
        for one in self.results.installed:
            folder = self.folder / "peer"
            program = self._program(one.command(task.write(one.peer, folder)))
            self._measure(one.peer.name, one.peer.what, shop.size, program)
            self.say(f"comparing what {one.peer.name} made of {shop.size} models")
            task.compare(one.peer, program.output)
            shutil.rmtree(folder)

    def _measure(
        self, subject: str, case: str, size: int, program: Program, remove: Path | None = None, files: int = 0
    ) -> None:
        """Add a row. ``remove`` is a folder that must not be there when the program starts."""

        def before() -> None:
            if remove is not None:
                shutil.rmtree(remove, ignore_errors=True)

        self.say(f"measuring {subject}: {case}" + (f", {size} models" if size else ""))
        figures: Figures = program.measure(self.options.runs, self.options.warm_ups, before)
        self.results.rows.append(Row(subject, case, size, figures, files))

    def _modelway(self, folder: Path, *arguments: str) -> Program:
        return self._program([sys.executable, "-c", RUN, *arguments], folder)

    def _program(self, command: Sequence[str], folder: Path | None = None) -> Program:
        return Program(command, folder or self.folder, self.folder / "output", environment(self.folder))


def environment(folder: Path) -> dict[str, str]:
    """That of this process, but every interpreter behaves as installed: it keeps its bytecode, in ``folder``.

    Of what steers Python only PYTHONPATH stays, so that it holds in other folders, too.
    """
    found = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    found["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    if paths := os.environ.get("PYTHONPATH"):
        found["PYTHONPATH"] = os.pathsep.join(str(Path(path).absolute()) for path in paths.split(os.pathsep))
    return found


def modelway_version(folder: Path) -> str:
    """Raises FailedError unless this interpreter runs modelway in another folder."""
    command = [sys.executable, "-c", RUN, "--version"]
    settings = environment(folder)
    answer = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, check=False)
    if answer.returncode:
        said = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
        raise FailedError(f"{sys.executable} cannot run modelway: {said[-1]}\nInstall it: pip install -e .")
    return answer.stdout.split()[-1]


def read_options(arguments: Sequence[str] | None) -> Options:
    """The options of the command line; ends the process for wrong ones."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    add, peers = parser.add_argument, os.environ.get("MODELWAY_PEERS")
    add("--sizes", default="1,100,1000,10000", help="numbers of models (default: %(default)s)")
    add("--runs", type=int, default=5, help="counted runs of each program (default: %(default)s)")
    add("--json", action="store_true", help="print the figures as JSON")
    add(
        "--peers",
        default=peers,
        metavar="DIR",
        help="folder of virtual environments (default: MODELWAY_PEERS)",
    )
    add("--quick", action="store_true", help=f"{QUICK} models, one run")
    given = parser.parse_args(arguments)
    try:
        sizes = tuple(sorted({int(size) for size in given.sizes.split(",")}))
    except ValueError:
        parser.error(f"--sizes takes numbers separated by commas, not {given.sizes!r}")
    if sizes[0] < 1 or given.runs < 1:
        parser.error("--sizes and --runs take numbers above 0")
    folder = Path(given.peers).absolute() if given.peers else None
    if folder is not None and not folder.is_dir():
        parser.error(f"--peers: there is no folder {folder}")
    if given.quick:
        return Options((QUICK,), 1, 0, folder, given.json)
    return Options(sizes, given.runs, 1, folder, given.json)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. 0 even where a bar is missed; 1 where a program failed or made something else."""
    options = read_options(arguments)
    say, where = Progress(), machine()
    try:
        with tempfile.TemporaryDirectory(prefix="modelway-benchmark-") as folder:
            version = modelway_version(Path(folder))
            results = Bench(Path(folder), options, version, say).run()
    except (FailedError, DifferentError, ShapeError) as error:
        say.end()
        print(f"benchmarks/compile.py: {error}", file=sys.stderr)
        return 1
    say.end()
    head: dict[str, Any] = {"machine": where, "modelway": version, "runs": options.runs}
    print(json.dumps(data(results, head), indent=2) if options.json else "\n".join(text(results, head)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
