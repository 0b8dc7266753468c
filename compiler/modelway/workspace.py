"""The commands' work on a repository's folders: find the settings, read, compile, compare, write.

Everything here returns values; ``cli`` prints them. Raises OSError for a disk that fails.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from modelway import repository, tree
from modelway.diagnostics import Diagnostic, Severity, Span, diagnostic, has_errors, sort_unique
from modelway.lower.transitions import Standing
from modelway.pipeline import Compilation, Progress, compile_specs
from modelway.pipeline import list_models as list_all
from modelway.report.listing import Row
from modelway.sources import SourceFile, read_file, read_specs
from modelway.spec.repository import Repository

OK, FOUND, STALE = 0, 1, 3
_MOST_STANDING = 1 << 20  # bytes of a file that was generated; none of ours comes near


class RefusedError(click.UsageError):
    """The command line asks for what is not there, or for what would destroy something."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command found and did. ``counts`` is empty when nothing was compared or written."""

    code: int
    diagnostics: tuple[Diagnostic, ...]
    sources: dict[str, bytes] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    output: str = ""


@dataclass(frozen=True, slots=True)
class Folders:
    """Where specs and generated files are, and how diagnostics name them."""

    specs: Path
    output: Path

    @property
    def shown_specs(self) -> str:
        return _shown(self.specs)

    @property
    def shown_output(self) -> str:
        return _shown(self.output)


def compile_and_compare(
    specs: str | None, output: str | None, only: Sequence[str], *, strict: bool, progress: Progress | None
) -> Outcome:
    """Compile and compare with the folder of generated files; nothing is written."""
    folders, sources, compilation = _compile(specs, output, only, progress)
    found = list(compilation.diagnostics)
    if folders is None or has_errors(found):
        return _outcome(found, sources, strict=strict)
    comparison = tree.compare(folders.output, compilation.files, environments=_scope(only))
    counts = {name: len(getattr(comparison, name)) for name in ("stale", "missing", "extra")}
    counts["unchanged"] = _in_scope(compilation, only) - counts["stale"] - counts["missing"]
    mend = _mend(specs, output, only)
    stale = [
        diagnostic(code, Span(f"{folders.shown_output}/{path}"), text.format(path), f"run: {mend}")
        for code, text, paths in (
            ("MW503", "{} does not hold what the specs compile to", comparison.stale),
            ("MW504", "{} is missing", comparison.missing),
            ("MW505", "{} is what no spec compiles to any more", comparison.extra),
        )
        for path in paths
    ]
    foreign = _foreign(folders, comparison.foreign)
    outcome = _outcome([*found, *foreign], sources, strict=strict)
    code = STALE if stale and outcome.code == OK else outcome.code
    everything = tuple(sort_unique([*found, *foreign, *stale]))
    return Outcome(code, everything, sources, counts, folders.shown_output)


def compile_and_write(
    specs: str | None, output: str | None, only: Sequence[str], *, strict: bool, progress: Progress | None
) -> Outcome:
    """Compile and bring the folder of generated files up to date; with any error nothing is written."""
    folders, sources, compilation = _compile(specs, output, only, progress)
    found = list(compilation.diagnostics)
    refused = _outcome(found, sources, strict=strict)
    if folders is None or refused.code != OK:
        return refused
    total = _in_scope(compilation, only)

    so_far = 0

    def written(more: int) -> None:
        nonlocal so_far
        so_far += more
        if progress:
            progress("writing files", min(so_far, total), total)

    try:
        done = tree.write(folders.output, compilation.files, environments=_scope(only), progress=written)
    except tree.ForeignFiles as error:
        return _outcome([*found, *_foreign(folders, error.paths)], sources, strict=strict)
    except tree.Busy:
        text = "another compile is writing here"
        busy = diagnostic("MW502", Span(folders.shown_output), text, "wait for it to end and run again")
        return _outcome([*found, busy], sources, strict=strict)
    counts = {name: getattr(done, name) for name in ("created", "changed", "removed", "unchanged")}
    return Outcome(OK, tuple(found), sources, counts, folders.shown_output)


def list_models(specs: str | None, only: Sequence[str]) -> tuple[Outcome, list[Row]]:
    """The rows of ``modelway list``; none when a spec is wrong."""
    folders, found, sources = _read(specs, None)
    if folders is None:
        return _outcome(found, _bytes(sources), strict=False), []
    listing = list_all(sources, found)
    _must_know(only, set(listing.environments), listing.diagnostics)
    wanted = [row for row in listing.rows if not only or row.environment in only]
    return _outcome(listing.diagnostics, _bytes(sources), strict=False), wanted


def environment_names() -> list[str]:
    """For completion: the environments of the repository around the working folder."""
    folders, found, sources = _read(None, None)
    return [] if folders is None else list(compile_specs(sources, found).environments)


def write_schemas(folder: str) -> list[str]:
    """Write the schema of every kind; the paths that were written."""
    from modelway.lower.objects import json_text
    from modelway.spec.schema import schemas

    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, schema in schemas().items():
        path = target / f"{kind.lower()}.json"
        _write(path, json_text(schema).encode())
        paths.append(str(path))
    return paths


def initialise(folder: str, team: str, model: str) -> list[str]:
    """Write the files of a new repository. Raises RefusedError when one of them is there already."""
    import re

    from modelway import scaffold

    for what, name in (("team", team), ("model", model)):
        if not re.fullmatch("[a-z]([-a-z0-9]{0,38}[a-z0-9])?", name):
            form = "1 to 40 lower-case letters, digits and inner hyphens, a letter first"
            raise RefusedError(f'the {what} "{name}" is not {form}')
    root = Path(folder)
    files = scaffold.files(team, model)
    for path in files:
        if (root / path).exists() or (root / path).is_symlink():
            raise RefusedError(f"{path} is there already; init writes into a new repository only")
        in_the_way = [above for above in (root / path).parents if above.exists() and not above.is_dir()]
        if in_the_way:
            raise RefusedError(f"{in_the_way[0]} is a file, and init needs a folder there")
    written: list[Path] = []
    try:
        for path, data in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            _write(root / path, data)
            written.append(root / path)
    except OSError:
        for done in written:  # half a repository would keep the next init from starting
            done.unlink(missing_ok=True)
        raise
    return [str(path) for path in written]


def _compile(
    specs: str | None, output: str | None, only: Sequence[str], progress: Progress | None
) -> tuple[Folders | None, dict[str, bytes], Compilation]:
    folders, found, sources = _read(specs, output)
    if folders is None:
        return None, _bytes(sources), Compilation((), tuple(found), ())
    compilation = compile_specs(sources, found, progress, _standing(folders.output))
    _must_know(only, set(compilation.environments), compilation.diagnostics)
    return folders, _bytes(sources), compilation


def _standing(output: Path) -> Standing:
    """Reads a file of the generated folder, as far as our own go; a link, a folder or a pipe is none."""
    folder = os.fspath(output)

    def read(path: str) -> bytes | None:
        try:
            file = os.open(f"{folder}/{path}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):  # a symbolic link; a socket
                return None
            raise
        try:
            return os.read(file, _MOST_STANDING) if stat.S_ISREG(os.fstat(file).st_mode) else None
        finally:
            os.close(file)

    return read


def _read(specs: str | None, output: str | None) -> tuple[Folders | None, list[Diagnostic], list[SourceFile]]:
    """The folders and their specs; no folders when the settings are missing or wrong."""
    root = repository.find(Path.cwd())
    settings: Repository | None = None
    found: list[Diagnostic] = []
    sources: list[SourceFile] = []
    if root is not None:
        path = root / repository.FILE
        source, found = read_file(path, shown=_shown(path))
        if source is not None:
            sources = [source]
            settings, wrong = repository.read(source)
            found = [*found, *wrong]
        if settings is None:
            return None, found, sources
    elif specs is None:
        text = "there is no modelway.yaml here or in a folder above"
        hint = "run modelway init, or name the folders with --specs and --output"
        return None, [diagnostic("MW001", Span(repository.FILE), text, hint)], []
    base = root or Path.cwd()
    folders = Folders(
        Path(specs) if specs else base / (settings.specs if settings else "specs"),
        Path(output) if output else base / (settings.output if settings else "generated"),
    )
    _must_be_apart(folders)
    if not folders.specs.is_dir():
        text = f"there is no folder {folders.shown_specs}"
        return (
            None,
            [
                *found,
                diagnostic("MW001", Span(folders.shown_specs), text, "make it, or name another with --specs"),
            ],
            sources,
        )
    if folders.output.exists() and not folders.output.is_dir():
        return None, [*found, _unusable(folders, "is not a folder")], sources
    read, unread = read_specs(folders.specs, shown=folders.shown_specs)
    if not read and not unread:
        text = f"there is no spec (*.yaml) in {folders.shown_specs}"
        unread = [
            diagnostic(
                "MW001", Span(folders.shown_specs), text, "begin with an Environment; see modelway explain"
            )
        ]
    return folders, [*found, *unread], [*sources, *read][len(sources) :] if settings else read


def _must_be_apart(folders: Folders) -> None:
    """Raises RefusedError where generated files would be read as specs, or specs taken for foreign files."""
    specs, output = folders.specs.resolve(), folders.output.resolve()
    if specs == output or specs in output.parents or output in specs.parents:
        raise RefusedError(
            f"the generated files ({folders.shown_output}) and the specs ({folders.shown_specs}) "
            "must not lie in one another"
        )


def _must_know(only: Sequence[str], known: set[str], found: Sequence[Diagnostic]) -> None:
    """Raises RefusedError for an environment that is asked for and not there; a wrong spec is told first."""
    unknown = [] if has_errors(found) else sorted(set(only) - known)
    if unknown:
        raise RefusedError(f'there is no environment "{unknown[0]}"; there are {", ".join(sorted(known))}')


def _outcome(found: Sequence[Diagnostic], sources: dict[str, bytes], *, strict: bool) -> Outcome:
    limit = Severity.WARNING if strict else Severity.ERROR
    failed = any(one.severity >= limit for one in found)
    return Outcome(FOUND if failed else OK, tuple(sort_unique(found)), sources)


def _foreign(folders: Folders, paths: Sequence[str]) -> list[Diagnostic]:
    if "." in paths:
        return [_unusable(folders, "is a symbolic link; name the folder that it leads to")]
    hint = "move it away, or choose another folder with --output; only what Modelway wrote may be here"
    return [
        diagnostic(
            "MW501", Span(f"{folders.shown_output}/{path}"), f"{path} is not a file that Modelway owns", hint
        )
        for path in paths
    ]


def _unusable(folders: Folders, why: str) -> Diagnostic:
    text = f"{folders.shown_output} {why}"
    return diagnostic("MW502", Span(folders.shown_output), text, "name another folder with --output")


def _in_scope(compilation: Compilation, only: Sequence[str]) -> int:
    """How many files the folder should hold, those of the index (one an environment and team) among them."""
    folders = [file.path.split("/", 2)[:2] for file in compilation.files]
    wanted = [tuple(folder) for folder in folders if not only or folder[0] in only]
    return len(wanted) + len(set(wanted))


def _scope(only: Sequence[str]) -> frozenset[str] | None:
    return frozenset(only) or None


def _mend(specs: str | None, output: str | None, only: Sequence[str]) -> str:
    """The command that would bring the folder up to date, with the same folders."""
    import shlex

    words = ["modelway", "compile"]
    words += [word for name in only for word in ("-e", name)]
    words += [
        word for name, value in (("--specs", specs), ("--output", output)) if value for word in (name, value)
    ]
    return shlex.join(words)


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _bytes(sources: Sequence[SourceFile]) -> dict[str, bytes]:
    return {source.path: source.data for source in sources}


def _shown(path: Path) -> str:
    """A path as diagnostics print it: relative to the working folder where that is shorter."""
    relative = os.path.relpath(path)
    return Path(relative if not relative.startswith("../../..") else path.absolute()).as_posix()
