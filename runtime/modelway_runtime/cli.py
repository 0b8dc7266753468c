"""``modelway-runtime``: the only place of the runtime that parses arguments, prints or exits."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from modelway_runtime import __version__, logs
from modelway_runtime.detection.commands import COMMANDS
from modelway_runtime.extras import lacking
from modelway_runtime.settings import (
    ApiKeyAuth,
    Audit,
    Auth,
    Device,
    Limits,
    Listener,
    Metrics,
    NoAuth,
    Served,
    Settings,
    WrongSettings,
    read,
)

FAILED, USAGE, BUG, NOT_SERVED = 1, 2, 4, 5
log = logging.getLogger(__name__)
LATENCY_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SETTINGS = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


class Commands(click.Group):
    """What no command expects: a package that is missing is one line, our own fault says how to report it."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            _fail(f"{where}{error.strerror or error}", NOT_SERVED)
        except Exception as error:  # noqa: BLE001  # the last resort: our fault must not look like the user's
            command = ctx.invoked_subcommand or ""
            missing = isinstance(error, ImportError) and lacking(
                error, f"`{ctx.info_name} {command}`", command
            )
            if missing:
                _fail(missing, USAGE)
            _bug(error, command)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="modelway-runtime")
def main() -> None:
    """Serve models over the Open Inference Protocol (REST and gRPC), and detect what a release changed."""


for _command in COMMANDS:
    main.add_command(_command)


@main.command()
@click.option("--settings", "settings_file", type=_SETTINGS, help="Settings that the compiler wrote.")
@click.option("--model-repository", type=_FOLDER, help="Folder of models: DIR/<model>/<version>/model.onnx.")
@click.option("--host", help="Address to listen on.  [default: 0.0.0.0; 127.0.0.1 with --model-repository]")
@click.option(
    "--http-port", type=click.IntRange(0, 65535), help="Instead of the settings' port; 0: a free one."
)
@click.option(
    "--grpc-port", type=click.IntRange(0, 65535), help="Instead of the settings' port; 0: a free one."
)
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="Instead of the settings' port.")
@click.option("--provider", "providers", multiple=True, default=("cpu",), show_default=True,
              help="Execution provider with --model-repository; the most wanted first.")  # fmt: skip
@click.option(
    "--threads", type=click.IntRange(0), default=0, help="Threads of one computation; 0: the cores."
)
@click.option("--api-keys", type=_SETTINGS, help="Keys of the callers with --model-repository; see `key`.")
@click.option("--trust-pickled-weights", is_flag=True,
              help="Load .pt2 and TorchScript, which can run code, where the digest is pinned.")  # fmt: skip
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    help="Form of the log.  [default: text at a terminal]",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What is said at least.",
)
def serve(**options: Any) -> None:
    """Serve the models of a settings file, or of a folder on a laptop, until SIGTERM.

    SIGHUP reads the settings (or the folder) again: new versions are loaded beside the old ones.
    """
    settings_file, folder = options["settings_file"], options["model_repository"]
    if (settings_file is None) == (folder is None):
        raise click.UsageError("give one of --settings FILE and --model-repository DIR")
    context = click.get_current_context()
    for option in context.command.params if settings_file else ():
        given = context.get_parameter_source(option.name or "") is click.core.ParameterSource.COMMANDLINE
        if given and option.name in ("providers", "threads", "api_keys"):
            raise click.UsageError(f"{option.opts[0]} is for --model-repository; the settings say it already")
    logs.configure(options["log_format"] or ("text" if sys.stderr.isatty() else "json"), options["log_level"])
    from modelway_runtime.serving import server
    from modelway_runtime.serving.model_folder import scan
    from modelway_runtime.serving.watch import ConfigError

    rescan: Callable[[], list[Served]] | None = None
    try:
        if folder is not None:
            settings = _of_folder(scan(folder), options["providers"], options["threads"], options["api_keys"])
            rescan = reread = lambda: scan(folder)
        else:
            settings = read(settings_file)
            reread = lambda: list(read(settings_file).served)  # noqa: E731
        server.run(
            _with_ports(settings, options),
            host=options["host"] or ("127.0.0.1" if folder else "0.0.0.0"),  # noqa: S104  # a pod's own address
            trusted=options["trust_pickled_weights"],
            rescan=rescan,
            reread=reread,
            started=_announce,
        )
    except (WrongSettings, ConfigError, OSError) as error:
        _fail(f"{settings_file or folder}: {error}", FAILED)
    except server.NotServed as error:
        _fail(str(error), NOT_SERVED)
    _end(0)


@main.command()
@click.option("--settings", "settings_file", type=_SETTINGS, help="Settings that the compiler wrote.")
@click.option("--model-repository", type=_FOLDER, help="Folder of models.")
@click.option("--trust-pickled-weights", is_flag=True, help="As `serve` would be given.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def check(
    settings_file: Path | None, model_repository: Path | None, trust_pickled_weights: bool, as_json: bool
) -> None:
    """Validate settings and weights: fetch, verify, load and warm up each model, then exit.

    Exit code 0: all can be served; 1: something is wrong.
    """
    if (settings_file is None) == (model_repository is None):
        raise click.UsageError("give one of --settings FILE and --model-repository DIR")
    logs.configure("text", "error")
    from modelway_runtime.serving import checking
    from modelway_runtime.serving.model_folder import scan

    try:
        if model_repository is not None:
            settings = _of_folder(scan(model_repository))
        else:
            assert settings_file is not None
            settings = read(settings_file)
    except (WrongSettings, OSError) as error:
        _fail(f"{settings_file or model_repository}: {error}", FAILED)
    results = []
    for result in checking.check(settings, trusted=trust_pickled_weights):
        results.append(result)
        if not as_json:
            click.echo(result.text())
    if as_json:
        click.echo(json.dumps([result.as_json() for result in results], indent=2))
    sys.exit(0 if all(result.error is None for result in results) else FAILED)


@main.command()
@click.option("--source", required=True, help="URI: file:, s3://, gs://, https://, http:// or oci://.")
@click.option("--digest", help="sha256:… of the file; checked before it appears.")
@click.option(
    "--to", "folder", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder."
)
@click.option("--name", help="Name of the file.  [default: its own]")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def fetch(source: str, digest: str | None, folder: Path, name: str | None, as_json: bool) -> None:
    """Bring weights into a folder: verified while they come, in place only when complete."""
    logs.configure("text", "warning")
    from modelway_runtime.serving import sources

    # The first process of a container, as an init container is, has no default for SIGTERM.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with _Progress(source) as progress:
        try:
            path = sources.fetch(source, digest, folder, name=name, progress=progress)
        except (sources.SourceError, OSError) as error:
            _fail(str(error), NOT_SERVED)
    size, took = path.stat().st_size, time.monotonic() - started
    if as_json:
        click.echo(json.dumps({"path": str(path), "bytes": size, "seconds": round(took, 3)}))
    else:
        click.echo(f"{path}: {size / 1e6:.1f} MB in {took:.1f} s")


@main.command()
@click.option("--client", required=True, help="Name of the caller, as it stands in logs.")
@click.option("--model", "models", multiple=True, help="A model that it may use; repeat it.  [default: all]")
@click.option(
    "--requests-per-second", type=click.FloatRange(0, min_open=True), help="[default: as many as it likes]"
)
def key(client: str, models: tuple[str, ...], requests_per_second: float | None) -> None:
    """Make an API key: the key itself on standard output, its entry for the keys file on standard error."""
    from modelway_runtime.serving.auth import new_key

    secret, digest = new_key()
    entry = {
        "client": client,
        "sha256": digest,
        "models": list(models) or None,
        "requests_per_second": requests_per_second,
        "burst": None,
        "admin": False,
        "expires": None,
    }
    click.echo(secret)
    click.echo(json.dumps(entry), err=True)


@main.command()
def openapi() -> None:
    """Print the REST interface as an OpenAPI document."""
    from modelway_runtime.serving.openapi import document

    click.echo(json.dumps(document(), indent=2))


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what a shell has to evaluate to complete commands and options."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "modelway-runtime", "_MODELWAY_RUNTIME_COMPLETE").source())


def run() -> None:
    """The console script."""
    main(prog_name="modelway-runtime")


def _of_folder(
    served: list[Served],
    providers: tuple[str, ...] = ("cpu",),
    threads: int = 0,
    api_keys: Path | None = None,
) -> Settings:
    """Settings for a folder of models: what is right for a laptop."""
    if not served:
        raise WrongSettings("there is no model: put one into DIR/<model>/1/model.onnx")
    auth: Auth = ApiKeyAuth(keys_file=str(api_keys)) if api_keys else NoAuth()
    return Settings(
        schema=1,
        environment="local",
        team="local",
        model=served[0].name,
        served=tuple(served),
        standby=None,
        device=Device(providers=providers, allow_cpu=False, threads=threads, options={}),
        http=Listener(port=8080),
        grpc=Listener(port=8081),
        metrics=Metrics(port=9090, latency_buckets_s=LATENCY_BUCKETS_S),
        limits=Limits(request_bytes=64 * 2**20, in_flight=1024),
        auth=auth,
        tls=None,
        audit=Audit(enabled=False, mask=()),
        drain_s=5,
    )


def _with_ports(settings: Settings, options: dict[str, Any]) -> Settings:
    import msgspec

    changes: dict[str, Any] = {}
    for name in ("http", "grpc"):
        if options[f"{name}_port"] is not None:
            changes[name] = Listener(port=options[f"{name}_port"])
    if options["metrics_port"] is not None:
        changes["metrics"] = msgspec.structs.replace(settings.metrics, port=options["metrics_port"])
    return msgspec.structs.replace(settings, **changes)


def _announce(ports: Any) -> None:
    """One line of JSON for whoever started the server on free ports."""
    click.echo(json.dumps({"listening": ports._asdict()}), err=True)


class _Progress:
    """A progress bar at a terminal, for what takes longer than two seconds; nothing elsewhere."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._bar: Any = None
        self._started = time.monotonic()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.render_finish()

    def __call__(self, done: int, total: int | None) -> None:
        if not sys.stderr.isatty() or total is None or time.monotonic() - self._started < 2:
            return
        if self._bar is None:
            self._bar = click.progressbar(length=total, label=self._what[-40:], file=sys.stderr)
        self._bar.update(done - self._bar.pos)


def _bug(error: Exception, command: str) -> NoReturn:
    """A process that stays has no second chance to show where it failed: its log has all of it."""
    text = f"this is our fault, not yours: {type(error).__name__}: {error}"
    if command in ("serve", "watch", "gate"):
        log.critical("%s. Please report it with these lines.", text, exc_info=error)
    elif os.environ.get("MODELWAY_TRACEBACK"):
        click.echo(f"modelway-runtime: {text}\n{''.join(traceback.format_exception(error))}", err=True)
    else:
        more = "Please report it with the output under MODELWAY_TRACEBACK=1."
        click.echo(f"modelway-runtime: {text}\n{more}", err=True)
    _end(BUG)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    _end(code)


def _end(code: int) -> NoReturn:
    """Exit at once: Python would wait for a thread that loads or computes, and none can be interrupted."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
