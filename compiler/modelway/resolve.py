"""Valid documents -> what they say in each environment.

An environment's view of a spec is, from weakest to strongest: the defaults of the schema, the
environment's own defaults (Models only), the spec, the spec's overlay for the environment. The
last three are merged as RFC 7396 says; where a value stands is looked up in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

from modelway.diagnostics import Diagnostic, Span, diagnostic
from modelway.load import Document, Pointer
from modelway.spec import schema as spec_schema
from modelway.spec.alert import Alert
from modelway.spec.environment import Environment
from modelway.spec.model import Model
from modelway.spec.resource import Resource
from modelway.suggest import nearest
from modelway.validate import Places, check

Spec = TypeVar("Spec", Model, Alert, Resource, Environment)
Key = tuple[str, str]
"""(kind, ``team/name`` or ``name``): what makes a spec one of its kind."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the values of a resolved spec were written."""

    document: Document
    overlay: tuple[Document, Pointer] | None = None
    defaults: tuple[Document, Pointer] | None = None
    """Each a document, with the place in it that stands for the ``spec`` of the resolved one."""

    def span(self, pointer: Pointer) -> Span:
        """Where the value at ``pointer`` (below the document's root) was written."""
        document, place = self._place(pointer)
        return document.span(place)

    def key_span(self, pointer: Pointer) -> Span:
        document, place = self._place(pointer)
        return document.key_span(place)

    def _place(self, pointer: Pointer) -> tuple[Document, Pointer]:
        """The strongest layer that has the value, else the document itself (its nearest ancestor)."""
        below = pointer[1:] if pointer[:1] == ("spec",) else None
        for layer in (self.overlay, (self.document, ("spec",)), self.defaults):
            if layer is not None and below is not None:
                place = (*layer[1], *below)
                if _exists(layer[0].value, place):
                    return layer[0], place
        return self.document, pointer


@dataclass(frozen=True, slots=True)
class Resolved(Generic[Spec]):
    """A spec as one environment sees it."""

    key: str
    spec: Spec
    origin: Origin

    def span(self, *pointer: str | int) -> Span:
        return self.origin.span(pointer)

    def key_span(self, *pointer: str | int) -> Span:
        return self.origin.key_span(pointer)


@dataclass(frozen=True, slots=True)
class Place:
    """An environment with everything that is for it, by ``team/name`` (Resources by ``name``)."""

    environment: Resolved[Environment]
    models: Mapping[str, Resolved[Model]]
    resources: Mapping[str, Resolved[Resource]]
    alerts: Mapping[str, Resolved[Alert]]
    broken: frozenset[Key]
    """Specs for the environment that are wrong once its overlay is merged."""

    @property
    def name(self) -> str:
        return self.environment.key


@dataclass(frozen=True, slots=True)
class Catalog:
    """Every spec by kind and name, and the names of those that are there but wrong."""

    documents: Mapping[Key, Document]
    broken: frozenset[Key]
    complete: bool
    """Whether every file could be read; if not, a missing name proves nothing."""
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, kind: str) -> tuple[str, ...]:
        """The names of a kind, sorted."""
        return self.keys.get(kind, ())

    def unknown(self, kind: str, key: str) -> bool:
        """Whether a reference to nothing can be told: the name is neither here nor broken."""
        return self.complete and (kind, key) not in self.documents and (kind, key) not in self.broken


@dataclass(frozen=True, slots=True)
class Deployed:
    """A model as it is deployed: by itself, or as the standby of another under ``<primary>-standby``."""

    name: str
    model: Resolved[Model]
    primary: Resolved[Model] | None = None
    standby: Resolved[Model] | None = None

    @property
    def team(self) -> str:
        return self.model.spec.metadata.team


def catalog(
    valid: Iterable[Document], invalid: Iterable[Document], *, complete: bool
) -> tuple[Catalog, list[Diagnostic]]:
    """Index the documents; the second of two specs with one name is an error and is left out."""
    found: dict[Key, Document] = {}
    problems: list[Diagnostic] = []
    for document in sorted(valid, key=lambda one: (one.source.path, one.index)):
        key = key_of(document)
        first = found.setdefault(key, document)
        if first is not document:
            problems.append(_duplicate(key, first, document))
    keys: dict[str, list[str]] = {}
    for kind, name in sorted(found):
        keys.setdefault(kind, []).append(name)
    claims = [_claimed_keys(document) for document in invalid]
    broken = frozenset(key for claimed in claims for key in claimed)
    complete = complete and all(claims)
    whole = Catalog(found, broken, complete, {kind: tuple(names) for kind, names in keys.items()})
    return whole, [*problems, *_unknown_environments(whole)]


def places(found: Catalog) -> Iterator[tuple[Place, list[Diagnostic]]]:
    """Each environment in turn, so that only one is held at a time."""
    for name in found.of("Environment"):
        yield _place(found, name)


def deployed(place: Place) -> list[Deployed]:
    """Every deployment of an environment. A standby is deployed once for each of its primaries, not alone."""
    pairs = [
        (model, place.models[key])
        for model in place.models.values()
        if (key := standby_of(model)) is not None and key in place.models
    ]
    standbys = {primary.key: standby for primary, standby in pairs}
    taken = {standby.key for _, standby in pairs}
    alone = [
        Deployed(model.spec.metadata.name, model, standby=standbys.get(model.key))
        for model in place.models.values()
        if model.key not in taken
    ]
    behind = [
        Deployed(f"{primary.spec.metadata.name}-standby", standby, primary=primary)
        for primary, standby in pairs
    ]
    return alone + behind


def standby_of(model: Resolved[Model]) -> str | None:
    """The key of a model's standby."""
    standby = model.spec.spec.serving.standby
    return None if standby is None else in_team(standby.model, model.spec.metadata.team)


def in_team(reference: str, team: str) -> str:
    """``ranker`` -> ``search/ranker``: a bare name is one of the same team."""
    return reference if "/" in reference else f"{team}/{reference}"


def watched_by(alert: Alert, models: Mapping[str, Resolved[Model]]) -> list[Resolved[Model]]:
    """The models of an environment that an alert watches, by name."""
    target, team = alert.spec.target, alert.metadata.team
    if target.model is not None:
        model = models.get(in_team(target.model, team))
        return [] if model is None else [model]
    wanted = target.labels.items()
    return [
        model
        for model in models.values()
        if model.spec.metadata.team == team and wanted <= model.spec.metadata.labels.items()
    ]


def key_of(document: Document) -> Key:
    kind, metadata = document.value["kind"], document.value["metadata"]
    team = metadata.get("team")
    return kind, f"{team}/{metadata['name']}" if team else metadata["name"]


def merge(base: Any, patch: Any) -> Any:
    """RFC 7396; neither argument is changed, parts of both are shared."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(base) if isinstance(base, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def did_you_mean(word: str, candidates: Iterable[str], otherwise: str) -> str:
    near = nearest(word, candidates)
    return f'did you mean "{near}"?' if near else otherwise


def _place(found: Catalog, name: str) -> tuple[Place, list[Diagnostic]]:
    document = found.documents["Environment", name]
    environment = Resolved(name, _typed(Environment, document.value), Origin(document))
    problems: list[Diagnostic] = []
    broken: set[Key] = set()
    defaults = (document, ("spec", "defaults", "model")) if environment.spec.spec.defaults.model else None

    def kind(type_: type[Spec]) -> dict[str, Resolved[Spec]]:
        resolved = {}
        for key in found.of(type_.__name__):
            before = len(problems)
            one = _resolved(type_, key, found.documents[type_.__name__, key], name, defaults, problems)
            if one is not None:
                resolved[key] = one
            elif len(problems) > before:
                broken.add((type_.__name__, key))
        return resolved

    models, resources, alerts = kind(Model), kind(Resource), kind(Alert)
    return Place(environment, models, resources, alerts, frozenset(broken)), problems


def _resolved(
    type_: type[Spec],
    key: str,
    document: Document,
    environment: str,
    defaults: tuple[Document, Pointer] | None,
    problems: list[Diagnostic],
) -> Resolved[Spec] | None:
    """The spec in the environment; None when it is not for it, or wrong once merged."""
    value = document.value
    spec = value["spec"]
    targets = spec.get("targets")
    if targets and environment not in targets:
        return None
    below = defaults if type_ is Model else None
    overlay = spec.get("environments", {}).get(environment)
    if below is None and not overlay:
        return Resolved(key, _typed(type_, value), Origin(document))
    merged = {name: item for name, item in spec.items() if name != "environments"}
    if below is not None:
        merged = merge(merge({}, _value_at(*below)), merged)  # a null there deletes nothing
    whole = {**value, "spec": merge(merged, overlay or {})}
    place = (document, ("spec", "environments", environment)) if overlay else None
    origin = Origin(document, place, below)
    wrong = check(type_.__name__, whole, Places(origin.span, origin.key_span))
    problems += wrong
    return None if wrong else Resolved(key, _typed(type_, whole), origin)


def _exists(value: Any, pointer: Pointer) -> bool:
    for step in pointer:
        if isinstance(value, list):
            there = isinstance(step, int) and step < len(value)
        else:
            there = isinstance(value, dict) and step in value
        if not there:
            return False
        value = value[step]
    return True


def _value_at(document: Document, pointer: Pointer) -> Any:
    value = document.value
    for step in pointer:
        value = value[step]
    return value


def _typed(type_: type[Spec], value: Any) -> Spec:
    spec = value["spec"]
    if "environments" in spec:
        spec = {name: item for name, item in spec.items() if name != "environments"}
    # Not strict, because to JSON Schema 1.0 is a whole number.
    return msgspec.convert({"metadata": value["metadata"], "spec": spec}, type_, strict=False)


def _claimed_keys(document: Document) -> list[Key]:
    """What a broken document seems to want to be, so that references to it raise no second error.

    Without a kind that is known it may be any; without a name nothing can be told.
    """
    value = document.value
    metadata = value.get("metadata") if isinstance(value, dict) else None
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        return []
    kind, name, team = value.get("kind"), metadata["name"], metadata.get("team")
    if kind in ("Model", "Alert") and not isinstance(team, str):
        return []
    kinds = (kind,) if kind in spec_schema.KINDS else spec_schema.KINDS
    return [(kind, key) for kind in kinds for key in (name, f"{team}/{name}")]


def _duplicate(key: Key, first: Document, second: Document) -> Diagnostic:
    kind, name = key
    return diagnostic(
        "MW201",
        second.span(("metadata", "name")),
        f'there are two {kind}s called "{name}"',
        "rename one of them",
        ((first.span(("metadata", "name")), "the first is here"),),
    )


def _unknown_environments(found: Catalog) -> Iterator[Diagnostic]:
    known = found.of("Environment")
    for (kind, _), document in found.documents.items():
        if kind == "Environment":
            continue
        spec = document.value["spec"]
        named = [
            (name, document.span, ("spec", "targets", i)) for i, name in enumerate(spec.get("targets", ()))
        ]
        named += [
            (name, document.key_span, ("spec", "environments", name)) for name in spec.get("environments", ())
        ]
        for name, span, pointer in named:
            if found.unknown("Environment", name):
                hint = did_you_mean(name, known, f"the environments are {', '.join(known) or 'none yet'}")
                yield diagnostic("MW203", span(pointer), f'there is no environment "{name}"', hint)
        for name in spec.get("environments", ()):
            if spec.get("targets") and name not in spec["targets"] and name in known:
                text = f'the overlay is for "{name}", which is not among the targets'
                hint = "add it to the targets, or leave the overlay out"
                yield diagnostic("MW203", document.key_span(("spec", "environments", name)), text, hint)
