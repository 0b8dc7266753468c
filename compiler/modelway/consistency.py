"""What the specs of one environment must say of each other: references, limits, windows, names.

Each check is a generator of diagnostics over a ``Place``; ``CHECKS`` lists them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

import msgspec

from modelway import naming, watching
from modelway.diagnostics import Diagnostic, Span, diagnostic
from modelway.resolve import (
    Catalog,
    Place,
    Resolved,
    deployed,
    did_you_mean,
    in_team,
    standby_of,
    watched_by,
)
from modelway.spec.alert import Alert, Threshold
from modelway.spec.common import amount, milliseconds
from modelway.spec.model import Gates, Model, Serving

Check = Callable[[Place, Catalog], Iterable[Diagnostic]]


def check_place(place: Place, found: Catalog) -> list[Diagnostic]:
    """Everything that the checks say of an environment."""
    return [problem for one in CHECKS for problem in one(place, found)]


def _resources(place: Place, found: Catalog) -> Iterator[Diagnostic]:
    for model in place.models.values():
        name = model.spec.spec.serving.resource
        wrong = ("Resource", name) in found.broken | place.broken
        if name in place.resources or wrong or not found.complete:
            continue
        span = model.span("spec", "serving", "resource")
        if ("Resource", name) in found.documents:
            text = f'the resource "{name}" is not for the environment "{place.name}"'
            yield diagnostic("MW202", span, text, "add the environment to its targets")
            continue
        hint = did_you_mean(name, place.resources, _known("resources", place.resources))
        yield diagnostic("MW202", span, f'there is no resource "{name}"', hint)


def _standbys(place: Place, found: Catalog) -> Iterator[Diagnostic]:
    standbys = {key: model for model in place.models.values() if (key := standby_of(model))}
    for model in place.models.values():
        key = standby_of(model)
        if key is None:
            continue
        span = model.span("spec", "serving", "standby", "model")
        team = model.spec.metadata.team
        if not key.startswith(f"{team}/"):
            text = f'the standby "{key}" belongs to another team than "{team}"'
            yield diagnostic("MW202", span, text, "name a model of the same team")
        elif key in place.models:
            yield from _chain(model, key, standbys, span)
            yield from _same_interface(model, place.models[key], span)
        elif ("Model", key) in place.broken:
            continue
        elif ("Model", key) in found.documents:
            text = f'the standby "{key}" is not for the environment "{place.name}"'
            yield diagnostic("MW202", span, text, "add the environment to its targets")
        elif found.unknown("Model", key):
            names = [other.partition("/")[2] for other in place.models if other.startswith(f"{team}/")]
            hint = did_you_mean(key.partition("/")[2], names, _known("models of the team", names))
            yield diagnostic("MW202", span, f'there is no model "{key}"', hint)


def _chain(
    model: Resolved[Model], key: str, standbys: dict[str, Resolved[Model]], span: Span
) -> Iterator[Diagnostic]:
    if key == model.key:
        text = f'"{model.key}" is its own standby'
        yield diagnostic("MW204", span, text, "name another, simpler model")
    elif model.key in standbys:
        text = f'"{model.key}" is the standby of "{standbys[model.key].key}" and may have none itself'
        yield diagnostic("MW204", span, text, "a standby is the last to answer; leave its standby out")


def _same_interface(model: Resolved[Model], standby: Resolved[Model], span: Span) -> Iterator[Diagnostic]:
    """A caller sends one request and must not see which of the two answers."""
    ours, theirs = model.spec.spec.interface, standby.spec.spec.interface
    for what, mine, other in (
        ("inputs", ours.inputs, theirs.inputs),
        ("outputs", ours.outputs, theirs.outputs),
    ):
        if mine and other and mine != other:
            different = sorted(n for n in mine.keys() | other.keys() if mine.get(n) != other.get(n))
            text = f'the {what} of "{standby.key}" differ from those of "{model.key}": {", ".join(different)}'
            related = ((standby.span("spec", "interface", what), "the standby's are here"),)
            yield diagnostic("MW217", span, text, "give both the same tensors", related)


def _rollouts(place: Place, _: Catalog) -> Iterator[Diagnostic]:
    for model in place.models.values():
        rollout = model.spec.spec.rollout
        at = ("spec", "rollout")
        gated = rollout.gates.given
        if rollout.steps and rollout.strategy != "canary":
            text = f'steps are for the strategy canary, this one is "{rollout.strategy}"'
            yield diagnostic(
                "MW207", model.key_span(*at, "steps"), text, "write strategy: canary, or leave steps out"
            )
        if not gated and rollout.gates != Gates():
            text = "minRate says when a gate has evidence, and there is no gate"
            yield diagnostic(
                "MW207", model.key_span(*at, "gates", "minRate"), text, "add a gate, or leave it out"
            )
        if gated and rollout.strategy == "rolling":
            text = "a rolling update has no gates"
            yield diagnostic(
                "MW207", model.key_span(*at, "gates"), text, "write strategy: canary or blueGreen"
            )
        if rollout.strategy == "canary" and not rollout.steps:
            text = "a canary needs steps"
            hint = "for example steps: [{weight: 5, pause: 10m}, {weight: 50, pause: 10m}]"
            yield diagnostic("MW207", model.span(*at, "strategy"), text, hint)
        for i in range(1, len(rollout.steps)):
            if rollout.steps[i].weight <= rollout.steps[i - 1].weight:
                text = f"weight {rollout.steps[i].weight} does not rise above {rollout.steps[i - 1].weight}"
                yield diagnostic(
                    "MW206", model.span(*at, "steps", i, "weight"), text, "let every step send more traffic"
                )


def _gpus(place: Place, _: Catalog) -> Iterator[Diagnostic]:
    inventory = place.environment.spec.spec.gpus
    if place.environment.spec.spec.cluster is None:
        return
    used: dict[str, int] = {}
    for one in deployed(place):
        serving = one.model.spec.spec.serving
        resource = place.resources.get(serving.resource)
        if resource is not None and resource.spec.spec.gpu is not None:
            gpu = resource.spec.spec.gpu
            used[gpu.product] = used.get(gpu.product, 0) + gpu.count * serving.scaling.min_replicas
    for resource in place.resources.values():
        wanted = resource.spec.spec.gpu
        if wanted is None:
            continue
        if wanted.product not in inventory:
            text = f'the environment "{place.name}" has no GPU "{wanted.product}"'
            hint = did_you_mean(wanted.product, inventory, _known("products", inventory))
            yield diagnostic("MW208", resource.span("spec", "gpu", "product"), text, hint)
        elif wanted.count > inventory[wanted.product].per_node:
            most = inventory[wanted.product].per_node
            text = f'{wanted.count} GPUs for a replica; a node of "{place.name}" has {most}'
            yield diagnostic(
                "MW208", resource.span("spec", "gpu", "count"), text, "no pod of it could be placed"
            )
    for product, have in inventory.items():
        if have.per_node > have.count:
            text = f"a node has {have.per_node} GPUs and the cluster {have.count}"
            span = place.environment.span("spec", "gpus", product, "perNode")
            yield diagnostic("MW212", span, text, "count is that of the whole cluster")
    for product, count in sorted(used.items()):
        if product in inventory and count > inventory[product].count:
            total = inventory[product].count
            text = f'the models of "{place.name}" need {count} of {total} "{product}" at least'
            span = place.environment.span("spec", "gpus", product, "count")
            yield diagnostic("MW216", span, text, "lower minReplicas, or add GPUs")


def _digests(place: Place, _: Catalog) -> Iterator[Diagnostic]:
    environment = place.environment.spec.spec
    if not environment.require_digests:
        return
    hint = f'or write requireDigests: false in the environment "{place.name}"'
    for model in place.models.values():
        artifact = model.spec.spec.artifact
        if artifact.digest is None:
            text = f'"{place.name}" takes no weights without a digest'
            yield diagnostic(
                "MW209", model.key_span("spec", "artifact"), text, f"add digest: sha256:…, {hint}"
            )
        if artifact.uri.startswith("oci://") and not _PINNED.search(artifact.uri):
            text = f'"{place.name}" takes no image without a digest'
            yield diagnostic(
                "MW209", model.span("spec", "artifact", "uri"), text, f"end it with @sha256:…, {hint}"
            )
    detector = environment.detector
    for at, image in (
        (("spec", "images", "server"), environment.images and environment.images.server),
        (("spec", "detector", "image"), detector and detector.image),
    ):
        if image and "@sha256:" not in image:
            span = place.environment.span(*at)
            yield diagnostic("MW209", span, "the image has no digest", f"end it with @sha256:…, {hint}")


_PINNED = re.compile(r"@sha256:[0-9a-f]{64}$")


def _weights(place: Place, _: Catalog) -> Iterator[Diagnostic]:
    """A pod sees no files of the machine that it runs on: that takes a hostPath, which is never emitted."""
    if place.environment.spec.spec.cluster is None:
        return
    for model in place.models.values():
        uri = model.spec.spec.artifact.uri
        if uri.startswith("file:"):
            text = f'the pods of "{place.name}" cannot read {uri}'
            hint = "name an image (oci://) or a store (s3://, gs://, https://), perhaps in its overlay"
            yield diagnostic("MW408", model.span("spec", "artifact", "uri"), text, hint)


def _windows(place: Place, _: Catalog) -> Iterator[Diagnostic]:
    monitoring = place.environment.spec.spec.monitoring
    keeps = (monitoring.retention, f'what Prometheus keeps in "{place.name}"')
    yield from _scrapes(place)
    for alert in place.alerts.values():
        spec = alert.spec.spec
        if spec.objectives.availability or spec.objectives.latency:
            yield from _fits(alert, ("spec", "period"), spec.period, *keeps)
        for at, threshold in _thresholds(alert.spec):
            for name, value in (("window", threshold.window), ("for", threshold.for_)):
                yield from _fits(alert, (*at, name), value, spec.period, "the alert's period")
                yield from _fits(alert, (*at, name), value, *keeps)
            if milliseconds(threshold.window) < _SAMPLES * milliseconds(monitoring.scrape_interval):
                text = (
                    f'a window of {threshold.window} holds fewer than {_SAMPLES} samples in "{place.name}", '
                    f"one every {monitoring.scrape_interval}"
                )
                yield diagnostic("MW210", alert.span(*at, "window"), text, "widen it; 5m will do")
        if spec.absence is not None:
            yield from _fits(alert, ("spec", "absence", "for"), spec.absence.for_, *keeps)


_SAMPLES = 4  # a rate needs two, and one scrape in a window may fail or come late
_RATE_WINDOW = "5m"  # of the rules and gates that no spec gives a window


def _scrapes(place: Place) -> Iterator[Diagnostic]:
    interval = place.environment.spec.spec.monitoring.scrape_interval
    if _SAMPLES * milliseconds(interval) > milliseconds(_RATE_WINDOW):
        text = f"with a sample every {interval} a rate over {_RATE_WINDOW} is mostly empty"
        span = place.environment.span("spec", "monitoring", "scrapeInterval")
        yield diagnostic("MW210", span, text, "scrape at least every 75s; alerts and gates depend on it")


def _fits(
    alert: Resolved[Alert], at: tuple[str, ...], window: str, limit: str, what: str
) -> Iterator[Diagnostic]:
    if milliseconds(window) > milliseconds(limit):
        text = f"{window} is longer than {what} ({limit})"
        hint = "shorten it, leave it out in this environment's overlay, or raise the limit"
        yield diagnostic("MW210", alert.span(*at), text, hint)


def _thresholds(alert: Alert) -> Iterator[tuple[tuple[str, ...], Threshold]]:
    limits = alert.spec.thresholds
    named: tuple[tuple[str, Threshold | None], ...] = (
        ("latency", limits.latency),
        ("queueTime", limits.queue_time),
        ("errorRatio", limits.error_ratio),
        ("memory", limits.memory),
        ("gpuUtilization", limits.gpu_utilization),
        ("gpuMemory", limits.gpu_memory),
        ("throughput", limits.throughput),
    )
    for name, threshold in named:
        if threshold is not None:
            yield ("spec", "thresholds", name), threshold


def _objectives(place: Place, _: Catalog) -> Iterator[Diagnostic]:
    """Two objectives of one kind on one model would record the same series twice."""
    first: dict[tuple[str, str], Resolved[Alert]] = {}
    for alert in place.alerts.values():
        objectives = alert.spec.spec.objectives
        for kind, objective in (("availability", objectives.availability), ("latency", objectives.latency)):
            for model in watched_by(alert.spec, place.models) if objective else ():
                other = first.setdefault((model.key, kind), alert)
                if other is not alert:
                    at = ("spec", "objectives", kind)
                    text = f'"{other.key}" already holds the objective {kind} of "{model.key}"'
                    related = ((other.key_span(*at), "it is here"),)
                    yield diagnostic("MW211", alert.key_span(*at), text, "keep one of the two", related)


def _alerts(place: Place, found: Catalog) -> Iterator[Diagnostic]:
    for alert in place.alerts.values():
        spec = alert.spec.spec
        if (spec.target.model is None) == (not spec.target.labels):
            text = "an alert names either a model or labels"
            yield diagnostic(
                "MW213", alert.key_span("spec", "target"), text, "keep one of target.model and target.labels"
            )
        elif spec.target.model is not None:
            key = in_team(spec.target.model, alert.spec.metadata.team)
            if found.unknown("Model", key):
                names = [
                    other for other in found.of("Model") if other.partition("/")[0] == key.partition("/")[0]
                ]
                hint = did_you_mean(key, names, _known("models of the team", names))
                yield diagnostic(
                    "MW202", alert.span("spec", "target", "model"), f'there is no model "{key}"', hint
                )
        elif found.complete and not found.broken and not _anyone_has(alert.spec, found):
            labels = ", ".join(f"{name}={value}" for name, value in sorted(spec.target.labels.items()))
            text = f'no model of team "{alert.spec.metadata.team}" has the labels {labels}'
            yield diagnostic("MW213", alert.span("spec", "target", "labels"), text, "give a model the labels")
        whole = found.complete and not found.broken and not place.broken
        if whole and place.name in spec.targets and not watched_by(alert.spec, place.models):
            i = spec.targets.index(place.name)
            text = f'none of the models that it watches is for "{place.name}"'
            yield diagnostic("MW213", alert.span("spec", "targets", i), text, "leave the environment out")
        objectives = spec.objectives.availability or spec.objectives.latency
        if not (objectives or spec.absence or spec.patterns or [*_thresholds(alert.spec)]):
            text = f'the alert says nothing in "{place.name}"'
            hint = (
                "add objectives, thresholds, patterns or absence, or leave the environment out of its targets"
            )
            yield diagnostic("MW213", alert.key_span("spec"), text, hint)


def _anyone_has(alert: Alert, found: Catalog) -> bool:
    wanted = alert.spec.target.labels.items()
    for key in found.of("Model"):
        metadata = found.documents["Model", key].value["metadata"]
        if metadata["team"] == alert.metadata.team and wanted <= metadata.get("labels", {}).items():
            return True
    return False


def _limits(place: Place, _: Catalog) -> Iterator[Diagnostic]:
    for model in place.models.values():
        serving = model.spec.spec.serving
        batching, scaling, concurrency = serving.batching, serving.scaling, serving.concurrency
        at = ("spec", "serving")
        if scaling.max_replicas is not None and scaling.max_replicas < scaling.min_replicas:
            text = f"maxReplicas {scaling.max_replicas} is below minReplicas {scaling.min_replicas}"
            yield diagnostic("MW212", model.span(*at, "scaling", "maxReplicas"), text)
        for i, rows in enumerate(batching.preferred_rows):
            if rows > batching.max_rows:
                text = f"a batch of {rows} is above maxRows {batching.max_rows}"
                yield diagnostic("MW212", model.span(*at, "batching", "preferredRows", i), text, _ROWS_HINT)
        for i, rows in enumerate(serving.warm_up.rows):
            if rows > batching.max_rows:
                text = f"a warm-up of {rows} rows is above maxRows {batching.max_rows}"
                yield diagnostic("MW212", model.span(*at, "warmUp", "rows", i), text, _ROWS_HINT)
        if concurrency.queue_rows < batching.max_rows:
            text = f"a queue of {concurrency.queue_rows} rows never fills a batch of {batching.max_rows}"
            yield diagnostic("MW212", model.span(*at, "concurrency", "queueRows"), text)
        if milliseconds(batching.max_delay) >= milliseconds(serving.timeouts.queue):
            text = f"maxDelay {batching.max_delay} is not below the queue's timeout {serving.timeouts.queue}"
            yield diagnostic("MW212", model.span(*at, "batching", "maxDelay"), text)
        yield from _rows(model)
        if not serving.protocols.rest and not serving.protocols.grpc:
            text = "nobody can call a model without REST and without gRPC"
            yield diagnostic("MW212", model.key_span(*at, "protocols"), text, "switch one of them on")
        yield from _too_long(model, serving)
        resource = place.resources.get(serving.resource)
        if resource is not None and amount(serving.cache.size) >= amount(resource.spec.spec.memory):
            text = f"a cache of {serving.cache.size} does not fit in {resource.spec.spec.memory} of memory"
            yield diagnostic("MW212", model.span(*at, "cache", "size"), text)


def _rows(model: Resolved[Model]) -> Iterator[Diagnostic]:
    """What is said of rows must hold for the tensors and for the batching."""
    interface, batching = model.spec.spec.interface, model.spec.spec.serving.batching
    word = (interface.rows or "").lower()
    if word in ("none", "first") and interface.rows != word:
        text = f'rows is the name of a dimension, "{interface.rows}"'
        yield diagnostic("MW222", model.span("spec", "interface", "rows"), text, f"did you mean {word}?")
    if interface.rows == "none":
        if batching.max_rows > 1:
            text = f"batches of {batching.max_rows} rows of a model whose rows are none"
            hint = "leave batching.maxRows out, or declare interface.rows: first"
            yield diagnostic("MW222", model.span("spec", "serving", "batching", "maxRows"), text, hint)
        return
    for side, tensors in (("inputs", interface.inputs), ("outputs", interface.outputs)):
        for name, tensor in tensors.items():
            if interface.rows is not None and tensor.shape[0] != -1:
                text = (
                    f"rows is {interface.rows}, but the first dimension of {name} is always {tensor.shape[0]}"
                )
                at = ("spec", "interface", side, name, "shape", 0)
                yield diagnostic("MW222", model.span(*at), text, "write -1 for it, or rows: none")


_ROWS_HINT = "raise batching.maxRows, or lower it"
_LONGEST = {"startup": "6h", "queue": "10m", "drain": "1h", "pause": "30d", "probation": "1d", "ttl": "30d"}
_LINEAGE_BYTES = 65536  # it becomes an annotation, and Kubernetes takes 262,144 bytes of those in all


def _too_long(model: Resolved[Model], serving: Serving) -> Iterator[Diagnostic]:
    """Times beyond what Kubernetes' fields hold or anybody means, and a lineage that is a data set."""
    at = ("spec", "serving")
    timeouts, standby = serving.timeouts, serving.standby
    times: list[tuple[tuple[str | int, ...], str]] = [
        ((*at, "timeouts", "startup"), timeouts.startup),
        ((*at, "timeouts", "queue"), timeouts.queue),
        ((*at, "timeouts", "drain"), timeouts.drain),
        ((*at, "cache", "ttl"), serving.cache.ttl),
    ]
    times += [((*at, "standby", "probation"), standby.probation)] if standby else []
    steps = model.spec.spec.rollout.steps
    times += [(("spec", "rollout", "steps", i, "pause"), step.pause) for i, step in enumerate(steps)]
    for place, value in times:
        most = _LONGEST[str(place[-1])]
        if milliseconds(value) > milliseconds(most):
            yield diagnostic("MW212", model.span(*place), f"{value} is longer than {most}", f"at most {most}")
    size = len(msgspec.json.encode(model.spec.spec.lineage))
    if size > _LINEAGE_BYTES:
        text = f"the lineage has {size} bytes, more than {_LINEAGE_BYTES}"
        yield diagnostic("MW212", model.key_span("spec", "lineage"), text, "name a file that holds the rest")


def _addresses(place: Place, _: Catalog) -> Iterator[Diagnostic]:
    spec = place.environment.spec.spec
    if spec.cluster is None:
        return
    if spec.cluster.add_ons.gateway_api and spec.gateway is None:
        span = place.environment.key_span("spec", "cluster", "addOns", "gatewayAPI")
        text = f'"{place.name}" has the Gateway API but names no Gateway'
        yield diagnostic("MW214", span, text, "add gateway: {name: …, namespace: …, domain: …}")
    for i, cidr in enumerate(spec.artifact_store.cidrs):
        if cidr != "0.0.0.0/0" and (wrong := _no_network(cidr)):
            span = place.environment.span("spec", "artifactStore", "cidrs", i)
            yield diagnostic(
                "MW108", span, f"{cidr} is not a range of addresses: {wrong}", "write 10.0.0.0/8, say"
            )
    if spec.images is None:
        text = f'"{place.name}" has a cluster but no image of the server'
        yield diagnostic(
            "MW214", place.environment.key_span("spec", "cluster"), text, "add images: {server: …@sha256:…}"
        )


def _no_network(cidr: str) -> str:
    """Why the text is no network, or ''."""
    import ipaddress

    try:
        ipaddress.ip_network(cidr)
    except ValueError as error:
        return str(error)
    return ""


def _known(what: str, names: Iterable[str]) -> str:
    listed = sorted(names)
    return (
        f"the {what} are {', '.join(listed[:10])}{' …' if len(listed) > 10 else ''}"
        if listed
        else f"there are no {what}"
    )


CHECKS: tuple[Check, ...] = (
    _addresses,
    _resources,
    _standbys,
    naming.hostnames,
    _rollouts,
    _gpus,
    _digests,
    _weights,
    _windows,
    _objectives,
    _alerts,
    _limits,
    *watching.CHECKS,
)
