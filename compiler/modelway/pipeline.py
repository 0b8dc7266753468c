"""The order of the stages: sources -> documents -> specs by environment -> objects -> files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from modelway.consistency import check_place
from modelway.diagnostics import Diagnostic, Span, diagnostic, has_errors, sort_unique
from modelway.emit import emit
from modelway.load import Document, load
from modelway.lower.names import PLATFORM
from modelway.lower.objects import KubeObject
from modelway.lower.place import downgrades, lower
from modelway.lower.transitions import Standing, nothing_stands
from modelway.naming import check_names
from modelway.report.listing import Row, rows
from modelway.resolve import Catalog, Place, catalog, places
from modelway.sources import SourceFile
from modelway.tree import GeneratedFile
from modelway.validate import validate

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True, slots=True)
class Compilation:
    """What specs compile to. With any error there are no files."""

    files: tuple[GeneratedFile, ...]
    diagnostics: tuple[Diagnostic, ...]
    environments: tuple[str, ...]


def compile_specs(
    sources: Sequence[SourceFile],
    unread: Sequence[Diagnostic] = (),
    progress: Progress | None = None,
    standing: Standing = nothing_stands,
) -> Compilation:
    """Compile a folder of specs.

    ``unread`` are the diagnostics of files that could not be read at all: with any of them a
    reference to nothing proves nothing and is not reported. ``standing`` reads the tree that the last
    compile left: the same specs beside the same tree give the same bytes.
    """
    found, problems = understand(sources, unread, progress)
    files: list[GeneratedFile] = []
    for place, wrong in places(found):
        wrong = [*wrong, *check_place(place, found)]
        if not has_errors(wrong) and _whole(place):
            wrong += downgrades(place, standing)
        problems += wrong
        if not has_errors(problems):
            files += _files(place, progress, standing)
    problems += _clashes(files, found)
    clean = not has_errors(problems)
    return Compilation(tuple(files) if clean else (), tuple(sort_unique(problems)), found.of("Environment"))


@dataclass(frozen=True, slots=True)
class Listing:
    """What ``modelway list`` shows. With any error there are no rows."""

    rows: tuple[Row, ...]
    diagnostics: tuple[Diagnostic, ...]
    environments: tuple[str, ...]


def _whole(place: Place) -> bool:
    """Whether each model's resource is there; one that is wrong itself has been told already."""
    return all(model.spec.spec.serving.resource in place.resources for model in place.models.values())


def list_models(sources: Sequence[SourceFile], unread: Sequence[Diagnostic]) -> Listing:
    """As ``compile_specs`` as far as the checks; nothing is lowered."""
    found, problems = understand(sources, unread)
    listed: list[Row] = []
    for place, wrong in places(found):
        problems += [*wrong, *check_place(place, found)]
        if not has_errors(problems):
            listed += rows(place)
    clean = not has_errors(problems)
    return Listing(tuple(listed) if clean else (), tuple(sort_unique(problems)), found.of("Environment"))


def understand(
    sources: Sequence[SourceFile], unread: Sequence[Diagnostic], progress: Progress | None = None
) -> tuple[Catalog, list[Diagnostic]]:
    """Load, validate and index; what is wrong with one document hides nothing of another."""
    problems = list(unread)
    documents: list[Document] = []
    complete = not has_errors(unread)
    for number, source in enumerate(sources, start=1):
        loaded, wrong = load(source)
        complete = complete and not has_errors(wrong)
        documents += loaded
        problems += wrong
        if progress:
            progress("reading specs", number, len(sources))
    valid: list[Document] = []
    invalid: list[Document] = []
    for document in documents:
        wrong = validate(document)
        problems += wrong
        (invalid if wrong else valid).append(document)
    found, wrong = catalog(valid, invalid, complete=complete)
    return found, [*problems, *wrong, *check_names(found), *_no_environment(found)]


def _no_environment(found: Catalog) -> Iterator[Diagnostic]:
    """Specs that are for no environment would compile to nothing, and remove all that was there."""
    if found.complete and found.documents and not found.of("Environment") and not found.broken:
        document = next(iter(found.documents.values()))
        text = "there is no Environment, so that nothing would be compiled"
        yield diagnostic("MW218", document.span(()), text, "add one; modelway explain Environment says how")


def _files(place: Place, progress: Progress | None, standing: Standing) -> Iterator[GeneratedFile]:
    total = len(place.models) + len(place.alerts)
    done, last = 0, ""
    for output in lower(place, standing):
        if progress and output.spec != last:
            done, last = min(done + 1, total), output.spec
            progress(f"compiling {place.name}", done, total)
        data = emit(output.value) if isinstance(output, KubeObject) else output.data
        yield GeneratedFile(f"{place.name}/{output.path}", data, output.spec)


_NAME_LIMIT = 63  # of what becomes a label, a host name or a namespace
_LONG_NAMES = ("configmap", "settings", "dashboard", "rules")  # ConfigMaps may have 253, files more


def _clashes(files: Iterable[GeneratedFile], found: Catalog) -> Iterator[Diagnostic]:
    """Names that only show once suffixed: too long, or those of another spec's object."""
    first: dict[tuple[str, str], str] = {}
    told: set[tuple[str, str]] = set()
    for file in files:
        folder, _, file_name = file.path.rpartition("/")
        kind, _, name = file_name.rpartition(".")[0].partition("-")
        owner = first.setdefault((_scope(folder), file_name), file.spec)
        if owner != file.spec and (owner, file.spec) not in told:
            told.add((owner, file.spec))
            text = f'{file.spec} and {owner} both make a {kind} called "{name}", and perhaps more'
            related = ((_span(owner, found), "the other is here"),)
            yield diagnostic("MW407", _span(file.spec, found), text, "rename one of them", related)
        elif owner == file.spec and len(name) > _NAME_LIMIT and kind not in _LONG_NAMES:
            text = f'"{name}" has {len(name)} characters, a Kubernetes name at most {_NAME_LIMIT}'
            yield diagnostic("MW406", _span(file.spec, found), text, "shorten the names that it is made of")


def _scope(folder: str) -> str:
    """What the names in a folder must be unique in: ``prod/search/ranker`` and ``prod/_platform/search`` lie
    in the namespace ``prod/search``, ``prod/_platform`` in the cluster."""
    environment, team, *below = folder.split("/")
    return f"{environment}/{below[0] if team == PLATFORM and below else team}"


def _span(spec: str, found: Catalog) -> Span:
    kind, _, key = spec.partition(" ")
    return found.documents[kind, key].span(("metadata", "name"))
