"""Each ``.binpb`` from its ``.proto``: ``python -m tests.runtime.grpc.compile_proto`` in the root."""

from __future__ import annotations

import tempfile
from pathlib import Path

FOLDER = Path(__file__).parents[3] / "runtime/modelway_runtime/serving/grpc"


PROTOCOLS = ("inference", "health", "reflection")


def compiled(name: str) -> bytes:
    """The FileDescriptorSet of a protocol as it is written now."""
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        if protoc.main(["protoc", f"--proto_path={FOLDER}", f"--descriptor_set_out={out}", f"{name}.proto"]):
            raise SystemExit(f"protoc refuses {name}.proto; what it says stands above")
        return out.read_bytes()


if __name__ == "__main__":
    for protocol in PROTOCOLS:
        (FOLDER / f"{protocol}.binpb").write_bytes(compiled(protocol))
