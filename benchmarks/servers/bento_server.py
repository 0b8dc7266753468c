"""BentoML: a service with a JSON form of its own, ``{"rows": [[…]]}``."""

import bentoml
import common
import numpy as np

batching = (
    {"batchable": True, "max_batch_size": common.ROWS, "max_latency_ms": 1000} if common.ROWS > 1 else {}
)


@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Onnx:
    def __init__(self) -> None:
        self.compute = common.Computed()

    @bentoml.api(**batching)
    def infer(self, rows: np.ndarray) -> np.ndarray:
        flat = np.asarray(rows, np.float32)
        return self.compute(flat.reshape(len(flat), *self.compute.row))
