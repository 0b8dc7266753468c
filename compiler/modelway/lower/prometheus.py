"""How those who read from Prometheus are let in: tenant, token and TLS of ``monitoring``, as each takes them.

| reader | tenant | token | CA | certificate |
|---|---|---|---|---|
| Argo Rollouts | header | header, by an argument | its own trust alone | none |
| KEDA | customHeaders | bearer | beside a token or certificate | tls |
| the detector | settings | file | file | files |

Read in Argo Rollouts 1.9.1 (``metricproviders/prometheus``) and KEDA 2.20.2 (``prometheus_scaler.go`` and
``authentication`` in ``pkg/scalers``). The metrics adapter and Grafana are not configured here. A Secret is
named, never held: Rollouts and KEDA read it in the namespace of the team, the detector in its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelway.diagnostics import Diagnostic, diagnostic
from modelway.lower.forms import choose
from modelway.lower.gate import SMOKE_ERRORS, run_once
from modelway.lower.objects import Json, KubeObject
from modelway.resolve import Place, deployed
from modelway.spec.environment import Monitoring

_TOKEN = "prometheus-token"  # noqa: S105 the name of an argument


def provider(monitoring: Monitoring, query: str) -> Json:
    """The ``prometheus`` provider of an analysis; it needs the arguments of ``arguments``."""
    headers = []
    if monitoring.tenant:
        headers.append({"key": monitoring.tenant.header, "value": monitoring.tenant.value})
    if monitoring.token_secret:
        headers.append({"key": "Authorization", "value": f"Bearer {{{{args.{_TOKEN}}}}}"})
    asked: Json = {"address": monitoring.prometheus, "query": query}
    return {"prometheus": {**asked, "headers": headers} if headers else asked}


def arguments(monitoring: Monitoring) -> list[Json]:
    if not monitoring.token_secret:
        return []
    secret = {"name": monitoring.token_secret, "key": "token"}
    return [{"name": _TOKEN, "valueFrom": {"secretKeyRef": secret}}]


def smoke(place: Place, team: str) -> KubeObject:
    """A run that asks Prometheus for nothing, as the team's gates will: Secret, token and network in one."""
    monitoring = place.environment.spec.spec.monitoring
    metric = {
        "name": "prometheus",
        "count": 1,
        "consecutiveErrorLimit": SMOKE_ERRORS,
        "successCondition": "len(result) >= 0",
        "provider": provider(monitoring, "vector(1)"),
    }
    return run_once(place, team, "prometheus", {"args": arguments(monitoring), "metrics": [metric]})


def trigger(monitoring: Monitoring) -> Json:
    """What the metadata of KEDA's trigger say of it. ``customHeaders`` is split at commas and equals signs,
    so the schema allows a tenant neither."""
    metadata: Json = {"serverAddress": monitoring.prometheus}
    if modes := _modes(monitoring):
        metadata["authModes"] = ",".join(modes)
    if monitoring.tenant:
        metadata["customHeaders"] = f"{monitoring.tenant.header}={monitoring.tenant.value}"
    return metadata


def trigger_secrets(monitoring: Monitoring) -> list[Json]:
    """``secretTargetRef`` of a TriggerAuthentication; empty where KEDA needs none."""
    tls = monitoring.tls
    modes = _modes(monitoring)
    secrets = [("bearerToken", monitoring.token_secret, "token")] if "bearer" in modes else []
    if tls and modes:
        secrets.append(("ca", tls.secret, "ca.crt"))
    if tls and "tls" in modes:
        secrets += [("cert", tls.secret, "tls.crt"), ("key", tls.secret, "tls.key")]
    return [{"parameter": parameter, "name": name, "key": key} for parameter, name, key in secrets]


def _modes(monitoring: Monitoring) -> list[str]:
    modes = ["bearer"] if monitoring.token_secret else []
    return [*modes, "tls"] if monitoring.tls and monitoring.tls.certificate else modes


def cannot_pass(place: Place) -> Iterator[Diagnostic]:
    """What a reader of this environment has no field for."""
    environment = place.environment
    monitoring = environment.spec.spec.monitoring
    if monitoring.tls is None or environment.spec.spec.cluster is None:
        return
    forms = [(one, choose(one, environment)) for one in deployed(place)]
    gated = [
        one.name
        for one, form in forms
        if form.strategy != "rolling" and one.model.spec.spec.rollout.gates.given
    ]
    scaled = [one.name for one, form in forms if form.scaler == "keda"]
    at = ("spec", "monitoring", "tls")
    if gated and monitoring.tls.certificate:
        text = f'Argo Rollouts cannot show Prometheus a certificate: the gates of "{gated[0]}" get no answer'
        hint = "give an address that asks for a token instead, or leave out gates in this environment"
        yield diagnostic("MW227", environment.span(*at, "certificate"), text, hint)
    elif gated:
        text = f'Argo Rollouts takes no CA from a Secret, and the gates of "{gated[0]}" need it'
        hint = "mount the CA into the pods of Argo Rollouts, and name its folder in SSL_CERT_DIR"
        yield diagnostic("MW415", environment.key_span(*at), text, hint)
    if scaled and not _modes(monitoring):
        text = (
            f'KEDA reads a CA only beside a token or a certificate, and the scaler of "{scaled[0]}" needs it'
        )
        hint = "mount the CA into the pods of KEDA, below /custom/ca"
        yield diagnostic("MW415", environment.key_span(*at), text, hint)
