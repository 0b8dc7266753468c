"""Fixed limits and absence as alerting rules."""

from __future__ import annotations

from collections.abc import Iterator

from modelway.lower import names
from modelway.lower.promql import number, quote, seconds
from modelway.lower.watched import WHO, Rule, Scope, Watched
from modelway.spec.alert import RateThreshold, RatioThreshold, Threshold, TimeThreshold
from modelway.spec.common import milliseconds

_BY = "sum by (namespace, model)"


def threshold_rules(scope: Scope) -> list[Rule]:
    """A rule for each limit of the spec; limits of pods and GPUs need one for each model."""
    limits = scope.spec.thresholds
    rules: list[Rule] = []
    if limits.latency is not None:
        rules.append(_time(scope, limits.latency, names.LATENCY_HIGH, names.DURATION, "latency", "Latency"))
    if limits.queue_time is not None:
        metric = names.QUEUE_DURATION
        rules.append(
            _time(scope, limits.queue_time, names.QUEUE_TIME_HIGH, metric, "queue-time", "Queue time")
        )
    if limits.error_ratio is not None:
        rules.append(_error_ratio(scope, limits.error_ratio))
    if limits.throughput is not None:
        rules.append(_throughput(scope, limits.throughput))
    if limits.memory is not None:
        rules += _memory(scope, limits.memory)
    if limits.gpu_utilization is not None:
        rules += _gpu_utilization(scope, limits.gpu_utilization)
    if limits.gpu_memory is not None:
        rules += _gpu_memory(scope, limits.gpu_memory)
    return rules


def absence_rules(scope: Scope) -> list[Rule]:
    """One for each deployment. Both ways for all servers to be gone: no target is left (no pods, or no
    Prometheus that finds them), or none of the targets answers. ``absent`` drops the labels, so the rule
    names what it watches.

    The time is in ``for``, not in a range: it then begins with the rule itself, and a new model does not
    page because nobody had seen it before. Less than two scrapes would take a late one for an outage.
    """
    absence = scope.spec.absence
    if absence is None:
        return []
    shortest = 2 * milliseconds(scope.monitoring.scrape_interval)
    time = absence.for_ if milliseconds(absence.for_) >= shortest else _duration(shortest)
    rules = []
    for one in scope.watched:
        of = f"namespace={quote(one.namespace)},{scope.workload_label}={quote(one.job)}"
        labels = {"severity": absence.severity, "slo": "absence", "window": time, "job": one.job}
        rules.append(
            scope.rule(
                names.ABSENT,
                f"absent({names.UP}{{{of}}} == 1)",
                {**labels, "namespace": one.namespace, "model": one.model},
                f"No server of {one.job} answers",
                f"Prometheus has reached no server of {one.job} in {one.namespace} for {time}.",
                for_=time,
                keep_firing_for="",
            )
        )
    return rules


def _duration(milliseconds_: int) -> str:
    return f"{milliseconds_}ms" if milliseconds_ % 1000 else f"{milliseconds_ // 1000}s"


def _limit(
    scope: Scope,
    threshold: Threshold,
    alert: str,
    expr: str,
    slo: str,
    summary: str,
    description: str,
    where: dict[str, str] | None = None,
) -> Rule:
    severity = threshold.severity or scope.spec.severity
    labels = {"severity": severity, "slo": slo, "window": threshold.window, **(where or {})}
    for_ = threshold.for_ if milliseconds(threshold.for_) else ""
    return scope.rule(alert, expr, labels, summary, description, for_)


def _time(scope: Scope, threshold: TimeThreshold, alert: str, metric: str, slo: str, what: str) -> Rule:
    """A quantile over all servers of a model. It never exceeds the highest finite bucket; the buckets of
    a server hold every threshold and one bound above it (``workload.bucket_bounds``)."""
    quantile, window = number(threshold.quantile), threshold.window
    expr = (
        f"histogram_quantile({quantile}, sum by (namespace, model, le) "
        f"(rate({metric}_bucket{{{scope.selector}}}[{window}]))) > {seconds(milliseconds(threshold.above))}\n"
        f"and {_BY} (rate({metric}_count{{{scope.selector}}}[{window}])) > {scope.least}"
    )
    return _limit(
        scope,
        threshold,
        alert,
        expr,
        slo,
        f"{what} of {{{{ $labels.model }}}} is above {threshold.above}",
        f"{what} of {WHO} (quantile {quantile} over {window}) is {{{{ $value | humanizeDuration }}}}, "
        f"above {threshold.above}.",
    )


def _error_ratio(scope: Scope, threshold: RatioThreshold) -> Rule:
    """A model that never failed has no series of errors: ``or 0 *`` gives it zero, as the objectives do."""
    window, above = threshold.window, number(threshold.above)
    requests = f"{_BY} (rate({names.REQUESTS}{{{scope.selector}}}[{window}]))"
    errors = f'{_BY} (rate({names.REQUESTS}{{{scope.selector},code=~"{names.BAD_CODES}"}}[{window}]))'
    return _limit(
        scope,
        threshold,
        names.ERROR_RATIO_HIGH,
        f"({errors} or 0 * {requests})\n/ ({requests} > {scope.least}) > {above}",
        "availability",
        "Requests to {{ $labels.model }} fail",
        f"{{{{ $value | humanizePercentage }}}} of the requests to {WHO} failed (5xx, 429) within {window}; "
        f"the limit is {_percent(threshold)}.",
    )


def _throughput(scope: Scope, threshold: RateThreshold) -> Rule:
    """A server that was never asked has no counter yet; that it is there and idle is told by its gauge
    ``model_ready``. Without any server nothing fires here: that is absence."""
    window, below = threshold.window, number(threshold.below)
    expr = (
        f"({_BY} (rate({names.REQUESTS}{{{scope.selector}}}[{window}])) "
        f"or 0 * {_BY} ({names.MODEL_READY}{{{scope.selector}}})) < {below}"
    )
    return _limit(
        scope,
        threshold,
        names.THROUGHPUT_LOW,
        expr,
        "throughput",
        "{{ $labels.model }} gets few requests",
        f"{WHO} gets {{{{ $value | humanize }}}} requests a second (over {window}), fewer than {below}.",
    )


def _memory(scope: Scope, threshold: RatioThreshold) -> Iterator[Rule]:
    """Of each pod, the container's memory over its limit. A restarted container may have two series for
    some minutes: ``max`` takes one."""
    for (namespace, model), jobs in scope.deployments.items():
        pods = f"namespace={quote(namespace)},{_pods('pod', jobs)},container={quote(names.CONTAINER)}"
        used = f"avg_over_time({names.MEMORY_WORKING_SET}{{{pods}}}[{threshold.window}])"
        limit = f'{names.RESOURCE_LIMITS}{{{pods},resource="memory"}}'
        by, above = "max by (namespace, pod)", number(threshold.above)
        expr = f"{by} ({used})\n/ {by} ({limit}) > {above}"
        yield _limit(
            scope,
            threshold,
            names.MEMORY_HIGH,
            expr,
            "memory",
            f"{model} runs out of memory",
            f"{{{{ $labels.pod }}}} of {model} in {namespace} uses {{{{ $value | humanizePercentage }}}} of "
            f"the memory it may have (over {threshold.window}), more than {_percent(threshold)}.",
            {"namespace": namespace, "model": model},
        )


def _gpu_utilization(scope: Scope, threshold: RatioThreshold) -> Iterator[Rule]:
    """The mean over the model's GPUs. The exporter gives percent, and nothing for a slice of a GPU (MIG)."""
    for namespace, model, gpus in _gpus(scope):
        percent = f"avg_over_time(({names.GPU_UTILIZATION}{gpus} <= 100)[{_subquery(scope, threshold)}])"
        expr = f"avg({percent}) / 100 > {number(threshold.above)}"
        yield _limit(
            scope,
            threshold,
            names.GPU_UTILIZATION_HIGH,
            expr,
            "gpu-utilization",
            f"The GPUs of {model} are busy",
            f"The GPUs of {model} in {namespace} are busy {{{{ $value | humanizePercentage }}}} of the time "
            f"(over {threshold.window}), more than {_percent(threshold)}.",
            {"namespace": namespace, "model": model},
        )


def _gpu_memory(scope: Scope, threshold: RatioThreshold) -> Iterator[Rule]:
    """The fullest of the model's GPUs."""
    for namespace, model, gpus in _gpus(scope):
        used = f"{names.GPU_MEMORY_USED}{gpus}"
        whole = f"{used} + {names.GPU_MEMORY_FREE}{gpus} + {names.GPU_MEMORY_RESERVED}{gpus}"
        ratio = f"avg_over_time(({used} / ({whole} < {names.GPU_BLANK}))[{_subquery(scope, threshold)}])"
        expr = f"max({ratio}) > {number(threshold.above)}"
        yield _limit(
            scope,
            threshold,
            names.GPU_MEMORY_HIGH,
            expr,
            "gpu-memory",
            f"A GPU of {model} runs out of memory",
            f"A GPU of {model} in {namespace} has {{{{ $value | humanizePercentage }}}} of its memory in use "
            f"(over {threshold.window}), more than {_percent(threshold)}.",
            {"namespace": namespace, "model": model},
        )


def _gpus(scope: Scope) -> Iterator[tuple[str, str, str]]:
    """Namespace, model and the selector of its GPUs, for models that have some."""
    exporter = scope.monitoring.gpu_exporter
    for (namespace, model), jobs in scope.deployments.items():
        with_gpus = [one for one in jobs if one.gpus]
        if with_gpus:
            pods = _pods(exporter.pod_label, with_gpus)
            yield namespace, model, f"{{{exporter.namespace_label}={quote(namespace)},{pods}}}"


def _pods(label: str, jobs: list[Watched]) -> str:
    return f"{label}=~{quote('|'.join(names.pods_of(one.job) for one in jobs))}"


def _subquery(scope: Scope, threshold: Threshold) -> str:
    """Blanks are left out sample by sample, which takes a subquery; its step is that of the scrapes."""
    step, window = scope.monitoring.scrape_interval, threshold.window
    return f"{window}:{step if milliseconds(step) < milliseconds(window) else window}"


def _percent(threshold: RatioThreshold) -> str:
    return f"{100 * threshold.above:.6g} %"
