"""What a request costs, here and with the peers that are installed.

    python benchmarks/serving.py                      the server alone; some minutes
    python benchmarks/serving.py --peers DIR          and the peers in environments below DIR; an hour
    python benchmarks/serving.py --only mlp,binary,16,mosec --rounds 1 --seconds 0.5

The server runs as in production: API key, audit log, limits and metrics on. One request is checked against
onnxruntime before a server is measured. h2load (Debian: nghttp2-client) makes the load, in rounds that
alternate between the server and one peer. benchmarks/README.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from compile import Progress
from load import Outcome, Request, h2load, have_h2load
from measure import FailedError
from own_server import Key, drained_pipe, own_server, served, write_settings
from processes import Address, cpu_between, cpu_by_process
from report import machine
from serving_answers import NoAnswerError, WrongAnswerError, check
from serving_models import MODELS, Model, requests
from serving_peers import ALL, PEERS, Installed, find
from serving_reload import measure_floor, measure_reload
from serving_results import OURS, Cell, Results, Round, data, text

PARTS = ("load", "floor", "reload")
CONNECTIONS = (1, 16, 64)
START_S = 60.0
FIRST_COUNT = 200  # requests of the first run, which finds out how many make a round
MOST = 100_000
SHOWN = 600  # characters of a peer's log


@dataclass(frozen=True, slots=True)
class Options:
    """What is to be measured."""

    only: frozenset[str]
    rounds: int
    seconds: float
    peers: Path | None
    json: Path | None

    def wants(self, word: str, group: Sequence[str]) -> bool:
        """Whether ``word`` is to be measured: where none of its group is named, all are."""
        named = self.only.intersection(group)
        return not named or word in named

    def wants_part(self, part: str) -> bool:
        """A model, a form or a peer that is named means that load is to be measured."""
        named = self.only.intersection(PARTS)
        return part in named if named or not self.only else part == "load"


@dataclass(frozen=True, slots=True)
class Contestant:
    """A server that runs and answers rightly."""

    name: str
    process: subprocess.Popen[bytes]
    address: Address
    requests: Mapping[str, Request]
    headers: Mapping[str, str] = field(default_factory=dict)

    def run(self, form: str, connections: int, count: int, limit_s: float) -> tuple[Outcome, float]:
        """One run of h2load, and the CPU seconds of the server's process tree."""
        before = cpu_by_process(self.process.pid)
        outcome = h2load(
            self.address,
            self.requests[form],
            connections,
            count,
            limit_s,
            headers=self.headers,
            without_reason=self.name != OURS,
        )
        return outcome, cpu_between(before, cpu_by_process(self.process.pid))


@dataclass(frozen=True, slots=True)
class Bench:
    """Measures, in a folder of its own that the caller removes."""

    folder: Path
    options: Options
    say: Progress
    results: Results = field(default_factory=Results)

    def run(self) -> Results:
        """Everything. Raises FailedError when our own server fails."""
        if self.options.wants_part("floor"):
            self.results.floors.extend(measure_floor(self.folder, self.options.seconds, self.say))
        if self.options.wants_part("load"):
            self._load()
        if self.options.wants_part("reload"):
            place = self.folder / "reload"
            place.mkdir()
            self.results.reloads.append(measure_reload(place, self.say))
        return self.results

    def _load(self) -> None:
        if not have_h2load():
            self.results.skipped["load"] = "h2load is not installed (Debian: nghttp2-client)"
            return
        peers = self._peers()
        for name, make in MODELS.items():
            if not self.options.wants(name, tuple(MODELS)):
                continue
            model = make(self.folder)
            forms = requests(name, model.row, self.folder / "requests")
            with self._ours(model, forms) as ours:
                if not peers:
                    self._pair(name, ours, None)
                for peer in peers:
                    self._against(ours, peer, model, forms)

    def _peers(self) -> list[Installed]:
        """The peers to measure; with batching and without count as one where ``--only`` names them."""
        self.say("looking for peers")
        installed, missing = find(self.options.peers)
        names = tuple(word(peer.name) for peer in PEERS)
        wanted = [one for one in installed if self.options.wants(word(one.peer.name), names)]
        if OURS in self.options.only:
            wanted = []
        self.results.versions.update({one.name: one.version for one in wanted})
        for peer in missing:
            if self.options.wants(word(peer.name), names) and OURS not in self.options.only:
                self.results.skipped[peer.name] = f"{peer.packages[0]} is not installed (see --peers)"
        return wanted

    @contextlib.contextmanager
    def _ours(self, model: Model, forms: Mapping[str, Request]) -> Iterator[Contestant]:
        """Our server, checked in every form."""
        self.say(f"starting {OURS} with {model.name}")
        key = Key()
        folder = self.folder / f"{OURS}-{model.name}"
        folder.mkdir()
        settings = write_settings(folder, served(model.name, model.path), key)
        with drained_pipe() as audit, own_server(folder, "--settings", str(settings), stdout=audit) as server:
            for form in ALL:
                try:
                    check(server.address, form, forms[form], model, key.headers)
                except (NoAnswerError, WrongAnswerError) as error:
                    raise FailedError(f"{OURS}, {model.name}, {form}: {error}") from None
            ours = {form: forms[form] for form in ALL}
            yield Contestant(OURS, server.process, server.address, ours, key.headers)

    def _against(self, ours: Contestant, peer: Installed, model: Model, forms: Mapping[str, Request]) -> None:
        """Measure a peer beside ours; one that does not start or answers wrongly is said and left out."""
        self.say(f"starting {peer.name} with {model.name}")
        where = self.folder / "peer"
        try:
            with peer.running(model, where) as (process, address):
                usable = self._answering(peer, process, address, model, forms)
                if usable:
                    self._pair(model.name, ours, Contestant(peer.name, process, address, usable))
        except FailedError as error:
            if ours.process.poll() is not None:
                raise
            self._skip(f"{peer.name}, {model.name}", str(error))

    def _answering(
        self,
        peer: Installed,
        process: subprocess.Popen[bytes],
        address: Address,
        model: Model,
        forms: Mapping[str, Request],
    ) -> dict[str, Request]:
        """The forms that are to be measured and that the peer answers rightly."""
        usable = {}
        end = time.monotonic() + START_S
        for form, its in peer.peer.forms.items():
            if not self.options.wants(form, tuple(ALL)):
                continue
            why = _why_not(process, end, partial(check, address, its, forms[its], model, {}))
            if why is None:
                usable[form] = forms[its]
                continue
            log = (self.folder / "peer" / "log").read_text(errors="replace")[-SHOWN:]
            self._skip(f"{peer.name}, {model.name}, {form}", f"{why}\n{log}".strip())
            if process.poll() is not None:
                break
        return usable

    def _pair(self, model: str, ours: Contestant, theirs: Contestant | None) -> None:
        """Every wanted cell of a model."""
        for form in ours.requests if theirs is None else theirs.requests:
            for connections in CONNECTIONS:
                wants_form = self.options.wants(form, tuple(ALL))
                if wants_form and self.options.wants(str(connections), tuple(map(str, CONNECTIONS))):
                    self._cell(Cell(model, form, connections), ours, theirs)

    def _cell(self, cell: Cell, ours: Contestant, theirs: Contestant | None) -> None:
        both = [ours] if theirs is None else [ours, theirs]
        names = " and ".join(one.name for one in both)
        self.say(f"measuring {names}: {cell.model}, {cell.form}, {cell.connections} connections")
        counts = {one.name: self._calibrated(one, cell) for one in both}
        taken: dict[str, list[Round]] = {one.name: [] for one in both}
        for number in range(self.options.rounds):
            for one in both if number % 2 == 0 else reversed(both):
                outcome, cpu_s = one.run(cell.form, cell.connections, counts[one.name], self._limit_s)
                taken[one.name].append(Round.of(outcome, cpu_s))
        peer = None if theirs is None else theirs.name
        self.results.add(cell, taken[ours.name], peer, [] if peer is None else taken[peer])

    def _calibrated(self, one: Contestant, cell: Cell) -> int:
        """How many requests take about the wanted time; the runs that find out warm the server up."""
        count = max(FIRST_COUNT if cell.connections > 1 else FIRST_COUNT // 4, 4 * cell.connections)
        for share in (0.4, 1.0):
            outcome, _ = one.run(cell.form, cell.connections, count, self._limit_s)
            if not outcome.rps:
                raise FailedError(f"{one.name} answers {dict(outcome.answers)} to {cell}")
            count = round(min(max(share * outcome.rps * self.options.seconds, 4 * cell.connections), MOST))
        return count

    @property
    def _limit_s(self) -> float:
        return 30 + 10 * self.options.seconds

    def _skip(self, what: str, why: str) -> None:
        self.results.skipped[what] = why
        self.say(f"{what}: not measured, {why.splitlines()[0]}")


def _why_not(process: subprocess.Popen[bytes], end: float, ask: Callable[[], None]) -> str | None:
    """Ask until the server answers rightly (None), wrongly, ends, or ``end`` comes."""
    why = "it ended"
    while process.poll() is None and time.monotonic() < end:
        try:
            ask()
        except NoAnswerError as error:
            why = str(error)
            time.sleep(0.25)
        except (WrongAnswerError, ValueError, LookupError) as error:
            return f"{type(error).__name__}: {error}"
        else:
            return None
    return why


def word(name: str) -> str:
    """A peer's name as ``--only`` takes it."""
    return name.lower().replace(" ", "-")


def read_options(arguments: Sequence[str] | None) -> Options:
    """The options of the command line; ends the process for wrong ones."""
    words = [*PARTS, *MODELS, *ALL, *map(str, CONNECTIONS), OURS, *(word(peer.name) for peer in PEERS)]
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    add = parser.add_argument
    add("--only", default="", metavar="WORDS", help=f"separated by commas, of: {', '.join(words)}")
    add("--rounds", type=int, default=5, help="of each server in each cell (default: %(default)s)")
    add("--seconds", type=float, default=2.0, help="of one round, about (default: %(default)s)")
    default = os.environ.get("MODELWAY_SERVING_PEERS")
    add(
        "--peers",
        default=default,
        metavar="DIR",
        help="virtual environments (default: MODELWAY_SERVING_PEERS)",
    )
    add("--json", type=Path, metavar="FILE", help="write the figures there, too")
    given = parser.parse_args(arguments)
    only = frozenset(filter(None, given.only.split(",")))
    if unknown := sorted(only.difference(words)):
        parser.error(f"--only does not know {unknown[0]!r}: one of {', '.join(words)}")
    if given.rounds < 1 or given.seconds <= 0:
        parser.error("--rounds and --seconds take numbers above 0")
    folder = Path(given.peers).absolute() if given.peers else None
    if folder is not None and not folder.is_dir():
        parser.error(f"--peers: there is no folder {folder}")
    return Options(only, given.rounds, given.seconds, folder, given.json)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. 1 where our own server fails; a peer that fails is said and left out."""
    options = read_options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped
    say, where = Progress(), machine()
    try:
        with tempfile.TemporaryDirectory(prefix="modelway-serving-") as folder:
            results = Bench(Path(folder), options, say).run()
    except FailedError as error:
        say.end()
        print(f"benchmarks/serving.py: {error}", file=sys.stderr)
        return 1
    say.end()
    head: dict[str, Any] = {"machine": where, "rounds": options.rounds, "seconds": options.seconds}
    if options.json:
        options.json.write_text(json.dumps(data(results, head), indent=2) + "\n")
    print("\n".join(text(results, head)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
