"""MLServer: a runtime of our own, as it has none for ONNX."""

from __future__ import annotations

import common
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Onnx(MLModel):
    async def load(self) -> bool:
        self.compute = common.Computed()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = self.compute(NumpyCodec.decode_input(payload.inputs[0]))
        output = NumpyCodec.encode_output("output", rows)
        return InferenceResponse(id=payload.id, model_name=self.name, model_version="1", outputs=[output])
