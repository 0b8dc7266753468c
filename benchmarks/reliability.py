"""What a server withstands: overload, reloads, kill -9, damaged weights.

    python benchmarks/reliability.py                       all four; a quarter of an hour
    python benchmarks/reliability.py overload --minutes 1
    python benchmarks/reliability.py reloads kill flipped --reloads 100 --kills 3

Each check runs a server of its own, says what it found, and fails where a promise is broken. The exit code
is 1 then. `overload` needs h2load (Debian: nghttp2-client). benchmarks/README.md says what is promised.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from compile import Progress
from load import have_h2load
from measure import FailedError
from reliability_checks import Finding, flipped, kill, overload, reloads
from report import machine


@dataclass(frozen=True, slots=True)
class Options:
    """What is to be checked, and how long."""

    checks: tuple[str, ...]
    minutes: float
    reloads: int
    kills: int
    json: Path | None


Check = Callable[[Path, Options, Callable[[str], None]], Finding]
CHECKS: dict[str, Check] = {
    "overload": lambda folder, options, say: overload(folder, options.minutes * 60, say),
    "reloads": lambda folder, options, say: reloads(folder, options.reloads, say),
    "kill": lambda folder, options, say: kill(folder, options.kills, say),
    "flipped": lambda folder, _, say: flipped(folder, say),
}


def read_options(arguments: Sequence[str] | None) -> Options:
    """The options of the command line; ends the process for wrong ones."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    add = parser.add_argument
    add("checks", nargs="*", metavar="CHECK", help=f"of {', '.join(CHECKS)} (default: all)")
    add("--minutes", type=float, default=10.0, help="of overload (default: %(default)g)")
    add("--reloads", type=int, default=1000, help="under load (default: %(default)s)")
    add("--kills", type=int, default=10, help="under load (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write what was found there, too")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.checks if name not in CHECKS]:
        parser.error(f"there is no check {unknown[0]!r}: one of {', '.join(CHECKS)}")
    if given.minutes <= 0 or given.reloads < 1 or given.kills < 1:
        parser.error("--minutes, --reloads and --kills take numbers above 0")
    checks = tuple(given.checks) or tuple(CHECKS)
    return Options(checks, given.minutes, given.reloads, given.kills, given.json)


def run(options: Options, folder: Path, say: Callable[[str], None]) -> list[Finding]:
    """Check after check; what cannot be checked is a finding, too."""
    findings = []
    for name in options.checks:
        place = folder / name
        place.mkdir()
        if name == "overload" and not have_h2load():
            findings.append(Finding(name, {}, (), "h2load is not installed (Debian: nghttp2-client)"))
            continue
        try:
            findings.append(CHECKS[name](place, options, say))
        except FailedError as error:
            findings.append(Finding(name, {}, (str(error),)))
    return findings


def main(arguments: Sequence[str] | None = None) -> int:
    """Check and print. 1 where a promise is broken."""
    options = read_options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped
    say, where = Progress(), machine()
    with tempfile.TemporaryDirectory(prefix="modelway-reliability-") as folder:
        findings = run(options, Path(folder), say)
    say.end()
    if options.json:
        found = {"machine": where, "findings": [asdict(finding) for finding in findings]}
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    for finding in findings:
        print("\n".join(finding.text()))
    return 1 if any(finding.broken for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
