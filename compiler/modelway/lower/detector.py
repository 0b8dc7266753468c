"""The detector of an environment: its settings, and what runs it where there is a cluster.

It lies in a namespace of its own, ``modelway-<environment>``, because it belongs to no team; its folder is
``_platform/modelway``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

from modelway.lower import detector_access, detector_rules, names
from modelway.lower.forms import choose
from modelway.lower.objects import Json, KubeObject, Output, PlainFile, json_text, metadata
from modelway.lower.platform import KEEP, namespace
from modelway.lower.scraping import workload_label
from modelway.lower.serving import CONFINED, HOME, RESTRICTED, TMP_MOUNT, container_port, scraped
from modelway.naming import DETECTOR_TEAM
from modelway.resolve import Place
from modelway.spec.alert import Pattern
from modelway.spec.common import canonical, milliseconds
from modelway.spec.detector import ArgoCd, Detector, Publish
from modelway.watching import NEVER, TIMES, WatchedModel, watched_models

FOLDER = f"{names.PLATFORM}/{DETECTOR_TEAM}"
_HISTORY = "14d"  # what the null of a comparison is made of; more tells of a model that is no more
_TIMEOUT_S = 10
_GATE = "gate"
_METRICS = {
    "queueTime": "queue_time", "computeTime": "compute_time", "errorRatio": "error_ratio",
    "gpuMemory": "gpu_memory", "gpuUtilization": "gpu_utilization", "outputValue": "output_value",
}  # fmt: skip
_WORSE = {"throughput": "down", "outputValue": "both"}
_EFFECTS = {"errorRatio": 0.2, "outputValue": 0.2}


def detector(place: Place) -> Iterator[Output]:
    """Nothing where no detector is wanted, or nothing is watched."""
    environment = place.environment.spec.spec
    found, wanted = environment.detector, watched_models(place)
    if found is None or not wanted:
        return
    text = json_text(settings(place, found, wanted))
    origin = f"Environment {place.name}"
    cluster = environment.cluster
    if cluster is None:
        yield PlainFile(f"{names.PLATFORM}/detector-settings.json", text.encode(), origin)
        return
    one = DetectorObjects(place, found, wanted)
    yield from namespace(place, DETECTOR_TEAM, one.labels, cluster.kubernetes)
    yield from one.objects(text)


def settings(place: Place, found: Detector, wanted: list[WatchedModel]) -> Json:
    """``policies/schemas/detector-settings-v1.json``, in the schema's order."""
    monitoring = place.environment.spec.spec.monitoring
    local = place.environment.spec.spec.cluster is None
    folder = names.SETTINGS_FOLDER if local else names.SECRETS_FOLDER
    tls, tenant = monitoring.tls, monitoring.tenant
    shown = tls is not None and tls.certificate
    memory = f"/var/tmp/modelway-{place.name}" if local else names.MEMORY_FOLDER  # noqa: S108 a path of theirs
    return {
        "schema": 1,
        "environment": place.name,
        "prometheus": {
            "url": monitoring.prometheus,
            "timeout_s": _TIMEOUT_S,
            "history_s": _seconds(min(monitoring.retention, _HISTORY, key=milliseconds)),
            "scrape_interval_s": _seconds(monitoring.scrape_interval),
            "token_file": f"{folder}/prometheus/token" if monitoring.token_secret else None,
            "tls": {
                "ca_file": f"{folder}/prometheus/ca.crt",
                "certificate_file": f"{folder}/prometheus/tls.crt" if shown else None,
                "key_file": f"{folder}/prometheus/tls.key" if shown else None,
            }
            if tls
            else None,
            "tenant": {"header": tenant.header, "value": tenant.value} if tenant else None,
        },
        "schedule": None if found.schedule == NEVER else found.schedule,
        "watched": [_watched(one, place) for one in wanted],
        "gate": {
            "port": names.GATE_PORT,
            "token_files": {
                names.namespace(team, place.name): f"{folder}/{_GATE}/{team}" for team in _teams(wanted)
            },
            "public_url": found.gate.public_url,
        }
        if found.gate
        else None,
        "publish": _publish(found.publish, folder) if found.publish else None,
        "argocd": _argocd(found.argocd, folder) if found.argocd else None,
        "memory_file": f"{memory}/detector.sqlite",
        "metrics": {"port": names.METRICS_PORT},
    }


def _teams(wanted: list[WatchedModel]) -> list[str]:
    return sorted({one.model.spec.metadata.team for one in wanted})


def _watched(one: WatchedModel, place: Place) -> Json:
    deployment, model = one.deployment, one.model.spec
    kind = None
    if place.environment.spec.spec.cluster is not None:
        kind = "Deployment" if choose(deployment, place.environment).strategy == "rolling" else "Rollout"
    return {
        "namespace": names.namespace(model.metadata.team, place.name),
        "team": model.metadata.team,
        "model": model.metadata.name,
        "job": deployment.name,
        "workload": kind,
        "standby": deployment.standby.spec.metadata.name if deployment.standby else None,
        "patterns": {name: _pattern(pattern) for name, pattern in one.patterns.items()},
        "severity": one.severity,
        "response": list(one.response),
    }


def _pattern(pattern: Pattern) -> Json:
    metric = pattern.metric
    quantile = pattern.quantile if pattern.quantile is not None else 0.99
    effect = pattern.minimum_effect if pattern.minimum_effect is not None else _EFFECTS.get(metric, 0.05)
    return {
        "metric": _METRICS.get(metric, metric),
        "quantile": quantile if metric in TIMES else None,
        "worse": pattern.worse or _WORSE.get(metric, "up"),
        "minimum_effect": effect,
        "window_s": _seconds(pattern.window),
        "sensitivity": pattern.sensitivity,
    }


def _publish(publish: Publish, folder: str) -> Json:
    app = publish.app
    return {
        "api_url": publish.api_url,
        "repository": publish.repository,
        "branch": publish.branch,
        "folder": publish.folder,
        "comment": publish.comment,
        "token_file": None if app else f"{folder}/forge/token",
        "app": {
            "id": app.id,
            "installation_id": app.installation_id,
            "private_key_file": f"{folder}/forge/app.pem",
        }
        if app
        else None,
    }


def _argocd(argocd: ArgoCd, folder: str) -> Json:
    return {
        "url": argocd.url,
        "application": argocd.application,
        "token_file": f"{folder}/argocd/token",
    }


def _seconds(duration: str) -> float | int:
    whole, rest = divmod(milliseconds(duration), 1000)
    return milliseconds(duration) / 1000 if rest else whole


class DetectorObjects:
    """The objects of the detector in a cluster."""

    def __init__(self, place: Place, found: Detector, wanted: list[WatchedModel]) -> None:
        self._place = place
        self._spec = place.environment.spec.spec
        self._detector = found
        self._wanted = wanted
        self._origin = f"Environment {place.name}"
        self._namespace = names.namespace(DETECTOR_TEAM, place.name)
        self._selector = {names.NAME: names.DETECTOR}
        self.labels = {
            **place.environment.spec.metadata.labels,
            **self._selector,
            names.COMPONENT: names.DETECTOR,
            names.MANAGED_BY: "modelway",
            names.TEAM: DETECTOR_TEAM,
            names.ENVIRONMENT: place.name,
        }

    def objects(self, settings_text: str) -> Iterator[KubeObject]:
        digest = hashlib.sha256(settings_text.encode()).hexdigest()[:10]
        settings_name = f"{names.DETECTOR}-settings-{digest}"
        restarted = [one for one in self._wanted if "restart" in one.response]
        add_ons = self._spec.cluster.add_ons if self._spec.cluster else None
        yield self._object("v1", "ServiceAccount", names.WAVE_CONFIG, {"automountServiceAccountToken": False})
        yield from detector_access.roles(restarted, self._place, self._namespace, self.labels, self._origin)
        data = {"immutable": True, "data": {names.SETTINGS_FILE: settings_text}}
        yield self._object("v1", "ConfigMap", names.WAVE_CONFIG, data, settings_name)
        yield self._claim()
        policy = detector_access.policy(self._spec, self._detector, self._selector, restarts=bool(restarted))
        yield self._object("networking.k8s.io/v1", "NetworkPolicy", names.WAVE_CONFIG, {"spec": policy})
        if self._detector.gate:
            yield self._object("v1", "Service", names.WAVE_NETWORK, {"spec": self._service()})
        deployment = {"spec": self._deployment(settings_name, restarts=bool(restarted))}
        yield self._object("apps/v1", "Deployment", names.WAVE_WORKLOAD, deployment)
        if add_ons and add_ons.prometheus_operator:
            monitor = {"spec": self._pod_monitor()}
            yield self._object("monitoring.coreos.com/v1", "PodMonitor", names.WAVE_RULES, monitor)
        yield self._rules(operator=bool(add_ons and add_ons.prometheus_operator))

    def _object(
        self,
        version: str,
        kind: str,
        wave: str,
        body: Json,
        name: str = names.DETECTOR,
        annotations: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> KubeObject:
        all_labels = {**self.labels, **(labels or {})}
        meta = metadata(name, self._namespace, all_labels, self._origin, wave, annotations)
        return KubeObject(
            FOLDER, {"apiVersion": version, "kind": kind, "metadata": meta, **body}, self._origin
        )

    def _claim(self) -> KubeObject:
        """In its consumer's wave: where volumes bind on first use, it is not healthy before."""
        spec = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": canonical(self._detector.storage)}},
        }
        return self._object(
            "v1", "PersistentVolumeClaim", names.WAVE_WORKLOAD, {"spec": spec}, annotations=KEEP
        )

    def _service(self) -> Json:
        port = {"name": "gate", "port": names.GATE_PORT, "targetPort": "gate", "protocol": "TCP"}
        return {"type": "ClusterIP", "selector": self._selector, "ports": [port]}

    def _deployment(self, settings_name: str, *, restarts: bool) -> Json:
        """One at a time, which the volume asks for too: two would write every comment twice."""
        annotations = scraped(self._spec)
        meta: Json = {"labels": self.labels, **({"annotations": annotations} if annotations else {})}
        return {
            "replicas": 1,
            "revisionHistoryLimit": 5,
            "selector": {"matchLabels": self._selector},
            "strategy": {"type": "Recreate"},
            "template": {"metadata": meta, "spec": self._pod(settings_name, restarts=restarts)},
        }

    def _pod(self, settings_name: str, *, restarts: bool) -> Json:
        secrets = self._secrets()
        volumes: list[Json] = [
            {"name": "settings", "configMap": {"name": settings_name}},
            {"name": "memory", "persistentVolumeClaim": {"claimName": names.DETECTOR}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
        ]
        mounts: list[Json] = [
            {"name": "settings", "mountPath": names.SETTINGS_FOLDER, "readOnly": True},
            {"name": "memory", "mountPath": names.MEMORY_FOLDER},
            TMP_MOUNT,
        ]
        if secrets:
            volumes.append({"name": "secrets", "projected": {"defaultMode": 0o440, "sources": secrets}})
            mounts.append({"name": "secrets", "mountPath": names.SECRETS_FOLDER, "readOnly": True})
        return {
            "serviceAccountName": names.DETECTOR,
            "automountServiceAccountToken": restarts,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 30,
            "securityContext": RESTRICTED,
            "containers": [self._container(mounts)],
            "volumes": volumes,
        }

    def _container(self, mounts: list[Json]) -> Json:
        images = self._spec.images
        assert images is not None, "consistency: a cluster has images"
        ports = [container_port("metrics", names.METRICS_PORT)]
        if self._detector.gate:
            ports.insert(0, container_port("gate", names.GATE_PORT))
        probe = {"httpGet": {"path": "/healthz", "port": "metrics"}, "timeoutSeconds": 2}
        return {
            "name": names.DETECTOR,
            "image": self._detector.image or images.server,
            "args": ["watch", "--settings", f"{names.SETTINGS_FOLDER}/{names.SETTINGS_FILE}"],
            "env": HOME,
            "ports": ports,
            "resources": {
                "requests": {"cpu": "250m", "memory": "512Mi", "ephemeral-storage": "1Gi"},
                "limits": {"memory": "1Gi", "ephemeral-storage": "1Gi"},
            },
            "startupProbe": {**probe, "periodSeconds": 5, "failureThreshold": 24},
            "readinessProbe": {**probe, "periodSeconds": 5, "failureThreshold": 2},
            "livenessProbe": {**probe, "periodSeconds": 10, "failureThreshold": 6},
            "securityContext": CONFINED,
            "volumeMounts": mounts,
        }

    def _secrets(self) -> list[Json]:
        """Sources of one volume: each Secret's keys in a folder of their own, and none that is not needed."""
        found, access = self._detector, self._spec.monitoring
        wanted: list[tuple[str, str | None, list[str]]] = [
            ("forge", found.publish.secret if found.publish else None, [_forge_key(found.publish)]),
            ("argocd", found.argocd.secret if found.argocd else None, ["token"]),
            ("prometheus", access.token_secret, ["token"]),
        ]
        if access.tls:
            shown = ["tls.crt", "tls.key"] if access.tls.certificate else []
            wanted.append(("prometheus", access.tls.secret, ["ca.crt", *shown]))
        sources = [_secret(name, folder, keys) for folder, name, keys in wanted if name]
        if found.gate:
            # Optional: the detector of all teams does not wait for the token of a new one.
            sources.insert(0, _secret(found.gate.secret, _GATE, _teams(self._wanted), optional=True))
        return sources

    def _pod_monitor(self) -> Json:
        interval = self._spec.monitoring.scrape_interval
        return {
            "jobLabel": names.NAME,
            "selector": {"matchLabels": self._selector},
            "podMetricsEndpoints": [{"port": "metrics", "path": "/metrics", "interval": interval}],
        }

    def _rules(self, *, operator: bool) -> KubeObject:
        groups = detector_rules.rule_groups(
            self._detector, self._wanted, self._place.name, workload_label(self._spec)
        )
        if operator:
            rules = {"spec": {"groups": groups}}
            return self._object("monitoring.coreos.com/v1", "PrometheusRule", names.WAVE_RULES, rules)
        text = detector_rules.text(groups)
        data = {"data": {f"{self._namespace}-{names.DETECTOR}.rules.yaml": text}}
        name, labels = f"{names.DETECTOR}-rules", {names.RULES: "1"}
        return self._object("v1", "ConfigMap", names.WAVE_RULES, data, name, labels=labels)


def _secret(name: str, folder: str, keys: list[str], *, optional: bool = False) -> Json:
    """A source of the volume of secrets: each key a file."""
    items = [{"key": key, "path": f"{folder}/{key}"} for key in keys]
    return {"secret": {"name": name, "items": items, **({"optional": True} if optional else {})}}


def _forge_key(publish: Publish | None) -> str:
    return "app.pem" if publish and publish.app else "token"
