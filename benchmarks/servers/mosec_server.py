"""mosec: a front end in Rust, workers in Python. They see no headers, so bytes have a route of their own."""

from __future__ import annotations

import common
import mosec
import numpy as np
import v2


class Json(mosec.Worker):
    def __init__(self) -> None:
        self.compute = common.Computed()

    def deserialize(self, data: bytes) -> np.ndarray:
        return v2.read(data)

    def forward(self, data: np.ndarray | list[np.ndarray]) -> np.ndarray | list[np.ndarray]:
        if not isinstance(data, list):
            return self.compute(data)
        return list(self.compute(np.concatenate(data))[:, None])

    def serialize(self, data: np.ndarray) -> bytes:
        return v2.write(data, common.MODEL, binary=False)[0]


class Plain(Json):
    req_mime_type = resp_mime_type = "application/octet-stream"

    def deserialize(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, np.float32).reshape(1, *self.compute.row)

    def serialize(self, data: np.ndarray) -> bytes:
        return data.tobytes()


if __name__ == "__main__":
    routes = {f"/v2/models/{common.MODEL}/infer": Json, "/plain": Plain}
    batching = {"max_batch_size": common.ROWS, "max_wait_time": round(common.DELAY_S * 1000)}
    server = mosec.Server()
    server.register_runtime(
        {path: [mosec.Runtime(worker, num=1, **batching)] for path, worker in routes.items()}
    )
    server.run()
