"""argv -> options; streams; exit codes. The only place that prints or exits.

Exit codes: 0 clean (notes never fail), 1 an error (with ``--strict`` a warning), 2 usage,
3 ``generated/`` is stale and nothing else is wrong, 4 our own fault, 5 the disk or the network.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from modelway import __version__

if TYPE_CHECKING:
    from modelway.console import Console

OK, FOUND, USAGE, STALE, BUG, DISK = 0, 1, 2, 3, 4, 5
FORMATS = ("text", "json", "github", "sarif")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and give its exit code; ``modelway`` on the shell."""
    gc.disable()  # a compile is short and its values live to its end: looking for garbage tripled its time
    try:
        code = cli.main(
            args=None if argv is None else list(argv), prog_name="modelway", standalone_mode=False
        )
    except click.ClickException as error:
        error.show()
        return USAGE
    except (click.Abort, KeyboardInterrupt):
        click.echo("modelway: stopped; nothing is half-written", err=True)
        return 130
    except BrokenPipeError:
        _leave_quietly()
        return OK
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        click.echo(f"modelway: cannot use{where}: {error.strerror or error}", err=True)
        return DISK
    except Exception as error:  # the last resort: our own fault must not look like the user's
        return _bug(error)
    return code if isinstance(code, int) else OK


def run() -> None:
    """Entry point of the console script."""
    code = main()
    try:
        if sys.stdout is not None:  # None: it was closed before we were started
            sys.stdout.flush()
    except BrokenPipeError:
        _leave_quietly()
    except OSError as error:
        _leave_quietly()
        click.echo(f"modelway: cannot print: {error.strerror or error}", err=True)
        code = code or DISK
    sys.exit(code)


def _leave_quietly() -> None:
    """Nobody reads our output any more; Python must not complain when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _bug(error: Exception) -> int:
    import traceback

    click.echo(f"modelway: this is our fault, not yours: {type(error).__name__}: {error}", err=True)
    if os.environ.get("MODELWAY_TRACEBACK"):
        click.echo("".join(traceback.format_exception(error)), err=True)
    else:
        click.echo(
            "Nothing was written. Please report it with the output under MODELWAY_TRACEBACK=1.", err=True
        )
    return BUG


Command = Callable[..., int]


def _options(*names: str) -> Callable[[Command], Command]:
    """The options that commands share."""
    known = {
        "specs": click.option(
            "--specs", metavar="DIR", help="Folder of the specs (default: from modelway.yaml)."
        ),
        "output": click.option(
            "--output", metavar="DIR", help="Folder of generated files (default: from modelway.yaml)."
        ),
        "environment": click.option(
            "-e",
            "--environment",
            "environments",
            multiple=True,
            metavar="ENV",
            shell_complete=_complete_environment,
            help="Only this environment is written (may be repeated); all is checked.",
        ),
        "strict": click.option("--strict", is_flag=True, help="A warning fails, too."),
        "format": click.option(
            "--format",
            "format_",
            type=click.Choice(FORMATS),
            default="text",
            show_default=True,
            help="Form of the diagnostics.",
        ),
        "quiet": click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors."),
        "colour": click.option(
            "--colour",
            type=click.Choice(("auto", "always", "never")),
            default="auto",
            show_default=True,
            help="Colours; auto: on a terminal, unless NO_COLOR is set.",
        ),
        "json": click.option("--json", "as_json", is_flag=True, help="As JSON."),
    }

    def add(command: Command) -> Command:
        for name in reversed(names):
            command = known[name](command)
        return command

    return add


def _complete_environment(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    from modelway.workspace import environment_names

    return [name for name in environment_names() if name.startswith(incomplete)]


def _complete_path(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    from modelway.report.explain import paths

    return paths(incomplete)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", message="modelway %(version)s")
def cli() -> None:
    """Compile specs of models, resources and alerts into Kubernetes manifests that Git keeps.

    Start with `modelway init`, then `modelway compile`.
    """
    os.getcwd()  # raises where the folder is gone; CPython 3.13.0 fails later, in an import, without a reason


@cli.command(name="compile")
@_options("environment", "specs", "output", "strict", "format", "colour", "quiet")
def compile_command(environments: tuple[str, ...], quiet: bool, **options: Any) -> int:
    """Compile the specs and write the generated files.

    With any error nothing is written. Files that no spec gives any more are removed.
    """
    from modelway import workspace

    console = _console(options, quiet)
    outcome = workspace.compile_and_write(
        options["specs"], options["output"], environments, strict=options["strict"], progress=console.progress
    )
    return console.finish(outcome)


@cli.command(name="check")
@_options("environment", "specs", "output", "strict", "format", "colour", "quiet")
def check_command(environments: tuple[str, ...], quiet: bool, **options: Any) -> int:
    """Compile the specs and compare.

    Nothing is written. Stale, missing and extra files are named. Exit code 3 says that nothing else is wrong.
    """
    from modelway import workspace

    console = _console(options, quiet)
    outcome = workspace.compile_and_compare(
        options["specs"], options["output"], environments, strict=options["strict"], progress=console.progress
    )
    return console.finish(outcome)


@cli.command(name="list")
@_options("environment", "specs", "json", "colour")
def list_command(environments: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """List models, replicas, GPUs and cost.

    By environment, with versions; GPUs and cost an hour are those of the least replicas.
    """
    from modelway import workspace
    from modelway.report import listing

    console = _console({**options, "format": "text"}, quiet=True)
    outcome, rows = workspace.list_models(options["specs"], environments)
    if outcome.code != OK:
        return console.finish(outcome)
    click.echo(_json(listing.data(rows)) if as_json else listing.table(rows), nl=False)
    return OK


@cli.command(name="explain")
@click.argument("path", required=False, shell_complete=_complete_path)
@_options("json")
def explain_command(path: str | None, as_json: bool) -> int:
    """Explain a kind or a field.

    For example: modelway explain Model.spec.serving.batching
    """
    from modelway.report import explain

    if path is None:
        kinds = {kind: explain.find(kind)[1] for kind in explain.paths("")}
        if as_json:
            click.echo(_json({kind: node["description"] for kind, node in kinds.items()}), nl=False)
        else:
            click.echo("".join(f"{kind:13}{node['description']}\n" for kind, node in kinds.items()), nl=False)
        return OK
    try:
        click.echo(_json(explain.data(path)) if as_json else explain.text(path), nl=False)
    except explain.UnknownPathError as unknown:
        raise click.UsageError(str(unknown)) from None
    return OK


@cli.command(name="schema")
@click.argument("kind", required=False)
@click.option("--output", metavar="DIR", help="Write the schemas of all kinds into a folder.")
def schema_command(kind: str | None, output: str | None) -> int:
    """Print or write JSON Schemas for editors."""
    from modelway import workspace
    from modelway.spec.schema import schemas

    if output is not None:
        for path in workspace.write_schemas(output):
            click.echo(path)
        return OK
    if kind not in schemas():
        raise click.UsageError(f"name a kind: {', '.join(schemas())}, or --output DIR for all")
    click.echo(_json(schemas()[kind]), nl=False)
    return OK


@cli.command(name="init")
@click.argument("folder", default=".")
@click.option("--team", default="search", show_default=True, help="Team of the first model.")
@click.option("--model", default="ranker", show_default=True, help="Name of the first model.")
def init_command(folder: str, team: str, model: str) -> int:
    """Make a new repository that compiles.

    It holds settings, a model, a resource, an environment, CI and editor settings.
    """
    import shlex

    from modelway import workspace

    written = workspace.initialise(folder, team, model)
    for path in written:
        click.echo(f"  wrote {path}")
    step = "" if folder == "." else f"cd {shlex.quote(folder)} && "
    click.echo(f"\nNext: {step}modelway compile")
    return OK


@cli.command(name="completion")
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion_command(shell: str) -> int:
    """Print a shell's completion script.

    For bash: eval "$(modelway completion bash)" in ~/.bashrc; likewise for zsh. For fish: modelway completion
    fish > ~/.config/fish/completions/modelway.fish
    """
    from click.shell_completion import get_completion_class

    completion = get_completion_class(shell)
    assert completion is not None
    click.echo(completion(cli, {}, "modelway", "_MODELWAY_COMPLETE").source())
    return OK


def _console(options: dict[str, Any], quiet: bool) -> Console:
    from modelway.console import Console

    form, strict = options.get("format_", "text"), options.get("strict", False)
    console = Console(form, options["colour"], quiet=quiet, strict=strict)
    click.get_current_context().call_on_close(console.close)
    return console


def _json(value: object) -> str:
    from modelway.lower.objects import json_text

    return json_text(value)
