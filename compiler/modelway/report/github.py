"""Diagnostics for a GitHub workflow: annotations, then the same text for its log.

The runner reads commands out of what a step prints, in two grammars (actions/runner,
``ActionCommand.cs``):

- ``::name key=value,key=value::data``, at the start of a line, white space aside. Of data it
  unescapes ``%25 %0D %0A``, of values ``%3A %2C`` too.
- ``##[name key=value;key=value]data``, *anywhere* in a line that is not of the first form.

Specs are written by others and quoted here, so both are attacks: ``::add-mask::``,
``::stop-commands::``, ``##[set-env …]``. Annotations are safe by escaping; in the log no line may
begin with a colon and none may hold ``##[``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from modelway.diagnostics import Diagnostic, Severity
from modelway.report.common import counted, counts, extent, shorten, title, visible, worst_first
from modelway.report.text import render_text

# GitHub shows this many annotations of each severity for a step and drops the others.
SHOWN_BY_GITHUB = 10

_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}
_LOG_WIDTH = 120
# What a message may hold as it is: the escaping carries line breaks.
_BREAKS = "\n\r\t"

# .NET compares by culture and so may overlook characters that have no weight in sorting (a variation
# selector, say): what stands between these characters and is not ASCII does not make them harmless.
_COLON_FIRST = re.compile(r"^[^!-~\n]*:", re.MULTILINE)
_OLD_COMMAND = re.compile(r"(#[^ -~\n]*#[^ -~\n]*)\[")


def render_github(
    diagnostics: Sequence[Diagnostic],
    sources: Mapping[str, bytes],
    *,
    limit: int | None = SHOWN_BY_GITHUB,
) -> str:
    """Annotations, the worst first, and the text listing; empty if there are no diagnostics.

    ``limit`` is how many annotations of a severity to write (None: all). Those that it leaves out
    are counted in a line, and the listing holds or counts them as every listing does.
    """
    if not diagnostics:
        return ""
    commands: list[str] = []
    written = dict.fromkeys(Severity, 0)
    for diagnostic in worst_first(diagnostics):
        if limit is None or written[diagnostic.severity] < limit:
            written[diagnostic.severity] += 1
            commands.append(_annotation(diagnostic))
    log = render_text(diagnostics, sources, colour=False, width=_LOG_WIDTH)
    left_out = [
        counted(number - written[severity], severity.word)
        for severity, number in counts(diagnostics).items()
        if number > written[severity]
    ]
    if left_out:
        log = f"Only the first {limit} of each severity are annotated; not {' and '.join(left_out)}.\n\n{log}"
    return "".join(command + "\n" for command in commands) + _harmless(log)


def _annotation(diagnostic: Diagnostic) -> str:
    line, column, end_line, end_column = extent(diagnostic.span)
    properties: dict[str, str | int] = {}
    if diagnostic.span.path:
        properties |= {"file": visible(diagnostic.span.path), "line": line, "endLine": end_line}
        # The checks API refuses columns on more than one line.
        if end_line == line:
            properties |= {"col": column, "endColumn": end_column}
    name = title(diagnostic.code)
    properties["title"] = visible(name if name == diagnostic.code else f"{diagnostic.code} {name}")
    text = shorten(diagnostic.message)
    if diagnostic.hint:
        text += f"\nhelp: {shorten(diagnostic.hint)}"
    written = ",".join(f"{key}={_escape_property(str(value))}" for key, value in properties.items())
    return f"::{_COMMANDS[diagnostic.severity]} {written}::{_escape_data(visible(text, keep=_BREAKS))}"


def _escape_data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_property(text: str) -> str:
    return _escape_data(text).replace(":", "%3A").replace(",", "%2C")


def _harmless(log: str) -> str:
    """``log`` with nothing that the runner takes for a command; nothing moves out of its column."""
    log = _OLD_COMMAND.sub(r"\1(", log)  # in ASCII, or what follows could close up to it
    # The listing begins every line with its own words; this holds if that ever changes.
    return _COLON_FIRST.sub(lambda found: "|" + found[0], log)
