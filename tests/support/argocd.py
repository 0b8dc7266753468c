"""How Argo CD 3.5.1 syncs, as far as our objects meet it.

sync(objects)              waves, health and the end of an operation (``gitops-engine/pkg/sync/sync_context.go``)
target_of_sync(...)        what is applied under ``RespectIgnoreDifferences`` (``normalizeTargetResources`` in
                           ``controller/sync.go``, normalizers in ``util/argo``)
apply(...)                 what an API server makes of it, applied by the client or by the server

Ignored paths are evaluated by jq itself, as Argo CD does it: ``del(<path>)``.
"""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from modelway.lower import names
from modelway.lower.syncing import HEALTH, WITHOUT_HEALTH, Health
from tests.support.tools import require_tool

Json = dict[str, Any]
POD_OWNERS = ("Deployment", "StatefulSet", "DaemonSet", "Job", "Rollout")
_NOTHING = object()


# Waves and health


class Ended(NamedTuple):
    """An operation that has ended, or that waits for ever: for which object, and what it lacks."""

    waits_for: Json | None
    why: str


def wave(value: Json) -> int:
    return int(value["metadata"].get("annotations", {}).get(names.SYNC_WAVE, "0"))


def group_kind(value: Json) -> tuple[str, str]:
    return value["apiVersion"].rpartition("/")[0], value["kind"]


@cache
def _healths() -> dict[tuple[str, str], Health]:
    return {(one.group, one.kind): one for one in HEALTH}


def health_of(value: Json) -> Health | None:
    key = group_kind(value)
    assert (key in _healths()) != (key in WITHOUT_HEALTH), f"say in lower/syncing.py when {key} is healthy"
    return _healths().get(key)


def sync(objects: Sequence[Json]) -> Ended:
    """One operation on an Application of these objects, while a release or a person holds whatever may last.

    The last wave is applied and not awaited.
    """
    waves = sorted({wave(one) for one in objects})
    for number in waves[:-1]:
        applied = [one for one in objects if wave(one) <= number]
        for value in (one for one in applied if wave(one) == number):
            lacks = _lacks(value, applied, objects)
            if lacks:
                return Ended(value, lacks)
    return Ended(None, "")


def _lacks(value: Json, applied: Sequence[Json], objects: Sequence[Json]) -> str:
    """Why the object cannot be healthy for now, or ''."""
    health = health_of(value)
    if health is None:
        return ""
    if health.lasts:
        return "a release, a run or a person holds it"
    for need in health.needs:
        for other in NEEDS[need](value, objects):
            if not any(other is one for one in applied):
                return f"{need}: {other['kind']} {other['metadata']['name']} comes in wave {wave(other)}"
    return ""


def _pod(value: Json) -> Json:
    return value["spec"]["template"]["spec"] if value["kind"] in POD_OWNERS else {}  # type: ignore[no-any-return]


def _named(objects: Sequence[Json], near: Json, kind: str, name: str | None) -> Iterator[Json]:
    for one in objects:
        same = one["metadata"].get("namespace") in (None, near["metadata"].get("namespace"))
        if same and one["kind"] == kind and one["metadata"]["name"] == name:
            yield one


def _consumers(claim: Json, objects: Sequence[Json]) -> Iterator[Json]:
    for one in objects:
        if claim in [*_mounted(one, objects)]:
            yield one


def _mounted(value: Json, objects: Sequence[Json]) -> Iterator[Json]:
    for volume in _pod(value).get("volumes", ()):
        name = volume.get("persistentVolumeClaim", {}).get("claimName")
        yield from _named(objects, value, "PersistentVolumeClaim", name)


def _of_pods(value: Json, objects: Sequence[Json]) -> Iterator[Json]:
    pod = _pod(value)
    yield from _mounted(value, objects)
    yield from _named(objects, value, "ServiceAccount", pod.get("serviceAccountName"))
    yield from _named(objects, value, "PriorityClass", pod.get("priorityClassName"))
    yield from _named(objects, value, "Namespace", value["metadata"].get("namespace"))
    for volume in pod.get("volumes", ()):
        yield from _named(objects, value, "ConfigMap", volume.get("configMap", {}).get("name"))
    labels = value["spec"].get("template", {}).get("metadata", {}).get("labels", {})
    for one in objects:  # a pod that may reach nothing fetches nothing
        near = one["metadata"].get("namespace") == value["metadata"]["namespace"]
        if near and one["kind"] == "NetworkPolicy":
            selected = one["spec"]["podSelector"].get("matchLabels", {})
            yield from [one] if selected.items() <= labels.items() else []


def _references(value: Json, objects: Sequence[Json]) -> Iterator[Json]:
    def inside(item: Any) -> Iterator[tuple[str, Any]]:
        for key, below in item.items() if isinstance(item, dict) else ():
            yield key, below
            yield from inside(below)
        for below in item if isinstance(item, list) else ():
            yield from inside(below)

    for key, name in inside(value["spec"].get("strategy", value["spec"])):
        if key in ("stableService", "canaryService", "activeService", "previewService"):
            yield from _named(objects, value, "Service", name)
        if key == "templateName":
            yield from _named(objects, value, "AnalysisTemplate", name)
        for kind in ("HTTPRoute", "GRPCRoute"):
            for route in name if key == kind[:4].lower() + "Routes" else ():
                yield from _named(objects, value, kind, route["name"])


def _target(value: Json, objects: Sequence[Json]) -> Iterator[Json]:
    target = value["spec"]["scaleTargetRef"]
    yield from _named(objects, value, target["kind"], target["name"])


def _backends(value: Json, objects: Sequence[Json]) -> Iterator[Json]:
    for rule in value["spec"]["rules"]:
        for backend in rule["backendRefs"]:
            yield from _named(objects, value, "Service", backend["name"])


def _store(value: Json, objects: Sequence[Json]) -> Iterator[Json]:
    store = value["spec"]["secretStoreRef"]
    yield from _named(objects, value, store["kind"], store["name"])


def _issuer(value: Json, objects: Sequence[Json]) -> Iterator[Json]:
    yield from _named(objects, value, value["spec"]["issuerRef"]["kind"], value["spec"]["issuerRef"]["name"])


NEEDS: dict[str, Callable[[Json, Sequence[Json]], Iterator[Json]]] = {
    "consumer": _consumers,
    "pods": _of_pods,
    "references": _references,
    "target": _target,
    "backends": _backends,
    "store": _store,
    "issuer": _issuer,
}


# Ignored differences


def target_of_sync(live: Json | None, target: Json, ignore: Sequence[Json], *, restores: bool = True) -> Json:
    """What is applied for ``target``; ``restores`` since 3.5.0 (``restoreNonIgnoredFields``)."""
    if live is None:  # at creation the differences are not ignored
        return target
    seen, wanted = normalized(live, target, ignore)
    merged = _merge(wanted, _merge_patch(seen, _without(live, "metadata", "managedFields")))
    return _restore(merged, target, wanted, seen) if restores else merged


def in_sync(live: Json, target: Json, ignore: Sequence[Json]) -> bool:
    """Whether Argo CD shows no difference: what Git states is what is there."""
    seen, wanted = normalized(live, target, ignore)
    return _merge(seen, wanted) == seen


def normalized(live: Json, target: Json, ignore: Sequence[Json]) -> tuple[Json, Json]:
    """Both without what is ignored: managed fields first, then pointers and paths, each on its own."""
    seen, wanted = copy.deepcopy(live), copy.deepcopy(target)
    entries = [one for one in ignore if (one.get("group", ""), one["kind"]) == group_kind(target)]
    for entry in entries:
        for field in live["metadata"].get("managedFields", ()):
            if field["manager"] in entry.get("managedFieldsManagers", ()):
                for path in _paths(field["fieldsV1"]):
                    ours, theirs = _get(wanted, path), _get(seen, path)
                    if ours is not _NOTHING and theirs is not _NOTHING and ours != theirs:
                        wanted, seen = _without(wanted, *path), _without(seen, *path)
    seen.get("metadata", {}).pop("managedFields", None)
    for entry in entries:
        for pointer in entry.get("jsonPointers", ()):
            path = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
            seen, wanted = _without(seen, *path), _without(wanted, *path)
        for path in entry.get("jqPathExpressions", ()):
            seen, wanted = _jq(f"del({path})", seen), _jq(f"del({path})", wanted)
    return seen, wanted


def _jq(program: str, value: Json) -> Json:
    require_tool("jq", "jq")
    done = subprocess.run(
        ["jq", "-c", program], input=json.dumps(value), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def _paths(fields: Json, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The leaves of ``fieldsV1``: an atomic map or list is one."""
    for key, below in fields.items():
        path = (*above, key.removeprefix("f:"))
        if below:
            yield from _paths(below, path)
        else:
            yield path


def _get(value: Any, path: Sequence[str]) -> Any:
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return _NOTHING
        value = value[key]
    return value


def _without(value: Json, *path: str) -> Json:
    found = copy.deepcopy(value)
    above = _get(found, path[:-1])
    if isinstance(above, dict):
        above.pop(path[-1], None)
    return found


def _merge_patch(before: Json, after: Json) -> Json:
    """A JSON merge patch: mappings by key, lists whole. That only what ``before`` lacks differs is known."""
    patch: Json = {}
    for key, value in after.items():
        if isinstance(value, dict) and isinstance(before.get(key), dict):
            below = _merge_patch(before[key], value)
            if below:
                patch[key] = below
        elif before.get(key, _NOTHING) != value:
            patch[key] = value
    return patch


def _merge(value: Json, patch: Json) -> Json:
    found = copy.deepcopy(value)
    for key, below in patch.items():
        if isinstance(below, dict) and isinstance(found.get(key), dict):
            found[key] = _merge(found[key], below)
        else:
            found[key] = copy.deepcopy(below)
    return found


def _restore(merged: Json, target: Json, wanted: Json, seen: Json) -> Json:
    """Give back what the normalizer left alone in the target, and drop what it left alone in the cluster."""
    found = dict(merged)
    for key, value in target.items():
        if all(isinstance(one.get(key), dict) for one in (found, target, wanted)):
            found[key] = _restore(found[key], value, wanted[key], seen.get(key) or {})
        elif key in wanted and wanted[key] == value and found.get(key, _NOTHING) != value:
            found[key] = value
    return {key: value for key, value in found.items() if key in target or key not in seen}


# What the API server makes of it

ATOMIC = {("", "Service"): (("spec", "selector"),)}
"""Maps that server-side apply replaces whole. Lists are replaced whole, as those of a route are."""


def apply(live: Json | None, target: Json, last: Json | None, *, server_side: bool) -> Json:
    """Forced where it is by the server; ``last`` is what was applied before, and what is left out goes."""
    if live is None:
        return copy.deepcopy(target)
    found = _merge(_drop(live, last or {}, target), target)
    for path in ATOMIC.get(group_kind(target), ()) if server_side else ():
        above = _get(found, path[:-1])
        above[path[-1]] = copy.deepcopy(_get(target, path))
    return found


def _drop(live: Json, last: Json, target: Json) -> Json:
    found = {}
    for key, value in live.items():
        if key in last and key not in target:
            continue
        below = last.get(key)
        both = isinstance(value, dict) and isinstance(below, dict) and isinstance(target.get(key), dict)
        found[key] = _drop(value, below, target[key]) if both and below else value
    return found
