"""``modelway-runtime check``: whether settings and weights can be served, without serving them."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from modelway_runtime.serving.metrics import ServerMetrics
from modelway_runtime.serving.repository import Repository
from modelway_runtime.settings import Served, Settings


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one model version; ``error`` is None where it can be served."""

    name: str
    version: str
    provider: str | None
    seconds: float
    inputs: dict[str, str]
    outputs: dict[str, str]
    error: str | None

    def text(self) -> str:
        title = f"{self.name} {self.version}"
        if self.error is not None:
            return f"error: {title}: {self.error}"
        described = " -> ".join(
            ", ".join(f"{name} {shape}" for name, shape in side.items())
            for side in (self.inputs, self.outputs)
        )
        return f"ok: {title} on {self.provider} in {self.seconds:.2f} s: {described}"

    def as_json(self) -> dict[str, Any]:
        return msgspec.structs.asdict(self)


def check(settings: Settings, *, trusted: bool) -> Iterator[Checked]:
    """Each model in turn: fetched, verified, loaded, warmed up and dropped."""
    for served in settings.served:
        yield asyncio.run(_check(settings, served, trusted=trusted))


async def _check(settings: Settings, served: Served, *, trusted: bool) -> Checked:
    started = time.monotonic()
    metrics = ServerMetrics(settings.metrics.latency_buckets_s)
    with tempfile.TemporaryDirectory(prefix="modelway-") as folder:
        repository = Repository(settings.device, metrics, folder=Path(folder), trusted=trusted)
        await repository.apply([served])
        (entry,) = repository.entries()
        servable = entry.servable
        sides: dict[str, dict[str, str]] = {"inputs": {}, "outputs": {}}
        if servable is not None:
            for side, tensors in servable.metadata().items():
                sides[side] = {t["name"]: f"{t['datatype']} {t['shape']}" for t in tensors}
        result = Checked(
            name=served.name,
            version=served.version,
            provider=servable.provider if servable is not None else None,
            seconds=round(time.monotonic() - started, 3),
            error=None if servable is not None else entry.reason,
            **sides,
        )
        await repository.close()
    return result
