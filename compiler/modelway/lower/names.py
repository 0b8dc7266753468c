"""Every name that Modelway gives: objects, labels, annotations, ports, metrics, recording rules.

Metrics are those of ``docs/contract.md`` or of its list of foreign ones.
"""

from __future__ import annotations

# Labels and annotations.
NAME = "app.kubernetes.io/name"
VERSION = "app.kubernetes.io/version"
COMPONENT = "app.kubernetes.io/component"
PART_OF = "app.kubernetes.io/part-of"
MANAGED_BY = "app.kubernetes.io/managed-by"
TEAM = "modelway.dev/team"
ENVIRONMENT = "modelway.dev/environment"
SPEC = "modelway.dev/spec"
RULES = "modelway.dev/prometheus-rules"
LINEAGE = "modelway.dev/lineage"
NAMESPACE_NAME = "kubernetes.io/metadata.name"
SYNC_WAVE = "argocd.argoproj.io/sync-wave"
SYNC_OPTIONS = "argocd.argoproj.io/sync-options"
COMPARE_OPTIONS = "argocd.argoproj.io/compare-options"

# Sync waves: what others need comes first, and pruning goes the other way round. The last is that of the
# workloads: a release holds its wave until it ends, so nothing comes after it (see syncing.py).
WAVE_NAMESPACE = "-3"
WAVE_CONFIG = "-2"
WAVE_BINDING = "-1"
WAVE_NETWORK = "0"
WAVE_RULES = "1"
WAVE_STANDBY = "2"
WAVE_WORKLOAD = "3"

# The server.
CONTAINER = "server"
HTTP_PORT, GRPC_PORT, METRICS_PORT = 8080, 8081, 9090
SETTINGS_FOLDER = "/etc/modelway"
SETTINGS_FILE = "settings.json"
MODELS_FOLDER = "/models"

# Roles: an object is called <model> or <model>-<role>.
CANARY, STABLE, STANDBY, GRPC = "canary", "stable", "standby", "grpc"
PLATFORM = "_platform"  # folder of what belongs to an environment, not to a team

# The detector of an environment.
DETECTOR = "detector"
GATE_PORT = 8082
SECRETS_FOLDER = "/run/secrets/modelway"
MEMORY_FOLDER = "/var/lib/modelway"

# Metrics of the runtime.
REQUESTS = "inference_requests_total"
DURATION = "inference_request_duration_seconds"
QUEUE_DURATION = "inference_queue_duration_seconds"
COMPUTE_DURATION = "inference_compute_duration_seconds"
BATCH_ROWS = "inference_batch_rows"
IN_FLIGHT = "inference_requests_in_flight"
QUEUE_ROWS = "inference_queue_rows"
REJECTED = "inference_rejected_total"
STANDBY_REQUESTS = "inference_standby_requests_total"
CACHE_REQUESTS = "inference_cache_requests_total"
MODEL_READY = "model_ready"
VERDICTS = "modelway_detector_verdicts_total"
LAST_SUCCESS = "modelway_detector_last_success_timestamp_seconds"
MISSING_RATIO = "modelway_detector_missing_ratio"

# Labels of series that name their workload (see scraping.py).
JOB, POD_NAME = "job", "app_kubernetes_io_name"

# What the metrics adapter serves of a pod (docs/guides/environments.md).
MEAN_IN_FLIGHT = "inference_requests_in_flight_mean"
MEAN_QUEUE_ROWS = "inference_queue_rows_mean"

# Metrics of others.
UP = "up"
MEMORY_WORKING_SET = "container_memory_working_set_bytes"
RESOURCE_LIMITS = "kube_pod_container_resource_limits"
GPU_UTILIZATION = "DCGM_FI_DEV_GPU_UTIL"
GPU_MEMORY_USED = "DCGM_FI_DEV_FB_USED"
GPU_MEMORY_FREE = "DCGM_FI_DEV_FB_FREE"
GPU_MEMORY_RESERVED = "DCGM_FI_DEV_FB_RESERVED"

# The GPU exporter reports what it cannot tell as a number near 9.2e18 (in 32 bits, 2.1e9). Frame buffers
# are in MiB, so that nothing real comes near this.
GPU_BLANK = "1e9"

# Quantities of recording rules, by objective: all requests, the bad ones, their share.
AVAILABILITY_SERIES = ("requests", "request_errors", "error_ratio")
LATENCY_SERIES = ("timed_requests", "slow_requests", "slow_ratio")

# Alerts.
ERROR_BUDGET_BURN = "ModelErrorBudgetBurn"
LATENCY_BUDGET_BURN = "ModelLatencyBudgetBurn"
LATENCY_HIGH = "ModelLatencyHigh"
QUEUE_TIME_HIGH = "ModelQueueTimeHigh"
ERROR_RATIO_HIGH = "ModelErrorRatioHigh"
MEMORY_HIGH = "ModelMemoryHigh"
GPU_UTILIZATION_HIGH = "ModelGpuUtilizationHigh"
GPU_MEMORY_HIGH = "ModelGpuMemoryHigh"
THROUGHPUT_LOW = "ModelThroughputLow"
ABSENT = "ModelAbsent"
REGRESSED = "ModelRegressed"
DETECTOR_STALE = "DetectorStale"
DETECTOR_ABSENT = "DetectorAbsent"
DETECTOR_GAPS = "DetectorGaps"

# Codes that the caller could not use: bad for availability (docs/contract.md).
BAD_CODES = "5..|429"


def namespace(team: str, environment: str) -> str:
    return f"{team}-{environment}"


def role(model: str, role_: str) -> str:
    return f"{model}-{role_}"


def priority_class(resource: str, environment: str) -> str:
    """Cluster-wide, so it names the environment: two of them may share a cluster."""
    return f"{resource}-{environment}"


def recording(quantity: str, operation: str, window: str) -> str:
    """``model:requests:rate5m``."""
    return f"model:{quantity}:{operation}{window}"


def pods_of(job: str) -> str:
    """Regular expression of the names of a workload's pods, ``<job>-<hash>-<five characters>``.

    Anchored, as PromQL anchors it, it takes the pods of ``ranker`` and none of ``ranker-lite``. Kubernetes
    cuts a generated name to 58 characters before the last five: of a long one less of the hash is left.
    """
    if len(job) >= 58:
        return f"{job[:58]}[a-z0-9]+"
    if len(job) > 46:
        return f"{job}-[a-z0-9]+(-[a-z0-9]+)?"
    return f"{job}-[a-z0-9]+-[a-z0-9]+"
