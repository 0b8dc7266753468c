"""LitServe: the protocol's JSON in a LitAPI."""

from typing import Any

import common
import litserve
import numpy as np
import v2


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002
        self.compute = common.Computed()

    def decode_request(self, request: dict[str, Any]) -> np.ndarray:
        tensor = request["inputs"][0]
        return np.array(tensor["data"], np.float32).reshape(tensor["shape"])

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(inputs)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.compute(rows)

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output[:, None])

    def encode_response(self, output: np.ndarray) -> dict[str, Any]:
        return v2.output(output, common.MODEL)


if __name__ == "__main__":
    batching = {"max_batch_size": common.ROWS, "batch_timeout": common.DELAY_S} if common.ROWS > 1 else {}
    api = Api(api_path=f"/v2/models/{common.MODEL}/infer", **batching)
    server = litserve.LitServer(api, accelerator="cpu")
    server.run(
        host="127.0.0.1",
        port=common.HTTP_PORT,
        log_level="error",
        access_log=False,
        generate_client_file=False,
    )
