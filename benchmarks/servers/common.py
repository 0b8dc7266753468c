"""What the peers' servers share: the model in onnxruntime with one thread, and what they are to do."""

from __future__ import annotations

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the engine is imported, here or in a process of ours

import numpy as np
import onnxruntime

MODEL = os.environ["MODEL_NAME"]
HTTP_PORT = int(os.environ["HTTP_PORT"])
GRPC_PORT = int(os.environ["GRPC_PORT"])
ROWS = int(os.environ["BATCH_ROWS"])  # the largest batch; 1: no batching
DELAY_S = 0.001  # where a peer wants a delay above nothing


class Computed:
    """Called with rows, answers with rows."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        path = os.environ["MODEL_FILE"]
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.row = tuple(self._session.get_inputs()[0].shape[1:])
        self.answer = tuple(self._session.get_outputs()[0].shape[1:])

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return self._session.run(["output"], {"input": rows})[0]
