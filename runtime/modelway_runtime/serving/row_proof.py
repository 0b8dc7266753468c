"""Rows that are made up, computed alone and together: whether each keeps its answer.

This finds what no list of operators tells: kernels that choose by the size of a batch, numbers that are
scaled over it, rows that appear or vanish.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import numpy as np

from modelway_runtime.serving.backends.base import Model
from modelway_runtime.serving.tensors import DTYPES, as_served, object_array
from modelway_runtime.serving.values import Array, Arrays
from modelway_runtime.settings import TensorSpec

log = logging.getLogger(__name__)

ROWS = 5
"""Different rows of each kind."""
LARGEST = 16
"""Rows of the largest batch that is tried; kernels that differ by size do so before it."""
SIZES = (16, 64, 224)
"""Sizes that are tried for a dimension that requests decide: words of a text, pixels of a picture."""
BOUNDS = (100, 4, 2)
"""Whole numbers below these are tried: many are places in a table, and some tables have two entries."""
TOLERANCE = {"FP64": 1e-8, "FP32": 1e-3, "FP16": 2e-2, "BF16": 1e-1}
"""Parts of an output's largest value by which engines may differ with the size of a batch; others: none."""
_FLOATS = (0.0, 1e-3, 1e3, -1e3, 1e6, -1e6, 1e30, np.inf, -np.inf, np.nan)
_NUMBERS = (0, 1, -1, 3, 1000, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63))
_TEXTS = (b"", b"0", b"-1", b"1000000000", b"a")

Inputs = Mapping[str, TensorSpec]


class _Differs(Exception):
    """What of an answer depends on who shares the batch."""


def find_doubt(model: Model, inputs: Inputs, wanted: tuple[str, ...], max_rows: int) -> str | None:
    """Why rows of several requests should not be computed together; None: no reason was found."""
    size, bound = _computable(model, inputs, wanted)
    if size is None:
        return "it fails on inputs that are made up, so nothing is known of its rows"
    try:
        for seed in range(2):
            rows = [_row(inputs, np.random.default_rng((seed, i)), seed, size, bound) for i in range(ROWS)]
            alone = [_run(model, [row], wanted) for row in rows]
            largest = min(max_rows, LARGEST)
            for order in (*_ORDERS, [i % ROWS for i in range(largest)]):
                _compare(_run(model, [rows[i] for i in order], wanted), [alone[i] for i in order], model)
        if not (model.on_gpu and _has_numbers(inputs)):
            _try_neighbours(model, rows[0], alone[0], wanted)
        _try_unequal(model, rows, wanted)
    except _Differs as difference:
        return str(difference)
    except Exception as error:  # engines raise anything
        log.debug("rows together: %s", error, exc_info=error)
        return "it computes rows that are made up alone, but fails on several together"
    return None


_ORDERS = ([0, 1], [1, 0], [2, 3, 4], [4, 2, 0, 3, 1], [1, 1, 0])


def _computable(model: Model, inputs: Inputs, wanted: tuple[str, ...]) -> tuple[int | None, int]:
    """A size and a bound of numbers with which the model computes."""
    open_sizes = any(-1 in spec.shape[1:] for spec in inputs.values())
    bounds = BOUNDS if _has_numbers(inputs) else BOUNDS[:1]
    for size, bound in product(SIZES if open_sizes else SIZES[:1], bounds[-1:] if model.on_gpu else bounds):
        try:
            model.run(_row(inputs, np.random.default_rng(0), 0, size, bound), wanted)
        except Exception as error:  # noqa: BLE001  # engines raise anything
            log.debug("sizes of %d, numbers below %d: %s", size, bound, error)
        else:
            return size, bound
    return None, 0


def _has_numbers(inputs: Inputs) -> bool:
    """Whether there may be places in a table: past its end a GPU fails for good, so none are tried there."""
    return any(DTYPES[spec.datatype].kind in "iu" for spec in inputs.values())


def _row(inputs: Inputs, random: np.random.Generator, kind: int, size: int, bound: int) -> Arrays:
    """One row of every input: floats around 0, or between 0 and 1; whole numbers from 0."""
    row: Arrays = {}
    for name, spec in inputs.items():
        dtype = DTYPES[spec.datatype]
        shape = (1, *(size if length < 0 else length for length in spec.shape[1:]))
        if dtype.kind == "O":
            count = int(np.prod(shape))
            texts = [b"%d" % number for number in random.integers(0, bound, count)]
            row[name] = object_array(texts).reshape(shape)
        elif dtype.kind == "b":
            row[name] = random.integers(0, 2, shape).astype(dtype)
        elif dtype.kind in "iu":
            row[name] = random.integers(0, bound, shape).astype(dtype)
        else:
            row[name] = (random.random(shape) if kind else random.standard_normal(shape)).astype(dtype)
    return row


def _run(model: Model, rows: Sequence[Arrays], wanted: tuple[str, ...]) -> Arrays:
    """The answers to rows together. Raises _Differs unless there are as many."""
    outputs = model.run({name: np.concatenate([row[name] for row in rows]) for name in rows[0]}, wanted)
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != len(rows):
            raise _Differs(f"for {len(rows)} rows its output {name!r} has the shape {list(array.shape)}")
    return {name: as_served(array) for name, array in outputs.items()}


def _compare(together: Arrays, alone: Sequence[Arrays], model: Model) -> None:
    for name, array in together.items():
        separate = np.concatenate([answer[name] for answer in alone])
        if array.shape != separate.shape or not _agree(array, separate, model.outputs[name].datatype):
            raise _Differs(f"rows together and alone have different answers (output {name!r})")


def _agree(array: Array, separate: Array, datatype: str) -> bool:
    tolerance = TOLERANCE.get(datatype)
    if tolerance is None:
        return bool(np.array_equal(array, separate))
    one, other = array.astype(np.float64), separate.astype(np.float64)
    largest = np.max(np.abs(other), initial=0.0, where=np.isfinite(other))
    return bool(np.allclose(one, other, rtol=tolerance, atol=tolerance * largest, equal_nan=True))


def _try_neighbours(model: Model, row: Arrays, alone: Arrays, wanted: tuple[str, ...]) -> None:
    """A row beside rows that are out of the ordinary, which shows what is scaled or sorted over a batch."""
    for neighbour in _neighbours(row):
        for order in ([row, neighbour], [neighbour, row]):
            index = 0 if order[0] is row else 1
            try:
                outputs = _run(model, order, wanted)
            except _Differs:
                raise
            except Exception as error:  # noqa: BLE001  # a model need not compute the extraordinary
                log.debug("a row beside an extraordinary one: %s", error)
                break
            _compare({name: array[index : index + 1] for name, array in outputs.items()}, [alone], model)


def _neighbours(row: Arrays) -> Iterator[Arrays]:
    for index in range(len(_FLOATS)):
        yield {name: _extraordinary(array, index) for name, array in row.items()}


def _extraordinary(array: Array, index: int) -> Array:
    if array.dtype == object:
        return object_array([_TEXTS[index % len(_TEXTS)]] * array.size).reshape(array.shape)
    if array.dtype.kind == "b":
        return np.full(array.shape, index % 2 == 0)
    if array.dtype.kind in "iu":
        limits = np.iinfo(array.dtype)
        number = min(max(_NUMBERS[index % len(_NUMBERS)], int(limits.min)), int(limits.max))
        return np.full(array.shape, number, array.dtype)
    with np.errstate(over="ignore"):
        return np.full(array.shape, _FLOATS[index]).astype(array.dtype)


def _try_unequal(model: Model, rows: Sequence[Arrays], wanted: tuple[str, ...]) -> None:
    """Inputs that may be of different lengths have no rows in common."""
    names = list(rows[0])
    for odd in names[1:]:
        inputs = {
            name: np.concatenate([row[name] for row in rows[: 3 if name == odd else 2]]) for name in names
        }
        try:
            model.run(inputs, wanted)
        except Exception as error:  # noqa: BLE001  # what is hoped for
            log.debug("inputs of 2 and 3 rows: %s", error)
        else:
            raise _Differs(f"it also computes with other numbers of rows in {odd!r} than in {names[0]!r}")
