"""Whether requests for a model may be computed together: their rows must not change each other's answers.

Rows are declared, or proved when the model is loaded: by its graph, which shows that no operator mixes them
(``Model.reading``), and by rows that are computed alone and together (``row_proof.py``). Where neither holds,
requests are computed one by one, because an answer of somebody else's rows is worse than a slow one.
"""

from __future__ import annotations

import logging

import msgspec

from modelway_runtime.serving import row_proof
from modelway_runtime.serving.backends.base import LoadError, Model
from modelway_runtime.settings import Served, TensorSpec

log = logging.getLogger(__name__)

NONE, FIRST = "none", "first"
"""Declarations beside the name of a dimension."""
_KEPT = 64
"""Proofs that are kept: more versions than a server ever has."""


class Rows(msgspec.Struct, frozen=True):
    """``shared``: the first dimension of every tensor is rows, which requests may share a batch with."""

    shared: bool
    reason: str


class RowsOfModels:
    """Decides about models; what was proved of weights is kept for their next load, by digest and engine."""

    def __init__(self) -> None:
        self._proofs: dict[object, Rows] = {}

    def decide(self, spec: Served, model: Model) -> Rows:
        """Raises LoadError where the declaration does not fit the weights. Computes; call it in a thread."""
        if spec.rows is not None:
            return _declared(spec, spec.rows, model)
        key = self._key(spec, model)
        rows = self._proofs.get(key) if spec.digest is not None else None
        if rows is None:
            rows = _proved(spec, model)
            if spec.digest is not None:
                self._proofs[key] = rows
                if len(self._proofs) > _KEPT:
                    del self._proofs[next(iter(self._proofs))]
        if not rows.shared and spec.batching.max_rows > 1:
            log.warning(
                "%s %s is not batched: %s. Declare `rows`: `first` if rows do not change each other's "
                "answers, else `none`",
                spec.name,
                spec.version,
                rows.reason,
            )
        return rows

    def _key(self, spec: Served, model: Model) -> object:
        """All that a proof depends on."""
        shapes = [sorted((n, t.datatype, t.shape) for n, t in side.items()) for side in _sides(spec, model)]
        return spec.digest, model.engine, model.provider, repr(shapes), spec.batching.max_rows


def _sides(spec: Served, model: Model) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
    return spec.inputs or model.inputs, spec.outputs or model.outputs


def _declared(spec: Served, rows: str, model: Model) -> Rows:
    if rows == NONE:
        return Rows(False, "its rows are declared as none")
    fixed = _without_rows(spec, model)
    if fixed is not None:
        raise LoadError(f"{spec.name} {spec.version}: `rows` is {rows!r}, but {fixed}: declare `none`")
    if rows != FIRST:
        names = model.reading.dimensions
        for name in _sides(spec, model)[0]:
            if names.get(name) != rows:
                first = f"is {names[name]!r}" if name in names else "has no name in the weights"
                raise LoadError(
                    f"{spec.name} {spec.version}: `rows` is {rows!r}, but the first dimension of the input "
                    f"{name!r} {first}: declare `first` if it is that of the rows, else `none`"
                )
    return Rows(True, "its rows are declared")


def _proved(spec: Served, model: Model) -> Rows:
    doubt = _without_rows(spec, model) or model.reading.doubt
    if doubt is None and spec.batching.max_rows > 1:
        inputs, outputs = _sides(spec, model)
        doubt = row_proof.find_doubt(model, inputs, tuple(outputs), spec.batching.max_rows)
    return Rows(doubt is None, doubt or "rows are proved not to change each other's answers")


def _without_rows(spec: Served, model: Model) -> str | None:
    """Which tensor has no first dimension of any size, by the settings or by the weights."""
    settings, weights = {**spec.inputs, **spec.outputs}, {**model.inputs, **model.outputs}
    for name in (name for side in _sides(spec, model) for name in side):
        for tensors in (settings, weights):
            if name in tensors and tensors[name].shape[:1] != (-1,):
                return f"{name!r} is {list(tensors[name].shape)}, without a first dimension of any size"
    return None
