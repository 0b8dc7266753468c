"""TorchServe: a handler that computes with onnxruntime. It is packed alone, so it shares no code."""

from __future__ import annotations

import os
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the engine is imported, here or in a process of ours

import numpy as np
import onnxruntime


class Handler:
    def initialize(self, context: Any) -> None:  # noqa: ARG002
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        path = os.environ["MODEL_FILE"]
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.row = tuple(self.session.get_inputs()[0].shape[1:])
        self.initialized = True

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[Any]:  # noqa: ARG002
        bodies = [item.get("body", item.get("data")) for item in data]
        rows = np.concatenate([self._rows(body) for body in bodies])
        answers = self.session.run(["output"], {"input": rows})[0]
        return [self._written(body, answer) for body, answer in zip(bodies, answers, strict=True)]

    def _rows(self, body: Any) -> np.ndarray:
        """TorchServe parses JSON itself and hands other bodies over as bytes."""
        if isinstance(body, dict):
            return np.array(body["inputs"][0]["data"], np.float32).reshape(1, *self.row)
        return np.frombuffer(body, np.float32).reshape(1, *self.row)

    @staticmethod
    def _written(body: Any, answer: np.ndarray) -> Any:
        if not isinstance(body, dict):
            return answer.tobytes()
        tensor = {"name": "output", "datatype": "FP32", "shape": [1, len(answer)], "data": answer.tolist()}
        return {"outputs": [tensor]}
