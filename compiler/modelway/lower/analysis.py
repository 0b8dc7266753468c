"""What a release is judged by: AnalysisTemplates of Argo Rollouts that cannot pass without evidence.

Facts about Rollouts that shape what is written here (argo-rollouts 1.9.1, ``analysis/analysis.go``,
``utils/analysis/factory.go``, ``utils/evaluate``):

- With only one of the two conditions NaN or an empty result passes or errs; with both guarded it is
  Inconclusive.
- ``failureLimit`` and ``inconclusiveLimit`` count over the whole run. Neither may be negative in a metric
  without ``consecutiveSuccessLimit``, so "no limit" is a number that is never reached.
- A metric that reaches ``count`` without a failure is Successful unless ``consecutiveSuccessLimit`` demands
  successes. A background run that ends early is Successful whatever it saw, so every step also has an inline
  run that blocks it.
- A provider that does not answer is an Error, and no condition is asked. It is tried again after ten seconds,
  and more than ``consecutiveErrorLimit`` in a row abort the release. Nothing turns them into a pause; but a
  step whose run goes on keeps its weight, and ``progressDeadlineSeconds`` waits (``isIndefiniteStep``).
"""

from __future__ import annotations

from collections.abc import Iterator

from modelway.diagnostics import Diagnostic, diagnostic
from modelway.lower import names
from modelway.lower.forms import choose
from modelway.lower.gate import gate_request, gate_token
from modelway.lower.objects import Json, KubeObject
from modelway.lower.prometheus import arguments, provider
from modelway.lower.promql import duration, number, rate_window, seconds
from modelway.lower.workload import Workload
from modelway.resolve import Place, deployed
from modelway.spec.common import milliseconds
from modelway.watching import judged_patterns

_MINUTE = 60_000
NO_LIMIT = 2**31 - 1
"""Rollouts counts in 32 bits: no count is larger."""
SUCCESSES = 5
"""So many good looks in a row, a minute apart, open a gate."""
INCONCLUSIVES = 3
"""One look more without evidence pauses at a gate. A watch has no such limit: it may last for days, and a
gate decides at its end."""
GATE_WINDOW, WATCH_WINDOW = 5 * _MINUTE, 2 * _MINUTE
"""What rates are taken over. A watch decides by many windows, so its own are short: it is to abort soon."""
SAME_VERDICTS = 2
"""The detector's verdict is of all that it has seen, so two alike say what five looks at a rate do, and each
way: the second success opens the gate, the second failure closes it."""
STABLE_PODS = 3
"""So many stable pods the detector needs to know how far pods differ by themselves (decision 23)."""
DETECTOR_LOOKS = 10
"""That it has seen too little is its usual answer at first; what is still open after so many looks pauses."""
_HASH = "{{args.canary-hash}}"
_STABLE_HASH = "{{args.stable-hash}}"


def gated(workload: Workload) -> bool:
    return workload.spec.rollout.gates.given


def asks_detector(workload: Workload) -> bool:
    """Only of a canary: what a preview does without traffic proves nothing."""
    return workload.forms.strategy == "canary" and gated(workload) and bool(workload.judged)


def few_pods(place: Place) -> Iterator[Diagnostic]:
    """Each canary that asks the detector and has too few stable pods for an answer (``too_few_pods``)."""
    judged = judged_patterns(place)
    for one in deployed(place):
        spec, key = one.model.spec.spec, one.model.key
        asks = one.primary is None and bool(judged.get(key)) and spec.rollout.gates.given
        least = spec.serving.scaling.min_replicas
        if not asks or least >= STABLE_PODS or choose(one, place.environment).strategy != "canary":
            continue
        text = (
            f'a canary of "{key}" in "{place.name}" has {least} stable {"pod" if least == 1 else "pods"} '
            f"beside it: the detector needs {STABLE_PODS}, so each step pauses until a person promotes it"
        )
        hint = f"set spec.serving.scaling.minReplicas: {STABLE_PODS}, or give the model no patterns"
        yield diagnostic("MW416", one.model.span("spec", "serving", "scaling"), text, hint)


def gate_name(workload: Workload) -> str:
    return f"{workload.name}-gate"


def detector_name(workload: Workload) -> str:
    return f"{workload.name}-{names.DETECTOR}"


def watch_name(workload: Workload) -> str:
    return f"{workload.name}-watch"


def templates(workload: Workload) -> list[KubeObject]:
    """The gate of each step, and for a canary the watch that aborts between gates."""
    if not gated(workload):
        return []
    objects = [_gate_template(workload)]
    if workload.forms.strategy == "canary":
        objects.append(_watch_template(workload))
    if asks_detector(workload):
        objects.append(_detector_template(workload))
    return objects


def spoiled(window_ms: int, scrape_ms: int) -> int:
    """Looks, a minute apart, that one bad minute can spoil: it stays in the window, and is scraped late."""
    return (window_ms + _MINUTE + scrape_ms) // _MINUTE + 1


def _gate_template(workload: Workload) -> KubeObject:
    """Five good looks in a row open the gate. One bad minute alone does not close it, a second one does."""
    scrape = milliseconds(workload.place.monitoring.scrape_interval)
    window = rate_window(scrape, GATE_WINDOW)
    failures = spoiled(window, scrape)
    limits = {
        "count": failures + SUCCESSES + INCONCLUSIVES,
        "consecutiveSuccessLimit": SUCCESSES,
        "failureLimit": failures,
        "inconclusiveLimit": INCONCLUSIVES,
    }
    metrics = [
        _metric(workload, name, query, f"<= {limit}", f"> {limit}", limits)
        for name, limit, query in _queries(workload, window)
    ]
    return _template(workload, gate_name(workload), metrics)


def _watch_template(workload: Workload) -> KubeObject:
    """It aborts where the limit was broken for longer than one bad minute can tell, in a window of its own,
    so the first failure decides and old ones are forgotten. There is no count: it looks until the steps end.
    """
    scrape = milliseconds(workload.place.monitoring.scrape_interval)
    window = rate_window(scrape, WATCH_WINDOW)
    bad = spoiled(window, scrape) + 1
    looked_at = duration((bad + 1) * _MINUTE)  # one look may be missing
    limits = {"failureLimit": 0, "inconclusiveLimit": NO_LIMIT}
    metrics = [
        _metric(
            workload,
            name,
            # How often the limit was broken, looking back once a minute. NaN is neither.
            f"sum_over_time((({query}) >= 0 > bool {limit})[{looked_at}:1m])",
            f"< {bad}",
            f">= {bad}",
            limits,
        )
        for name, limit, query in _queries(workload, window)
    ]
    return _template(workload, watch_name(workload), metrics)


def _metric(workload: Workload, name: str, query: str, good: str, bad: str, limits: Json) -> Json:
    return {
        "name": name,
        "interval": "60s",
        **limits,
        "consecutiveErrorLimit": NO_LIMIT,
        "successCondition": f"len(result) > 0 && !isNaN(result[0]) && result[0] {good}",
        "failureCondition": f"len(result) > 0 && !isNaN(result[0]) && result[0] {bad}",
        "provider": provider(workload.place.monitoring, query),
    }


def _template(workload: Workload, name: str, metrics: list[Json]) -> KubeObject:
    value = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AnalysisTemplate",
        "metadata": workload.meta(name, names.WAVE_RULES),
        "spec": {
            "args": [{"name": "canary-hash"}, *arguments(workload.place.monitoring)],
            "metrics": metrics,
        },
    }
    return KubeObject(workload.folder, value, workload.origin)


def _queries(workload: Workload, window_ms: int) -> list[tuple[str, str, str]]:
    """(metric, limit, PromQL): one number for the new pods, and nothing while they get too few requests."""
    gates = workload.spec.rollout.gates
    pods = (
        f'namespace="{workload.namespace}",model="{workload.model.metadata.name}",'
        f'rollouts_pod_template_hash="{_HASH}"'
    )
    window, least = duration(window_ms), number(gates.min_rate)
    rate = f"sum(rate({names.REQUESTS}{{{pods}}}[{window}]))"
    queries = []
    if gates.error_ratio:
        bad = f'sum(rate({names.REQUESTS}{{{pods},code=~"{names.BAD_CODES}"}}[{window}]))'
        ratio = f"({bad} or vector(0)) / ({rate} > {least})"
        queries.append(("error-ratio", number(gates.error_ratio.max), ratio))
    for name, gate, metric in (
        ("latency", gates.latency, names.DURATION),
        ("queue-time", gates.queue_time, names.QUEUE_DURATION),
    ):
        if gate:
            buckets = f"sum by (le) (rate({metric}_bucket{{{pods}}}[{window}]))"
            query = f"histogram_quantile({number(gate.quantile)}, {buckets}) and on () ({rate} > {least})"
            queries.append((name, seconds(milliseconds(gate.max)), query))
    return queries


def _detector_template(workload: Workload) -> KubeObject:
    """Asks the detector about the canary beside the stable pods (``docs/contract.md``, The gate).

    Only the words success and failure decide; anything else, and an answer without ``outcome`` above all, is
    no evidence. Argo knows no field that says when a release began: the detector sees it in the series.
    """
    detector = workload.place.detector
    assert detector, "judged: there is a detector"
    assert detector.gate, "judged: there is a gate"
    environment = workload.environment.metadata.name
    metric = {
        "name": names.DETECTOR,
        "interval": "60s",
        "count": DETECTOR_LOOKS,
        "consecutiveSuccessLimit": SAME_VERDICTS,
        "failureLimit": SAME_VERDICTS - 1,
        "inconclusiveLimit": DETECTOR_LOOKS,
        "consecutiveErrorLimit": NO_LIMIT,
        "successCondition": 'result == "success"',
        "failureCondition": 'result == "failure"',
        "provider": {
            "web": {
                **gate_request(environment, "POST", "/v1/gate"),
                "jsonBody": {
                    "environment": environment,
                    "namespace": workload.namespace,
                    "model": workload.model.metadata.name,
                    "canary_hash": _HASH,
                    "stable_hash": _STABLE_HASH,
                    "metrics": list(workload.judged),
                },
                "jsonPath": "{$.outcome}",
            }
        },
    }
    args: list[Json] = [{"name": "canary-hash"}, {"name": "stable-hash"}, gate_token(detector.gate)]
    value = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AnalysisTemplate",
        "metadata": workload.meta(detector_name(workload), names.WAVE_RULES),
        "spec": {"args": args, "metrics": [metric]},
    }
    return KubeObject(workload.folder, value, workload.origin)
