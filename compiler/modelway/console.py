"""What a command prints, and its exit code: diagnostics in the chosen form, a line of summary, progress."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from modelway.diagnostics import Severity
from modelway.workspace import OK, Outcome

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_PATIENCE_S = 2.0  # what takes longer shows a bar


class Console:
    """The streams of one command. Diagnostics for people go to stderr, for machines to stdout."""

    def __init__(self, form: str, colour: str, *, quiet: bool, strict: bool) -> None:
        self._form, self._quiet = form, quiet
        self._least = Severity.WARNING if strict else Severity.ERROR
        self._terminal = sys.stderr is not None and sys.stderr.isatty()  # None: it was closed
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        wanted = self._terminal and not plain
        self._colour = colour == "always" or (colour == "auto" and wanted)
        self._started = time.monotonic()
        self._bar: tuple[Progress, TaskID] | None = None

    def progress(self, what: str, done: int, total: int) -> None:
        """A bar on a terminal, once the work has taken two seconds."""
        if self._bar is None:
            if time.monotonic() - self._started < _PATIENCE_S or self._quiet or not self._terminal:
                return
            self._bar = _bar()
        bar, task = self._bar
        bar.update(task, description=what, completed=done, total=total)

    def close(self) -> None:
        """Take the bar away, however the command ends: it hides the cursor."""
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None

    def finish(self, outcome: Outcome) -> int:
        """Print what was found and done; give the exit code."""
        self.close()
        found = [one for one in outcome.diagnostics if not self._quiet or one.severity >= self._least]
        if self._form == "text":
            self._text(found, outcome)
        elif self._form == "json":
            click.echo(self._json(found, outcome), nl=False)
        else:
            click.echo(self._rendered(found, outcome), nl=False)
        return outcome.code

    def _text(self, found: list[Any], outcome: Outcome) -> None:
        from modelway.report.text import render_text

        width = shutil.get_terminal_size((100, 24)).columns
        click.echo(
            render_text(found, outcome.sources, colour=self._colour, width=width),
            err=True,
            nl=False,
            color=True,
        )
        if not self._quiet and outcome.counts:
            click.echo(_summary(outcome))

    def _rendered(self, found: list[Any], outcome: Outcome) -> str:
        if self._form == "github":
            from modelway.report.github import render_github

            return render_github(found, outcome.sources)
        from modelway.report.sarif import render_sarif

        return render_sarif(found, outcome.sources)

    def _json(self, found: list[Any], outcome: Outcome) -> str:
        from modelway.lower.objects import json_text
        from modelway.report.json import report_data

        return json_text({**report_data(found), "files": outcome.counts, "exitCode": outcome.code})


def _summary(outcome: Outcome) -> str:
    """``generated: 3 created, 1 changed, 68 unchanged``."""
    shown = [f"{count:,} {name}" for name, count in outcome.counts.items() if count or name == "unchanged"]
    clean = outcome.code == OK and not any(
        count for name, count in outcome.counts.items() if name != "unchanged"
    )
    return f"{outcome.output}: {'up to date, ' if clean else ''}{', '.join(shown)}"


def _bar() -> tuple[Progress, TaskID]:
    from rich.console import Console as Terminal
    from rich.progress import Progress

    bar = Progress(console=Terminal(stderr=True), transient=True)
    bar.start()
    return bar, bar.add_task("")
