"""The models that a server has: loaded beside each other, swapped without a request lost, given back.

A new version is fetched, verified, loaded and warmed up in a thread while the old one serves; then it
takes the old one's place, which ends once its last request is answered. When the new one fails the
old one stays.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from modelway_runtime.extras import lacking
from modelway_runtime.serving import external_data
from modelway_runtime.serving.backends.base import LoadError, Model
from modelway_runtime.serving.errors import InferenceError, not_found
from modelway_runtime.serving.metrics import ModelMetrics, ServerMetrics
from modelway_runtime.serving.rows import Rows, RowsOfModels
from modelway_runtime.serving.servable import Servable, agree
from modelway_runtime.serving.sources import SourceError, fetch, local_path, verify
from modelway_runtime.serving.tensors import shown
from modelway_runtime.settings import Device, Served

log = logging.getLogger(__name__)

State: TypeAlias = Literal["LOADING", "READY", "UNAVAILABLE"]
Key: TypeAlias = tuple[str, str]
Files: TypeAlias = tuple[tuple[Path, tuple[int, int, int]], ...]
"""The local files that a model was loaded from, each with what tells it from a changed one."""
DRAIN_S = 60.0
"""How long a replaced model may still answer; as long as an instance may compute."""


class Entry(msgspec.Struct):
    """A model version that the server was told to serve, and what became of it."""

    spec: Served
    state: State = "LOADING"
    reason: str = ""
    files: Files = ()
    servable: Servable | None = None


class Repository:
    """Model versions by name. All methods run on the event loop."""

    def __init__(self, device: Device, metrics: ServerMetrics, *, folder: Path, trusted: bool) -> None:
        self._device = device
        self._metrics = metrics
        self._folder = folder
        self._trusted = trusted
        self._entries: dict[Key, Entry] = {}
        self._latest: dict[str, Servable] = {}
        self._rows = RowsOfModels()
        self._threads = ThreadPoolExecutor(1, "load")  # one at a time: two halves load no faster
        self._changing = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()

    def find(self, name: str, version: str | None = None) -> Servable:
        """The model version that serves; the latest if none is named. Raises InferenceError (404, 503)."""
        if version is None:
            servable = self._latest.get(name)
            if servable is not None:
                return servable
        elif (entry := self._entries.get((name, version))) is not None and entry.servable is not None:
            return entry.servable
        versions = [known for model, known in self._entries if model == name]
        if not versions:
            raise not_found(f"there is no model {shown(name)}")
        if version is not None and version not in versions:
            raise not_found(f"model {shown(name)} has no version {shown(version)}")
        raise InferenceError(503, f"model {shown(name)} is not ready", retry_after_s=1)

    def versions(self, name: str) -> list[str]:
        """The versions that serve, the latest last."""
        found = [
            version for (model, version), entry in self._entries.items() if model == name and entry.servable
        ]
        return sorted(found, key=version_order)

    def entries(self) -> list[Entry]:
        return list(self._entries.values())

    def servables(self) -> list[Servable]:
        return [entry.servable for entry in self._entries.values() if entry.servable]

    def knows(self, name: str) -> bool:
        return any(model == name for model, _ in self._entries)

    async def apply(self, wanted: Sequence[Served], *, only: str | None = None, again: bool = False) -> None:
        """Serve what is wanted: load what is new or changed, then unload what is not wanted any more.

        ``only`` limits it to one model's name; ``again`` loads what has not changed, too. What could not
        be loaded is in ``entries()`` with its reason.
        """
        async with self._changing:
            failed: set[str] = set()
            for spec in wanted:
                if only in (None, spec.name) and not await self._load(spec, again=again):
                    failed.add(spec.name)
            keys = {(spec.name, spec.version) for spec in wanted}
            for key in [key for key in self._entries if key not in keys and only in (None, key[0])]:
                if key[0] not in failed:  # what serves stays until what replaces it does
                    self._unload(key)

    async def unload(self, name: str) -> None:
        """Stop serving all versions of a model once what is in flight is answered."""
        async with self._changing:
            for key in [key for key in self._entries if key[0] == name]:
                self._unload(key)

    async def close(self) -> None:
        """Drop everything, whether it still computes or not: who wants to wait has waited."""
        for task in self._leaving:
            task.cancel()
        for entry in self._entries.values():
            if entry.servable is not None:
                entry.servable.close()
        self._entries.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _load(self, spec: Served, *, again: bool) -> bool:
        """Whether the model version serves as it is wanted."""
        key = (spec.name, spec.version)
        entry = self._entries.get(key)
        if entry and entry.servable and _unchanged(entry, spec) and not again:
            return True
        if entry is None:
            entry = self._entries[key] = Entry(spec)
            self._metrics.ready.labels(*key).set(0)
        started = time.monotonic()
        try:
            servable, files = await self._loaded(spec)
        except (LoadError, SourceError, OSError) as error:
            entry.reason = str(error)
            if entry.servable is None:
                entry.state = "UNAVAILABLE"
            log.error("%s %s was not loaded: %s", spec.name, spec.version, error)  # noqa: TRY400  # said, not shown
            return False
        entry.files = files
        self._swap(entry, spec, servable)
        took = time.monotonic() - started
        self._metrics.load_s.labels(*key).set(took)
        log.info("%s %s is ready on %s after %.2f s", spec.name, spec.version, servable.provider, took)
        return True

    async def _loaded(self, spec: Served) -> tuple[Servable, Files]:
        run = asyncio.get_running_loop().run_in_executor
        model, rows, files = await run(self._threads, self._weights, spec)
        metrics = ModelMetrics(self._metrics, spec.name, spec.version, spec.outputs or model.outputs)
        servable = Servable(spec, model, rows, metrics)
        try:
            await run(self._threads, servable.warm_up)
        except LoadError:
            servable.close()
            raise
        return servable, files

    def _weights(self, spec: Served) -> tuple[Model, Rows, Files]:
        """The weights, whether requests may share a batch, and the files; for the loading thread."""
        path = own = local_path(spec.source)
        if path is None:
            folder = self._folder / spec.name / spec.version
            folder.mkdir(parents=True, exist_ok=True)
            path = fetch(spec.source, spec.digest, folder)
        before = _stat(path)
        verify(path, spec.digest)
        files = ((path, before), *((other, _stat(other)) for other in _other_files(spec, path)))
        model = _load_weights(spec, path, self._device, trusted=self._trusted)
        for file, was in files:
            if was != _stat(file):
                model.close()
                raise LoadError(f"{file} changed while it was loaded")
        try:
            agree(spec, model)
            return model, self._rows.decide(spec, model), files if own is not None else ()
        except LoadError:
            model.close()
            raise

    def _swap(self, entry: Entry, spec: Served, servable: Servable) -> None:
        old = entry.servable
        if old is not None:
            self._forget(old)
        entry.spec, entry.servable = spec, servable
        entry.state, entry.reason = "READY", ""
        self._index(spec.name)
        self._metrics.ready.labels(spec.name, spec.version).set(1)
        self._metrics.info.labels(*_info(servable)).set(1)
        if old is not None:
            self._leave(old)

    def _unload(self, key: Key) -> None:
        entry = self._entries.pop(key)
        self._index(key[0])
        self._metrics.ready.labels(*key).set(0)
        if entry.servable is not None:
            self._forget(entry.servable)
            self._leave(entry.servable)

    def _index(self, name: str) -> None:
        versions = self.versions(name)
        if versions:
            latest = self._entries[name, versions[-1]].servable
            assert latest is not None
            self._latest[name] = latest
        else:
            self._latest.pop(name, None)

    def _forget(self, servable: Servable) -> None:
        self._metrics.info.remove(*_info(servable))

    def _leave(self, servable: Servable) -> None:
        task = asyncio.get_running_loop().create_task(self._end(servable))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _end(self, servable: Servable) -> None:
        try:
            await asyncio.wait_for(servable.drained(), DRAIN_S)
        except TimeoutError:
            log.warning("%s %s still computes; it is dropped", servable.name, servable.version)
        finally:
            servable.close()
        del servable
        await asyncio.get_running_loop().run_in_executor(None, give_back)


def version_order(version: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts ``2`` before ``10`` and ``1.9.0`` before ``1.10.0``."""
    parts = re.split(r"[._-]", version)
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts)


def give_back() -> None:
    """Give freed memory back to the system: glibc keeps it otherwise (measured: half a GB in 20 reloads)."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):  # not glibc
        gc.collect()


def _load_weights(spec: Served, path: Path, device: Device, *, trusted: bool) -> Model:
    """The backend of the format; imported when its first model comes, because torch takes seconds."""
    try:
        if spec.format == "onnx":
            from modelway_runtime.serving.backends import onnx_backend
        else:
            from modelway_runtime.serving.backends import torch_backend
    except ImportError as error:  # no such package, or a library that it lacks
        raise LoadError(lacking(error, "this model") or str(error)) from None
    if spec.format == "onnx":
        return onnx_backend.load(path, spec, device)
    return torch_backend.load(path, spec, device, trusted=trusted)


def _unchanged(entry: Entry, spec: Served) -> bool:
    """Whether the settings, and the files where they are local ones, are those that were loaded."""
    try:
        return entry.spec == spec and all(_stat(path) == before for path, before in entry.files)
    except LoadError:  # said when it is loaded
        return False


def _other_files(spec: Served, path: Path) -> tuple[Path, ...]:
    """The files beside the weights' own that hold tensors of the model.

    Raises LoadError where they lie elsewhere, and where a digest is pinned, which does not cover them.
    """
    if spec.format != "onnx":
        return ()
    try:
        others = external_data.other_files(path)
    except external_data.NotOnnx:
        if spec.digest is None:  # the engine says what it is
            return ()
        raise LoadError(f"{path} is no ONNX model, so nobody can tell what its digest covers") from None
    except external_data.Escapes as error:
        raise LoadError(f"{path}: {error}") from None
    if not others:
        return ()
    kept = external_data.keeps(str(path), others)
    if spec.digest is not None:
        raise LoadError(
            f"{kept}, which the digest does not cover: save it as one file "
            "(torch.onnx.export has external_data=False), or leave the digest out"
        )
    log.warning("%s %s: %s; no digest can say that it is the right one", spec.name, spec.version, kept)
    return tuple(path.parent / name for name in others)


def _stat(path: Path) -> tuple[int, int, int]:
    try:
        found = os.stat(path)
    except OSError as error:
        start = "" if path.is_absolute() else f" (from the working folder {os.getcwd()})"
        raise LoadError(f"{path}: {error.strerror}{start}") from None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _info(servable: Servable) -> tuple[str, ...]:
    spec = servable.spec
    return (
        spec.name, spec.version, spec.format, servable.provider, spec.digest or "", spec.lineage_digest or ""
    )  # fmt: skip
