"""ONNX weights on onnxruntime: CUDA where it is asked for, the CPU, or any other execution provider."""

from __future__ import annotations

import ctypes
import logging
import math
import os
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as engine

from modelway_runtime.serving.backends import fault
from modelway_runtime.serving.backends.base import LoadError
from modelway_runtime.serving.backends.onnx_rows import read_rows
from modelway_runtime.serving.errors import invalid
from modelway_runtime.serving.tensors import DTYPES, as_served
from modelway_runtime.serving.values import Array, Arrays
from modelway_runtime.settings import Datatype, Device, Served, TensorSpec

ort.disable_telemetry_events()  # a server tells nobody what it serves; the package's entry does more
log = logging.getLogger(__name__)

DATATYPES: dict[str, Datatype] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(bfloat16)": "BF16",
    "tensor(string)": "BYTES",
}
_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16, without an import of onnx
_SUFFIX = "ExecutionProvider"
# A search for the fastest convolution runs again for every new shape (measured: 634 ms against 1.9).
_DEFAULT_OPTIONS = {
    "cuda": {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
}
_QUIET = ort.RunOptions()
_QUIET.log_severity_level = 4  # what fails is raised: a caller must not fill the log of the process, too
# onnxruntime has one class for these and for its own failures; what it says tells them apart.
_BAD_VALUES = ("Out of range value in index", "k argument [", "Message: sto")
_BAD_SIZES = (
    "Attempting to broadcast an axis",
    "imension mismatch",
    "cannot be reshaped",
    "mismatched dimensions",
    "Calculated output dimension is negative",
    "Cannot split using values",
    "must be 1 instead of",
)
_GPU_PROVIDERS = {"cuda", "tensorrt", "nvtensorrtrtx", "migraphx", "rocm"}


class OnnxModel:
    """A session of onnxruntime. Its ``run`` releases the GIL and may be called by several threads."""

    engine = f"onnxruntime {ort.__version__}"

    def __init__(self, session: ort.InferenceSession, provider: str, path: Path, served: Served) -> None:
        self._session: ort.InferenceSession | None = session
        self.provider = provider
        self.on_gpu = provider in _GPU_PROVIDERS
        self.inputs = {tensor.name: _spec(tensor) for tensor in session.get_inputs()}
        self.outputs = {tensor.name: _spec(tensor) for tensor in session.get_outputs()}
        datatypes = {spec.datatype for spec in (*self.inputs.values(), *self.outputs.values())}
        self._plain = not datatypes & {"BF16", "BYTES"}
        self._text = "BYTES" in datatypes
        if self._text and "BF16" in datatypes:
            raise LoadError("onnxruntime cannot be given BYTES and BF16 together")
        self._run = session.run
        dimensions = {
            tensor.name: tensor.shape[0]
            for tensor in (*session.get_inputs(), *session.get_outputs())
            if tensor.shape and isinstance(tensor.shape[0], str)
        }
        self._open_sizes = fault.may_disagree(self.inputs)
        self.reading = read_rows(path, served.inputs or self.inputs, dimensions)

    def run(self, inputs: Arrays, wanted: tuple[str, ...]) -> Arrays:
        try:
            return self._computed(inputs, wanted)
        except engine.InvalidArgument as error:
            raise fault.of_request(_status(error)) from error
        except (engine.Fail, engine.RuntimeException) as error:
            if fault.says(error, _BAD_VALUES, _BAD_SIZES if self._open_sizes else ()):
                raise fault.of_request(_status(error)) from error
            raise

    def _computed(self, inputs: Arrays, wanted: tuple[str, ...]) -> Arrays:
        if self.on_gpu and self._plain:
            return self._run_bound(inputs, wanted)
        if self._plain:
            return dict(zip(wanted, self._run(wanted, inputs, _QUIET), strict=True))
        return self._run_converted(inputs, wanted)

    def close(self) -> None:
        self._session = None
        del self._run

    def _run_bound(self, inputs: Arrays, wanted: tuple[str, ...]) -> Arrays:
        """Inputs copied to the device and outputs from it once, by the session's own stream."""
        assert self._session is not None
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in wanted:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding, _QUIET)
        return dict(zip(wanted, binding.copy_outputs_to_cpu(), strict=True))

    def _run_converted(self, inputs: Arrays, wanted: tuple[str, ...]) -> Arrays:
        """BYTES are text to onnxruntime, and it knows BF16 by its own values only."""
        assert self._session is not None
        if self._text:  # onnxruntime makes no OrtValue of text; BF16 beside it is refused when it loads
            feed = {name: _text(name, array) for name, array in inputs.items()}
            return {n: as_served(a) for n, a in zip(wanted, self._run(wanted, feed, _QUIET), strict=True)}
        feed = {name: _ort_value(array) for name, array in inputs.items()}
        values = self._session.run_with_ort_values(list(wanted), feed, _QUIET)
        return {name: _numpy(value, self.outputs[name]) for name, value in zip(wanted, values, strict=True)}


def load(path: Path, served: Served, device: Device) -> OnnxModel:
    """A session from a file: by its path, because from bytes the GIL is held while it loads.

    Raises LoadError where the file is no model that onnxruntime can run on the wanted providers.
    """
    providers = _providers(device)
    if _short(providers[0][0]) in _GPU_PROVIDERS:
        ort.preload_dlls()  # CUDA's libraries where pip has put them, if the system has none
    try:
        session = _session(path, served, device, providers)
    except LoadError:
        raise
    except Exception as error:  # onnxruntime's errors have no common class but this
        raise LoadError(f"{path}: onnxruntime cannot load it: {_first_line(error)}") from error
    used = _short(session.get_providers()[0])
    wanted = _short(providers[0][0])
    if used != wanted:  # onnxruntime falls to the CPU with no more than a line on standard error
        if not (device.allow_cpu or "cpu" in device.providers):
            raise LoadError(
                f"{path}: {wanted} was asked for, but onnxruntime runs it on {used}: look at the driver and "
                f"the libraries of {wanted}, or set device.allow_cpu"
            )
        log.warning("%s runs on %s instead of %s", served.name, used, wanted)
    return OnnxModel(session, used, path, served)


def _providers(device: Device) -> list[tuple[str, dict[str, str]]]:
    """The wanted providers that this build of onnxruntime has, with their options."""
    available = {_short(name): name for name in ort.get_available_providers()}
    known = [name for name in device.providers if name.replace("_", "") in available]
    if not known and device.allow_cpu:
        known = ["cpu"]
    if not known:
        raise LoadError(
            f"this onnxruntime has none of the providers {', '.join(device.providers)}: it has "
            f"{', '.join(available)}; install onnxruntime-gpu for cuda, or set device.allow_cpu"
        )
    return [
        (
            available[name.replace("_", "")],
            {**_DEFAULT_OPTIONS.get(name, {}), **device.options.get(name, {})},
        )
        for name in known
    ]


def _session(
    path: Path, served: Served, device: Device, providers: list[tuple[str, dict[str, str]]]
) -> ort.InferenceSession:
    strict = _short(providers[0][0]) in _GPU_PROVIDERS and not device.allow_cpu
    options = _options(served, device)
    if not strict or "cpu" in device.providers:
        return ort.InferenceSession(str(path), options, providers=providers)
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        return ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        if "fallback" not in str(error):
            raise
        # Shape arithmetic of transformers belongs to the CPU even then; load() checks the provider.
        log.warning("%s: some nodes have no kernel for %s and run on the CPU", served.name, providers[0][0])
        return ort.InferenceSession(str(path), _options(served, device), providers=providers)


def _options(served: Served, device: Device) -> ort.SessionOptions:
    options = ort.SessionOptions()
    cores = len(os.sched_getaffinity(0))
    options.intra_op_num_threads = device.threads or max(1, cores // served.instances)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A thread that spins while it has no work takes the event loop's core.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _spec(tensor: ort.NodeArg) -> TensorSpec:
    datatype = DATATYPES.get(tensor.type)
    if datatype is None:
        raise LoadError(f"tensor {tensor.name!r} is a {tensor.type}, which the protocol cannot carry")
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in tensor.shape or ())
    return TensorSpec(datatype=datatype, shape=shape)


def _text(name: str, array: Array) -> Array:
    if array.dtype != object:
        return array
    try:
        text = [element.decode() for element in array.ravel()]
    except UnicodeDecodeError:
        raise invalid(f"input {name!r}: onnxruntime takes text, and an element is not UTF-8") from None
    strings = np.empty(len(text), object)
    strings[:] = text
    return strings.reshape(array.shape)


def _ort_value(array: Array) -> ort.OrtValue:
    array = np.ascontiguousarray(array)
    if array.dtype == DTYPES["BF16"]:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), _BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array)


def _numpy(value: ort.OrtValue, spec: TensorSpec) -> Array:
    if spec.datatype == "BF16":  # numpy() knows no bfloat16
        shape = value.shape()
        data = ctypes.string_at(value.data_ptr(), 2 * math.prod(shape))
        return np.frombuffer(data, DTYPES["BF16"]).reshape(shape)
    return as_served(value.numpy())


def _short(provider: str) -> str:
    """``CUDAExecutionProvider`` -> ``cuda``."""
    return provider.removesuffix(_SUFFIX).lower()


def _status(error: Exception) -> str:
    """What went wrong, without the node in which it did."""
    return _first_line(error).rpartition("Status Message: ")[2]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:500]
