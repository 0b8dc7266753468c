"""Networks that a safetensors file declares as data: no code comes from the file.

The file's metadata hold, under ``modelway.architecture``, either ``layers``, a sequence out of the table
below, or ``factory``, the name of an entry point that an installed package offers in the group
``modelway_runtime.architectures``. A network is first built without memory and compared with the file's
tensors, so that what is allocated never exceeds what the file holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec
import safetensors
import safetensors.torch
import torch
from msgspec import Meta
from torch import nn
from torch.overrides import TorchFunctionMode

from modelway_runtime.serving.backends.base import LoadError
from modelway_runtime.serving.tensors import shown
from modelway_runtime.settings import TensorName, TensorSpec

KEY = "modelway.architecture"
GROUP = "modelway_runtime.architectures"
_MAX_TEXT = 256 * 1024  # bytes; some thousands of layers
_MAX_DEPTH = 16

Tensors: TypeAlias = dict[str, torch.Tensor]
Specs: TypeAlias = dict[TensorName, TensorSpec]
Layer: TypeAlias = tuple[str, dict[str, Any]]
M = TypeVar("M", bound=nn.Module)

_Size = Annotated[int, Meta(ge=1, le=2**31 - 1)]  # the file's tensors say whether it is true
_Step = Annotated[int, Meta(ge=1, le=1024)]  # no tensor says it, so it is bounded here
_Pad = Annotated[int, Meta(ge=0, le=1024)]
_Dim = Annotated[int, Meta(ge=-32, le=31)]
_Steps = _Step | Annotated[tuple[_Step, ...], Meta(min_length=1, max_length=3)]
_Pads = _Pad | Annotated[tuple[_Pad, ...], Meta(min_length=1, max_length=3)]
_Pooled = _Step | None | Annotated[tuple[_Step | None, ...], Meta(min_length=1, max_length=3)]
_Sizes = Annotated[tuple[_Size, ...], Meta(min_length=1, max_length=32)]
_Dtype = Literal["float64", "float32", "float16", "bfloat16"]

_Keywords: TypeAlias = dict[str, Any]  # a keyword and the type of its value
_CONVOLUTION: _Keywords = {
    "in_channels": _Size,
    "out_channels": _Size,
    "kernel_size": _Steps,
    "stride": _Steps,
    "padding": _Pads | Literal["same", "valid"],
    "dilation": _Steps,
    "groups": _Size,
    "bias": bool,
    "padding_mode": Literal["zeros", "reflect", "replicate", "circular"],
    "dtype": _Dtype,
}
_BATCH_NORM: _Keywords = {
    "num_features": _Size,
    "eps": float,
    "momentum": float | None,
    "affine": bool,
    "track_running_stats": bool,
    "dtype": _Dtype,
}
_POOL: _Keywords = {"kernel_size": _Steps, "stride": _Steps, "padding": _Pads, "ceil_mode": bool}
_MAX_POOL: _Keywords = _POOL | {"dilation": _Steps}
_AVG_POOL: _Keywords = _POOL | {"count_include_pad": bool}
_ADAPTIVE: _Keywords = {"output_size": _Pooled}
_DROPOUT: _Keywords = {"p": float}

# ``inplace`` is left out on purpose: a layer that writes to its input would write to a caller's tensor.
LAYERS: Mapping[str, _Keywords] = {
    "Linear": {"in_features": _Size, "out_features": _Size, "bias": bool, "dtype": _Dtype},
    "Embedding": {
        "num_embeddings": _Size,
        "embedding_dim": _Size,
        "padding_idx": int | None,
        "dtype": _Dtype,
    },
    "Conv1d": _CONVOLUTION,
    "Conv2d": _CONVOLUTION,
    "Conv3d": _CONVOLUTION,
    "BatchNorm1d": _BATCH_NORM,
    "BatchNorm2d": _BATCH_NORM,
    "BatchNorm3d": _BATCH_NORM,
    "LayerNorm": {
        "normalized_shape": _Sizes,
        "eps": float,
        "elementwise_affine": bool,
        "bias": bool,
        "dtype": _Dtype,
    },
    "GroupNorm": {
        "num_groups": _Size,
        "num_channels": _Size,
        "eps": float,
        "affine": bool,
        "dtype": _Dtype,
    },
    "MaxPool1d": _MAX_POOL,
    "MaxPool2d": _MAX_POOL,
    "AvgPool1d": _AVG_POOL,
    "AvgPool2d": _AVG_POOL,
    "AdaptiveAvgPool1d": _ADAPTIVE,
    "AdaptiveAvgPool2d": _ADAPTIVE,
    "AdaptiveMaxPool1d": _ADAPTIVE,
    "AdaptiveMaxPool2d": _ADAPTIVE,
    "Flatten": {"start_dim": _Dim, "end_dim": _Dim},
    "Unflatten": {"dim": _Dim, "unflattened_size": _Sizes},
    "Identity": {},
    "Dropout": _DROPOUT,
    "Dropout1d": _DROPOUT,
    "Dropout2d": _DROPOUT,
    "ReLU": {},
    "ReLU6": {},
    "LeakyReLU": {"negative_slope": float},
    "PReLU": {"num_parameters": _Size, "init": float, "dtype": _Dtype},
    "ELU": {"alpha": float},
    "GELU": {"approximate": Literal["none", "tanh"]},
    "SiLU": {},
    "Hardsigmoid": {},
    "Hardswish": {},
    "Sigmoid": {},
    "Softplus": {"beta": float, "threshold": float},
    "Tanh": {},
    "Softmax": {"dim": _Dim},
    "LogSoftmax": {"dim": _Dim},
}


class Residual(nn.Sequential):
    """``x + f(x)``, where ``f`` is the layers one after the other and keeps the shape."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  # torch's own name
        output: torch.Tensor = super().forward(input)  # type: ignore[no-untyped-call]
        if output.shape != input.shape:  # torch would stretch one to the other's shape
            raise ValueError(f"Residual: {list(input.shape)} became {list(output.shape)}")
        return input + output


_NESTED: Mapping[str, type[nn.Sequential]] = {"Sequential": nn.Sequential, "Residual": Residual}


class _Nested(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    layers: list[Layer]


class Declaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a file says of its network. One of ``layers`` and ``factory`` is set."""

    layers: list[Layer] | None = None
    factory: str | None = None
    arguments: dict[str, Any] = {}
    inputs: Specs = {}
    outputs: Specs = {}


def read(path: Path) -> tuple[Declaration, nn.Module]:
    """The network in a safetensors file, on the CPU, its weights mapped from the file.

    Raises LoadError.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except (safetensors.SafetensorError, OSError) as error:
        raise LoadError(f"not a safetensors file: {error}") from None
    if KEY not in metadata:
        raise LoadError(
            f"its metadata lack `{KEY}`, which says the layers: "
            "write the file with `architecture.save`, or name a factory"
        )
    declaration = declared(metadata[KEY])
    return declaration, _with_weights(declaration, tensors)


def declared(text: str) -> Declaration:
    """What the metadata say; the layers are not yet looked at. Raises LoadError."""
    if len(text) > _MAX_TEXT:
        raise LoadError(f"`{KEY}` is {len(text)} characters long; at most {_MAX_TEXT} are read")
    try:
        declaration = msgspec.json.decode(text, type=Declaration)
    except (msgspec.DecodeError, RecursionError) as error:
        raise LoadError(f"`{KEY}`: {error}") from None
    if (declaration.layers is None) == (declaration.factory is None):
        raise LoadError(f"`{KEY}` has one of `layers` and `factory`")
    if declaration.arguments and declaration.factory is None:
        raise LoadError(f"`{KEY}`: `arguments` belong to a `factory`")
    return declaration


def save(module: nn.Sequential, path: Path, inputs: Specs, outputs: Specs) -> None:
    """Write a network and what it is, so that ``read`` makes the same of it.

    Raises ValueError for a layer, or a setting of one, that a declaration cannot say.
    """
    declaration = Declaration(layers=_said_layers(module), inputs=inputs, outputs=outputs)
    text = msgspec.json.encode(declaration).decode()
    state = module.state_dict()
    try:
        rebuilt = _without_memory(lambda: _sequence(declared(text).layers or [], nn.Sequential))
        tensors = dict(zip(rebuilt.state_dict(), state.values(), strict=True))
        _compare(rebuilt, tensors)
    except LoadError as error:
        raise ValueError(f"cannot be declared: {error}") from error
    for ours, theirs in zip(_all(rebuilt), _all(module), strict=True):
        if _behaviour(ours) != _behaviour(theirs):
            raise ValueError(f"{theirs} has a setting that a declaration cannot say: use a factory")
    # A copy of each: safetensors refuses tensors that share memory or have gaps.
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    safetensors.torch.save_file(copies, path, metadata={"format": "pt", KEY: text})


def _with_weights(declaration: Declaration, tensors: Tensors) -> nn.Module:
    if declaration.layers is not None:
        layers = declaration.layers
        module: nn.Module = _without_memory(lambda: _sequence(layers, nn.Sequential))
        _compare(module, tensors)
    else:
        factory = _factory(declaration.factory or "")
        _compare(_without_memory(lambda: _made(factory, declaration.arguments)), tensors)
        # Once more, with memory: a module may hold tensors that are not in its state.
        module = _made(factory, declaration.arguments)
    module.requires_grad_(False)
    module.load_state_dict(tensors, strict=True, assign=True)
    return module


class _NoInitialisation(TorchFunctionMode):
    """Skips ``torch.nn.init``: tensors without memory have no values, yet trying costs seconds."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def _without_memory(make: Callable[[], M]) -> M:
    with torch.device("meta"), _NoInitialisation():
        return make()


def _sequence(layers: Iterable[Layer], kind: type[nn.Sequential], depth: int = 0) -> nn.Sequential:
    if depth > _MAX_DEPTH:
        raise LoadError(f"layers are nested deeper than {_MAX_DEPTH}")
    return kind(*(_layer(name, keywords, depth) for name, keywords in layers))


def _layer(name: str, keywords: dict[str, Any], depth: int) -> nn.Module:
    try:
        if name in _NESTED:
            return _sequence(msgspec.convert(keywords, _Nested).layers, _NESTED[name], depth + 1)
        if name not in LAYERS:
            raise LoadError(f"unknown layer {shown(name)}: one of {', '.join([*_NESTED, *LAYERS])}")
        known = LAYERS[name]
        if unknown := keywords.keys() - known.keys():
            raise LoadError(
                f"{name} takes no {shown(min(unknown))}; it takes {', '.join(known) or 'nothing'}"
            )
        checked = {}
        for keyword, value in keywords.items():
            try:
                checked[keyword] = msgspec.convert(value, known[keyword])
            except msgspec.ValidationError as error:
                raise LoadError(f"{name}: `{keyword}`: {error}") from None
        if "dtype" in checked:
            checked["dtype"] = getattr(torch, checked["dtype"])
        layer: nn.Module = getattr(nn, name)(**checked)
    except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise LoadError(f"{name}: {first_line(error)}") from None
    return layer


def _factory(name: str) -> Callable[..., object]:
    installed = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in installed:
        raise LoadError(
            f"factory {shown(name)}: no installed package offers it in the entry point group `{GROUP}`; "
            f"offered: {', '.join(sorted(installed)) or 'none'}"
        )
    try:
        factory: Callable[..., object] = installed[name].load()
    except Exception as error:
        raise LoadError(f"factory {shown(name)}: cannot be imported: {first_line(error)}") from error
    return factory


def _made(factory: Callable[..., object], arguments: dict[str, Any]) -> nn.Module:
    try:
        module = factory(**arguments)
    except Exception as error:
        raise LoadError(f"the factory failed: {first_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise LoadError(f"the factory made a {type(module).__name__}, not a torch.nn.Module")
    return module


def _compare(module: nn.Module, tensors: Tensors) -> None:
    """Raises LoadError unless the module's parameters and buffers are just what the file holds."""
    wanted = module.state_dict()
    for one, other, says in ((wanted, tensors, "lacks"), (tensors, wanted, "has, but the layers do not,")):
        if odd := sorted(one.keys() - other.keys()):
            more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
            raise LoadError(f"the file {says} {', '.join(shown(name) for name in odd[:3])}{more}")
    for name, tensor in wanted.items():
        if _kind(tensor) != _kind(tensors[name]):
            raise LoadError(f"{name}: the file holds {_kind(tensors[name])}, the layers need {_kind(tensor)}")


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _said_layers(module: nn.Sequential) -> list[Layer]:
    return [_said(layer) for layer in module]


def _said(layer: nn.Module) -> Layer:
    name = type(layer).__name__
    if isinstance(layer, nn.Sequential) and _NESTED.get(name) is type(layer):
        return name, {"layers": _said_layers(layer)}
    if name not in LAYERS or getattr(nn, name) is not type(layer):
        raise ValueError(f"{type(layer).__qualname__} is no layer that a declaration can name: use a factory")
    keywords: dict[str, Any] = {}
    dtypes = [tensor.dtype for tensor in layer.state_dict().values() if tensor.is_floating_point()]
    for keyword in LAYERS[name]:
        if keyword == "bias":
            keywords[keyword] = layer.bias is not None
        elif keyword != "dtype":
            keywords[keyword] = getattr(layer, keyword)
        elif dtypes:
            keywords[keyword] = str(dtypes[0]).removeprefix("torch.")
    return name, keywords


def _all(module: nn.Module) -> Iterable[nn.Module]:
    """Every layer, as often as it is used."""
    return (layer for _, layer in module.named_modules(remove_duplicate=False))


def _behaviour(layer: nn.Module) -> bytes:
    """All settings of a layer but those that change no answer."""
    ignored = {"inplace", "training"}
    settings = {key: value for key, value in vars(layer).items() if key[0] != "_" and key not in ignored}
    return msgspec.json.encode([type(layer).__name__, settings], enc_hook=repr, order="sorted")


def first_line(error: BaseException) -> str:
    """What went wrong, without the stack that torch's messages carry."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:300]}" if text else type(error).__name__
