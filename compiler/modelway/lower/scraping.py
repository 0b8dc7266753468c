"""How servers and the detector are scraped, and which label names their workload then.

With the Prometheus operator by PodMonitors: ``jobLabel`` makes ``job`` the pod's label
``app.kubernetes.io/name``. Without it by the usual job for annotated pods, ``kubernetes-pods`` of the
Prometheus chart: ``job`` is the same for all, and each label of the pod becomes one of the series.
"""

from __future__ import annotations

from modelway.lower import names
from modelway.spec.environment import EnvironmentSpec


def has_operator(environment: EnvironmentSpec) -> bool:
    return environment.cluster is not None and environment.cluster.add_ons.prometheus_operator


def workload_label(environment: EnvironmentSpec) -> str:
    """A laptop's scrape is written by hand and names the model as its job."""
    return names.JOB if environment.cluster is None or has_operator(environment) else names.POD_NAME
