"""The detector's commands: `detect`, `watch`, `gate`, `replay`. What computes is imported when needed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from modelway_runtime import logs

if TYPE_CHECKING:
    from modelway_runtime.detection.detector import Look
    from modelway_runtime.detection.targets import Target
    from modelway_runtime.detection.verdict import Verdict

DIFFERS, USAGE, FAILED = 1, 2, 5
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0}
_STATES = ("regressed", "improved", "unchanged", "pending", "inconclusive")
_PATIENCE_S = 2.0


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4 only
    """Such as 30m, 6h or 2d; seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"([1-9][0-9]{0,5})([mhd])", str(value))
        if not found:
            self.fail(f"{value!r} is no duration such as 30m, 6h or 2d", param, ctx)
        return int(found[1]) * _UNITS[found[2]]


@click.command()
@click.option("--settings", "settings_file", type=_FILE, help="Settings that the compiler wrote.")
@click.option("--env", "environment", help="Environment, without --settings.")
@click.option("--model", help="Model; with --settings also team/model or namespace/model.")
@click.option("--team", help="Its team, without --settings.  [default: found in the series]")
@click.option("--namespace", help="Its namespace, without --settings.  [default: <team>-<env>]")
@click.option("--prometheus", "url", help="Address of a Prometheus, without --settings.")
@click.option(
    "--series", type=_FILE, help="Series in a file instead: CSV, Parquet, or OpenMetrics with timestamps."
)
@click.option(
    "--at", help="The release: a commit, or a time such as 2026-11-21T10:00:00Z.  [default: the newest]"
)
@click.option(
    "--since", type=Duration(), default="24h", show_default=True, help="How old the newest release may be."
)
@click.option("--format", "form", type=click.Choice(["text", "json", "markdown", "html"]), default="text",
              show_default=True, help="Form of the report.")  # fmt: skip
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for it.  [default: standard output]",
)
@click.option("--save", type=click.Path(file_okay=False, path_type=Path),
              help="Folder for verdict, series, page and plot; see `replay`.")  # fmt: skip
@click.option("--publish", "posted", is_flag=True, help="Write it on the pull request, as the settings say.")
@click.option(
    "--fail-on", type=click.Choice(_STATES), multiple=True, help="Exit with 1 for this state; repeat it."
)
def detect(**options: Any) -> None:
    """Judge the newest release of a model, or the one of a commit or a time.

    Where there was no release, the last hours are compared with those before. Exit codes: 0 done, 1 the state
    is one of --fail-on, 2 wrong usage, 5 the history or the forge could not be read.
    """
    _check_options(options)
    logs.configure("text", "warning")
    with _failing(), _patience("Looking"):
        from modelway_runtime.detection import targets

        target = _target(options)
        look, commit = targets.look(target, options["at"], options["since"])
        verdict = targets.caused(target, look.verdict, commit)
        if options["posted"]:
            _post(target, look, verdict)
        if options["save"]:
            from modelway_runtime.detection import replay

            replay.save(options["save"], look, verdict)
        text = _report(
            options["form"], look, verdict, colour=options["output"] is None and sys.stdout.isatty()
        )
    _put(text, options["output"])
    sys.exit(DIFFERS if verdict.state in options["fail_on"] else 0)


@click.command()
@click.argument("verdict_file", metavar="VERDICT.json", type=_FILE)
@click.option("--series", type=_FILE, help="The saved series.  [default: those beside it, by their digest]")
def replay(verdict_file: Path, series: Path | None) -> None:
    """Judge the saved series of a verdict again and compare. Exit codes: 0 the same, 1 it differs, 5 a file
    is damaged or another one."""
    with _failing(), _patience("Judging"):
        from modelway_runtime.detection import replay as replaying

        differences = replaying.replay(verdict_file, series)
    if not differences:
        click.echo("the same verdict")
        return
    click.echo("the verdict differs:")
    for line in differences:
        click.echo(f"  {line}")
    sys.exit(DIFFERS)


_STAYING = [
    click.option("--settings", "settings_file", type=_FILE, required=True,
                 help="Settings that the compiler wrote."),
    click.option("--host", default="0.0.0.0", show_default=True, help="Address to listen on."),  # noqa: S104 - a pod's own
    click.option("--log-format", type=click.Choice(["text", "json"]),
                 help="Form of the log on standard error.  [default: text at a terminal]"),
    click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info",
                 show_default=True, help="What is said at least."),
]  # fmt: skip


def _staying(command: Any) -> Any:
    for option in reversed(_STAYING):
        command = option(command)
    return command


@click.command()
@_staying
@click.option("--once", is_flag=True, help="Look once at each model and end, for a CronJob; without ports.")
def watch(settings_file: Path, host: str, once: bool, log_format: str | None, log_level: str) -> None:
    """Look at all models by the schedule, publish what changed, and answer the gate, until SIGTERM.

    Each verdict, follow-up and failure is a line of JSON on standard output. SIGHUP reads the settings again.
    Exit codes with --once: 0 all went well, 5 something failed.
    """
    _configure(log_format, log_level)
    if once:
        signal.signal(signal.SIGTERM, _end_at_once)
        with _failing():
            from modelway_runtime.detection import life
            from modelway_runtime.detection.settings import read

            well = life.once(read(settings_file), sys.stdout)
        sys.exit(0 if well else FAILED)
    _stay(settings_file, host, looking=True)


@click.command()
@_staying
def gate(settings_file: Path, host: str, log_format: str | None, log_level: str) -> None:
    """Answer the gate (`POST /v1/gate`) and show past verdicts, without looking by the schedule."""
    _configure(log_format, log_level)
    _stay(settings_file, host, looking=False)


COMMANDS = (detect, watch, gate, replay)


def _stay(settings_file: Path, host: str, *, looking: bool) -> None:
    with _failing():
        from modelway_runtime.detection import life
        from modelway_runtime.detection.settings import read

        settings = read(settings_file)
        if not looking and settings.gate is None:
            raise click.UsageError("the settings have no gate")
        if looking and settings.schedule is None and settings.gate is None:
            raise click.UsageError("the settings have neither a schedule nor a gate: there is nothing to do")
        life.run(str(settings_file), host=host, watch=looking, output=sys.stdout, started=_announce)
    _end(0)


def _announce(ports: dict[str, int]) -> None:
    """One line of JSON for whoever started it on free ports."""
    click.echo(json.dumps({"listening": ports}), err=True)


def _configure(form: str | None, level: str) -> None:
    logs.configure(form or ("text" if sys.stderr.isatty() else "json"), level)


def _check_options(options: dict[str, Any]) -> None:
    if options["settings_file"]:
        for name, option in (
            ("environment", "--env"),
            ("team", "--team"),
            ("namespace", "--namespace"),
            ("url", "--prometheus"),
        ):
            if options[name]:
                raise click.UsageError(f"{option} is for looks without --settings, which say it already")
        return
    if not options["environment"] or not options["model"]:
        raise click.UsageError("give --settings FILE, or --env and --model")
    if (options["url"] is None) == (options["series"] is None):
        raise click.UsageError("give one of --prometheus URL and --series FILE")
    if options["posted"]:
        raise click.UsageError("--publish needs --settings FILE, which names the repository")


def _target(options: dict[str, Any]) -> Target:
    from modelway_runtime.detection import targets
    from modelway_runtime.detection.settings import read

    if options["settings_file"]:
        settings = read(options["settings_file"])
        if options["posted"] and settings.publish is None:
            raise click.UsageError("--publish: the settings name no repository")
        return targets.of_settings(settings, options["model"], options["series"])
    return targets.of_laptop(
        options["environment"],
        options["model"],
        options["team"],
        options["namespace"],
        options["url"],
        options["series"],
    )


def _post(target: Target, look: Look, verdict: Verdict) -> None:
    from modelway_runtime.detection.follow_up import revert_command
    from modelway_runtime.detection.forge import connect
    from modelway_runtime.detection.publish import publish
    from modelway_runtime.detection.report import markdown

    assert target.settings is not None
    assert target.settings.publish is not None
    revert = revert_command(verdict.commit) if verdict.commit else None
    forge = connect(target.settings.publish)
    try:
        done = publish(
            forge,
            target.settings.publish,
            target.watched,
            verdict,
            lambda of: markdown.comment(of, look.judgement.plots, revert=revert),
        )
    finally:
        forge.close()
    where = f" on {verdict.pull_request.url}" if verdict.pull_request else ": no pull request is known"
    click.echo(f"comment: {done.comment}{where}", err=True)
    for problem in done.problems:
        click.echo(f"warning: {problem}", err=True)


def _report(form: str, look: Look, verdict: Verdict, *, colour: bool) -> str:
    from modelway_runtime.detection import verdict as verdicts
    from modelway_runtime.detection.follow_up import revert_command
    from modelway_runtime.detection.report import html, markdown, text

    plots = look.judgement.plots
    if form == "json":
        return verdicts.to_json(verdict).decode()
    if form == "html":
        return html.page(verdict, plots)
    if form == "markdown":
        revert = revert_command(verdict.commit) if verdict.commit else None
        return markdown.comment(verdict, plots, revert=revert)
    return text.report(verdict, plots, colour)


def _put(text: str, output: Path | None) -> None:
    content = text.encode("utf-8", "replace")
    if output is None:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
        return
    from modelway_runtime.detection.replay import write

    try:
        write(output, content)
    except OSError as error:
        _fail(f"{output}: {error.strerror}", FAILED)


@contextlib.contextmanager
def _failing() -> Iterator[None]:
    """Expected failures end with a line on standard error and an exit code."""
    from modelway_runtime.detection.forge import ForgeFailed
    from modelway_runtime.detection.history import HistoryFailed, NothingSeen
    from modelway_runtime.detection.listening import CannotListen
    from modelway_runtime.detection.memory import MemoryFailed
    from modelway_runtime.detection.replay import CannotReplay
    from modelway_runtime.detection.targets import WrongQuestion
    from modelway_runtime.settings import WrongSettings

    try:
        yield
    except WrongSettings as error:
        _fail(f"the settings are wrong: {error}", USAGE)
    except WrongQuestion as error:
        _fail(str(error), USAGE)
    except (HistoryFailed, ForgeFailed, NothingSeen, MemoryFailed, CannotListen, CannotReplay) as error:
        _fail(str(error), FAILED)
    except OSError as error:
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}", FAILED)


@contextlib.contextmanager
def _patience(what: str) -> Iterator[None]:
    """At a terminal, say that it goes on if it takes longer than two seconds."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    status = Console(stderr=True).status(f"{what}…")
    timer = threading.Timer(_PATIENCE_S, status.start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        status.stop()


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)


def _end_at_once(_number: int, _frame: FrameType | None) -> None:
    _end(143)


def _end(code: int) -> NoReturn:
    """Exit at once: Python would wait for a thread that looks, and none can be interrupted."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
