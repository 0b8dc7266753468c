"""A repository of specs: its settings, and the folders that they name."""

from __future__ import annotations

from pathlib import Path

import msgspec

from modelway import __version__
from modelway.diagnostics import Diagnostic, Span, diagnostic, has_errors
from modelway.load import Document, load
from modelway.sources import SourceFile
from modelway.spec.repository import Repository
from modelway.spec.schema import REPOSITORY
from modelway.validate import Places, check

FILE = "modelway.yaml"


def find(start: Path) -> Path | None:
    """The nearest folder with a ``modelway.yaml``, from ``start`` upwards."""
    return next((folder for folder in (start, *start.parents) if (folder / FILE).is_file()), None)


def read(source: SourceFile) -> tuple[Repository | None, list[Diagnostic]]:
    """The settings in ``modelway.yaml``, or None with what is wrong with them."""
    documents, problems = load(source)
    if has_errors(problems):
        return None, problems
    if len(documents) != 1:
        return None, [_not_one(source, documents)]
    document = documents[0]
    problems = check(REPOSITORY, document.value, Places(document.span, document.key_span))
    if problems:
        return None, problems
    settings = msgspec.convert(document.value, Repository)
    if not serves(settings.requires, __version__):
        text = f"the repository is compiled with Modelway {settings.requires}, this is {__version__}"
        hint = f"install modelway=={settings.requires}.* or change requires and look at the difference"
        return None, [diagnostic("MW120", document.span(("requires",)), text, hint)]
    return settings, []


def serves(required: str, version: str) -> bool:
    """Whether ``version`` is of the required series (major.minor) and not older."""
    wanted, have = (tuple(int(part) for part in text.split(".")) for text in (required, version))
    return wanted[:2] == have[:2] and have >= wanted


def _not_one(source: SourceFile, documents: list[Document]) -> Diagnostic:
    span = documents[1].span(()) if documents else Span(source.path)
    text = "the settings are one document" if documents else "the settings are empty"
    return diagnostic("MW101", span, text, 'write requires: "0.1", say')
