"""Which extra brings what is missing: the one place that turns a missing module into what to install.

``pip install modelway`` brings the compiler only; each command of the runtime has an extra of its own.
"""

from __future__ import annotations

_OF_COMMAND = {
    "serve": "runtime", "check": "runtime", "fetch": "runtime", "key": "runtime", "openapi": "runtime",
    "detect": "detect", "watch": "detect", "gate": "detect", "replay": "detect",
}  # fmt: skip
_OF_MODULE = {  # beside the command's own
    "torch": ("runtime", "torch"),
    "safetensors": ("runtime", "torch"),
    "onnxruntime": ("runtime",),
    "pyarrow": ("detect", "parquet"),
    "kubernetes": ("detect", "restart"),
}
_PACKAGES = {  # module -> package, where their names differ
    "github": "PyGithub",
    "google": "protobuf",
    "grpc": "grpcio",
    "jwt": "PyJWT",
    "yaml": "PyYAML",
}


def lacking(error: ImportError, who: str, command: str | None = None) -> str | None:
    """``<who> needs <package>: pip install 'modelway[…]'``; None where no package is missing.

    ``command`` is the command that runs, where the module alone does not tell the extra.
    """
    module = (error.name or "").partition(".")[0]
    if not module or module == __package__ or not isinstance(error, ModuleNotFoundError):
        return None
    extras = _OF_MODULE.get(module) or (_OF_COMMAND.get(command or "", "runtime"),)
    return f"{who} needs {_PACKAGES.get(module, module)}: pip install 'modelway[{','.join(extras)}]'"
