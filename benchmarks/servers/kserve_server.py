"""KServe's SDK: a subclass of its Model; REST and gRPC. It has no batching of its own."""

from __future__ import annotations

from typing import Any

import common
import kserve


class Onnx(kserve.Model):
    def __init__(self) -> None:
        super().__init__(common.MODEL)
        self.compute = common.Computed()
        self.ready = True

    def load(self) -> bool:
        return True

    def predict(self, payload: Any, *_: Any, **__: Any) -> kserve.InferResponse:
        rows = self.compute(payload.inputs[0].as_numpy())
        wanted = payload.request_outputs or []
        binary = any((output.parameters or {}).get("binary_data") for output in wanted)
        output = kserve.InferOutput("output", list(rows.shape), "FP32")
        output.set_data_from_numpy(rows, binary_data=binary or bool(payload.from_grpc))
        return kserve.InferResponse(
            response_id=payload.id or "", model_name=self.name, infer_outputs=[output]
        )


if __name__ == "__main__":
    server = kserve.ModelServer(
        http_port=common.HTTP_PORT, grpc_port=common.GRPC_PORT, access_log_format=None, enable_docs_url=False
    )
    server.start([Onnx()])
