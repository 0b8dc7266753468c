"""How Argo Rollouts asks the detector: its address, the caller's token, and a run that tries both.

Rollouts takes an argument from a Secret of the run's namespace before it measures (argo-rollouts 1.9.1,
``resolveArgs`` in ``analysis/analysis.go``): a Secret or key that is missing ends the run with an error at
once, whatever ``consecutiveErrorLimit`` says, and a release with it. So each team that asks gets a run that
does the same before its first release.
"""

from __future__ import annotations

import hashlib

from modelway.lower import names
from modelway.lower.objects import Json, KubeObject, json_text, metadata
from modelway.lower.platform import labels
from modelway.naming import DETECTOR_TEAM
from modelway.resolve import Place
from modelway.spec.detector import Gate

_TIMEOUT_S = 10  # the detector answers within five seconds
SMOKE_ERRORS = 90
"""A quarter of an hour at the ten seconds that Rollouts waits after each: time for the detector's image and
volume at the first install."""


def gate_request(environment: str, method: str, path: str) -> Json:
    """The ``web`` provider's request; it needs the argument of ``token``."""
    host = f"{names.DETECTOR}.{names.namespace(DETECTOR_TEAM, environment)}.svc"
    return {
        "method": method,
        "url": f"http://{host}:{names.GATE_PORT}{path}",
        "timeoutSeconds": _TIMEOUT_S,
        "headers": [
            {"key": "Authorization", "value": "Bearer {{args.token}}"},
            {"key": "Content-Type", "value": "application/json"},
        ],
    }


def gate_token(gate: Gate) -> Json:
    """The argument with the token of a team: its Secret lies in the team's namespace."""
    return {"name": "token", "valueFrom": {"secretKeyRef": {"name": gate.secret, "key": "token"}}}


def smoke_run(place: Place, gate: Gate, team: str) -> KubeObject:
    """An AnalysisRun that lists the team's verdicts: Secret, network, token and detector in one."""
    metric = {
        "name": names.DETECTOR,
        "count": 1,
        "consecutiveErrorLimit": SMOKE_ERRORS,
        "successCondition": "len(result) >= 0",
        "provider": {
            "web": {**gate_request(place.name, "GET", "/v1/verdicts?limit=1"), "jsonPath": "{$.verdicts}"}
        },
    }
    return run_once(place, team, f"{names.DETECTOR}-gate", {"args": [gate_token(gate)], "metrics": [metric]})


def run_once(place: Place, team: str, what: str, spec: Json) -> KubeObject:
    """An AnalysisRun of its own. It is over once: what it asks is in its name, so that another question is
    another run. It may last, so it has the last wave."""
    name = f"{what}-{hashlib.sha256(json_text(spec).encode()).hexdigest()[:10]}"
    origin = f"Environment {place.name}"
    space = names.namespace(team, place.name)
    value = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AnalysisRun",
        "metadata": metadata(name, space, labels(place, team), origin, names.WAVE_WORKLOAD),
        "spec": spec,
    }
    return KubeObject(f"{names.PLATFORM}/{team}", value, origin)
