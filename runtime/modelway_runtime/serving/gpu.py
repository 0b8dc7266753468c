"""Memory and use of the GPUs, read from NVML at each scrape; nothing where there is none."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from modelway_runtime.serving.metrics import ServerMetrics

log = logging.getLogger(__name__)


def watch_gpus(metrics: ServerMetrics) -> None:
    """Expose the GPUs that the process can see, if NVML is present."""
    try:
        import pynvml
    except ImportError:
        return
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        log.debug("no GPU metrics: %s", error)
        return
    metrics.registry.register(_Gpus(pynvml, handles))


class _Gpus(Collector):
    def __init__(self, nvml: Any, handles: list[Any]) -> None:
        self._nvml = nvml
        self._handles = handles

    def collect(self) -> Iterable[Metric]:
        memory = GaugeMetricFamily("inference_gpu_memory_used_bytes", "Of the whole GPU.", labels=["gpu"])
        use = GaugeMetricFamily("inference_gpu_utilization_ratio", "From 0 to 1.", labels=["gpu"])
        for index, handle in enumerate(self._handles):
            try:
                memory.add_metric([str(index)], self._nvml.nvmlDeviceGetMemoryInfo(handle).used)
                use.add_metric([str(index)], self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
            except self._nvml.NVMLError:  # utilisation is not known under MIG; memory is
                continue
        return (memory, use)
