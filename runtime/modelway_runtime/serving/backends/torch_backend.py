"""Torch weights: declared networks (safetensors), exported programs (.pt2) and TorchScript (.pt, .pth).

Only the first is safe with weights of unknown origin; loading either of the others may run code of
whoever wrote the file.
"""

from __future__ import annotations

import gc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import ml_dtypes
import msgspec
import numpy as np
import torch
from torch import nn
from torch.utils.dlpack import from_dlpack

from modelway_runtime.serving.backends import architecture, fault
from modelway_runtime.serving.backends.architecture import Specs, Tensors, first_line
from modelway_runtime.serving.backends.base import LoadError, Model, Reading
from modelway_runtime.serving.values import Array, Arrays
from modelway_runtime.settings import Device, Served, TensorSpec

_DATATYPES = {
    torch.bool: "BOOL",
    torch.uint8: "UINT8",
    torch.uint16: "UINT16",
    torch.uint32: "UINT32",
    torch.uint64: "UINT64",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.float16: "FP16",
    torch.float32: "FP32",
    torch.float64: "FP64",
    torch.bfloat16: "BF16",
}
_BF16 = np.dtype(ml_dtypes.bfloat16)
_HOW = (
    "from modelway_runtime.serving.backends import architecture; "
    'architecture.save(model, Path("model.safetensors"), inputs=…, outputs=…)'
)

# torch has one class for these and for its own failures; what it says tells them apart.
_BAD_VALUES = ("index out of range in self", "is out of bounds for dimension")
_BAD_SIZES = (
    "shapes cannot be multiplied",
    "must match the size of tensor",
    "expected input",
    "Kernel size can't be greater than actual input size",
    "Output size is too small",
    "don't multiply up to the size of dim",
    "running_mean should contain",
    "Mismatch of parameter numbers",
    "Guard failed",
)

Call: TypeAlias = Callable[[Tensors], object]

_LAYERS = Reading(None, True)
"""No layer of the table takes the rows elsewhere, chooses by what they hold, or repeats itself."""
_CODE = Reading("it is a program, whose operators are not followed", False)


class _Program(msgspec.Struct, frozen=True, kw_only=True):
    """What a file computes, on its device: ``call`` takes the inputs by name, in the order of ``inputs``."""

    call: Call
    inputs: Specs
    outputs: Specs
    keeps_inputs: bool
    """It is known never to write to its inputs."""
    cyclic: bool
    """It is freed by the garbage collector only."""
    reading: Reading


def load(path: Path, served: Served, device: Device, *, trusted: bool) -> Model:
    """The network in a file, ready to run.

    ``trusted``: the operator allows weights whose loading may run code; such a file also needs
    ``served.digest``, which the caller has verified. Raises LoadError.
    """
    if device.threads:
        torch.set_num_threads(device.threads)  # of the process: torch knows no smaller scope
    place = _place(device)
    try:
        program = _loaded(path, served, place, trusted)
        for name, spec in [*program.inputs.items(), *program.outputs.items()]:
            if spec.datatype == "BYTES":
                raise LoadError(f"`{name}` is BYTES: torch has no tensors of text")
    except LoadError as error:
        raise LoadError(f"{path.name}: {error}") from error
    return _TorchModel(program, place)


def _place(device: Device) -> torch.device:
    """Where to compute: the first provider that is here; those of other engines are passed over."""
    for provider in device.providers:
        if provider == "cpu" or (provider == "cuda" and torch.cuda.is_available()):
            return torch.device(provider)
    if device.allow_cpu:
        return torch.device("cpu")
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    raise LoadError(
        f"torch cannot use {', '.join(device.providers)} here: it knows cuda and cpu, is {built} and sees "
        f"{torch.cuda.device_count()} GPUs. Give the pod a GPU, name the provider cpu, or set allow_cpu"
    )


def _loaded(path: Path, served: Served, place: torch.device, trusted: bool) -> _Program:
    if path.suffix == ".safetensors":
        return _declared(path, served, place)
    if path.suffix == ".pt2":
        _allow("an exported program", served, trusted)
        return _exported(path, served, place)
    if path.suffix in (".pt", ".pth"):
        if not _is_torch_script(path):
            raise LoadError(
                "a pickle, not TorchScript: unpickling runs the code of whoever wrote it, so it is never "
                f"loaded. Where the model is trained, write safetensors: {_HOW}"
            )
        _allow("TorchScript", served, trusted)
        return _torch_script(path, served, place)
    raise LoadError("torch weights are .safetensors, .pt2 (torch.export), or .pt and .pth (TorchScript)")


def _allow(what: str, served: Served, trusted: bool) -> None:
    missing = []
    if not trusted:
        missing.append("start the server with --trust-pickled-weights")
    if served.digest is None:
        missing.append("pin the file with `digest`")
    if missing:
        raise LoadError(
            f"{what} may run code of whoever wrote it when it is loaded: {' and '.join(missing)}, "
            f"or write safetensors instead: {_HOW}"
        )


def _is_torch_script(path: Path) -> bool:
    """Looks at the names in the archive only; nothing is unpickled."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.split("/", 1)[-1] for name in archive.namelist()]
    except zipfile.BadZipFile:
        return False
    except OSError as error:
        raise LoadError(f"cannot be read: {error}") from None
    return "constants.pkl" in names and any(name.startswith("code/") for name in names)


def _declared(path: Path, served: Served, place: torch.device) -> _Program:
    declaration, module = architecture.read(path)
    inputs = _agreed("inputs", declaration.inputs, served.inputs)
    outputs = _agreed("outputs", declaration.outputs, served.outputs)
    module.eval().to(place)
    if declaration.factory is not None:
        return _Program(
            call=lambda tensors: module(**tensors),
            inputs=inputs,
            outputs=outputs,
            keeps_inputs=False,
            cyclic=False,
            reading=_CODE,
        )
    if len(inputs) != 1 or len(outputs) != 1:
        raise LoadError(f"`layers` take one input and give one output, not {len(inputs)} and {len(outputs)}")
    return _Program(
        call=_by_position(module),
        inputs=inputs,
        outputs=outputs,
        keeps_inputs=True,
        cyclic=False,
        reading=_LAYERS,
    )


def _torch_script(path: Path, served: Served, place: torch.device) -> _Program:
    try:
        module = torch.jit.load(path, map_location=place)  # type: ignore[no-untyped-call]
    except Exception as error:
        raise LoadError(f"torch cannot load it: {first_line(error)}") from error
    module.eval()
    return _Program(
        call=_by_position(module),
        inputs=_agreed("inputs", {}, served.inputs),
        outputs=_agreed("outputs", {}, served.outputs),
        keeps_inputs=False,
        cyclic=False,
        reading=_CODE,
    )


def _by_position(module: nn.Module) -> Call:
    return lambda tensors: module(*tensors.values())


def _exported(path: Path, served: Served, place: torch.device) -> _Program:
    try:
        program = torch.export.load(path)
        if place.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, place)
        module = program.module()
    except Exception as error:
        raise LoadError(f"torch cannot load it: {first_line(error)}") from error
    specs = {node.name: _spec(node.meta.get("val")) for node in program.graph.nodes}
    names = program.graph_signature.user_inputs
    inputs = _agreed("inputs", {str(name): _known(specs, name) for name in names}, served.inputs)
    outputs = _exported_outputs(program, specs, served)
    structure = program.call_spec.in_spec

    def call(tensors: Tensors) -> object:
        args, kwargs = structure.unflatten(tensors.values())
        return module(*args, **kwargs)

    # Its signature does not tell whether a program writes to its inputs.
    return _Program(call=call, inputs=inputs, outputs=outputs, keeps_inputs=False, cyclic=True, reading=_CODE)


def _exported_outputs(
    program: torch.export.ExportedProgram, specs: dict[str, TensorSpec | None], served: Served
) -> Specs:
    """A program that returns a dict names its outputs; any other leaves that to the settings."""
    nodes = program.graph_signature.user_outputs
    result = program.call_spec.out_spec.unflatten(list(nodes)) if program.call_spec.out_spec else ()
    if isinstance(result, dict):
        named = {str(name): _known(specs, node) for name, node in result.items()}
        return _agreed("outputs", named, served.outputs)
    if served.outputs and len(served.outputs) != len(nodes):
        raise LoadError(
            f"the program returns {len(nodes)} tensors, the settings name {', '.join(served.outputs)}"
        )
    names = list(served.outputs) or [str(node) for node in nodes]
    if len(set(names)) < len(nodes):
        raise LoadError("it returns one tensor twice: name the outputs in the settings")
    found = {name: _known(specs, node) for name, node in zip(names, nodes, strict=True)}
    return _agreed("outputs", found, served.outputs)


def _spec(value: object) -> TensorSpec | None:
    if not isinstance(value, torch.Tensor) or value.dtype not in _DATATYPES:
        return None
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return TensorSpec(datatype=_DATATYPES[value.dtype], shape=shape)  # type: ignore[arg-type]  # a Literal


def _known(specs: dict[str, TensorSpec | None], node: Any) -> TensorSpec:
    """The tensor of a node of the graph; anything else of a signature is a constant or nested."""
    spec = specs.get(node) if isinstance(node, str) else None
    if spec is None:
        raise LoadError(f"it takes or returns {node!r}, which is no tensor that the protocol can carry")
    return spec


def _agreed(what: str, file: Specs, settings: Specs) -> Specs:
    """The tensors in the file's order. The settings may fix a size that the file leaves open (-1)."""
    if not file and not settings:
        raise LoadError(f"the {what} are named neither in the file nor in the settings: name them in one")
    if not file or not settings:
        return file or settings
    if file.keys() != settings.keys():
        raise LoadError(
            f"the {what} are {', '.join(file)} in the file, but {', '.join(settings)} in the settings"
        )
    for name, ours in file.items():
        theirs = settings[name]
        if (
            ours.datatype != theirs.datatype
            or len(ours.shape) != len(theirs.shape)
            or any(one not in (-1, other) for one, other in zip(ours.shape, theirs.shape, strict=True))
        ):
            raise LoadError(
                f"`{name}` is {ours.datatype} {list(ours.shape)} in the file, "
                f"but {theirs.datatype} {list(theirs.shape)} in the settings"
            )
    return {name: settings[name] for name in file}


class _TorchModel:
    """Weights on one device."""

    engine = f"torch {torch.__version__}"

    def __init__(self, program: _Program, place: torch.device) -> None:
        self.inputs = program.inputs
        self.outputs = program.outputs
        self.provider = place.type
        self.on_gpu = place.type == "cuda"
        self.reading = program.reading
        self._open_sizes = fault.may_disagree(program.inputs)
        self._program: _Program | None = program
        self._place = place

    def run(self, inputs: Arrays, wanted: tuple[str, ...]) -> Arrays:
        """The wanted outputs, all of them where ``wanted`` is empty; raises what torch raises."""
        program = self._program
        if program is None:
            raise RuntimeError("the model is closed")
        with torch.inference_mode():
            given = {name: self._given(inputs[name], program) for name in program.inputs}
            results = _named(self._called(program, given), tuple(program.outputs))
            results = {name: results[name] for name in wanted or program.outputs}
            if self.on_gpu:
                results = {name: tensor.to("cpu", non_blocking=True) for name, tensor in results.items()}
                torch.cuda.current_stream().synchronize()
                return {name: _array(tensor) for name, tensor in results.items()}
            # A result may be an input, or a view of one: the answer must not be the caller's memory.
            taken = {tensor.untyped_storage().data_ptr() for tensor in given.values()}
            return {
                name: _array(tensor.clone() if tensor.untyped_storage().data_ptr() in taken else tensor)
                for name, tensor in results.items()
            }

    def _called(self, program: _Program, given: Tensors) -> object:
        try:
            return program.call(given)
        except IndexError as error:
            raise fault.of_request(str(error)) from error
        except (RuntimeError, AssertionError) as error:
            if fault.says(error, _BAD_VALUES, _BAD_SIZES if self._open_sizes else ()):
                raise fault.of_request("") from error
            raise

    def close(self) -> None:
        program, self._program = self._program, None
        cyclic = program is not None and program.cyclic
        del program
        if cyclic:
            gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    def _given(self, array: Array, program: _Program) -> torch.Tensor:
        tensor = _tensor(array)
        if self.on_gpu:
            return tensor.pin_memory().to(self._place, non_blocking=True)
        return tensor if program.keeps_inputs else tensor.clone()


def _tensor(array: Array) -> torch.Tensor:
    """A tensor on an array's memory, which must not be written to."""
    if not (array.flags.c_contiguous and array.flags.aligned):
        array = np.require(array, requirements=("C", "A"))
    brain = array.dtype == _BF16
    if brain:
        array = array.view(np.int16)
    # DLPack carries an array that is read-only; torch.from_numpy warns of one.
    tensor = torch.from_numpy(array) if array.flags.writeable else from_dlpack(array)
    return tensor.view(torch.bfloat16) if brain else tensor


def _array(tensor: torch.Tensor) -> Array:
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(_BF16)
    return tensor.numpy()


def _named(result: object, names: tuple[str, ...]) -> Tensors:
    """The tensors that a module returned, by name. Raises TypeError and ValueError when they differ."""
    if isinstance(result, torch.Tensor):
        result = (result,)
    if isinstance(result, tuple | list):
        if len(result) != len(names):
            raise ValueError(f"the module returned {len(result)} tensors, {len(names)} are declared")
        result = dict(zip(names, result, strict=True))
    if not isinstance(result, dict):
        raise TypeError(f"the module returned {type(result).__name__}, not tensors")
    for name in names:
        if not isinstance(result.get(name), torch.Tensor):
            raise TypeError(f"the module returned no tensor `{name}`")
    return result
