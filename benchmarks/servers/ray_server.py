"""Ray Serve: one proxy, one replica."""

from __future__ import annotations

import signal
import sys

import common
import numpy as np
import ray
import v2
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

LENGTH = "inference-header-content-length"


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 0})
class Onnx:
    def __init__(self) -> None:
        self.compute = common.Computed()

    @serve.batch(max_batch_size=common.ROWS, batch_wait_timeout_s=0)
    async def together(self, parts: list[np.ndarray]) -> list[np.ndarray]:
        return list(self.compute(np.concatenate(parts))[:, None])

    async def __call__(self, request: Request) -> Response:
        length = request.headers.get(LENGTH)
        rows = v2.read(await request.body(), length)
        answer = await self.together(rows) if common.ROWS > 1 else self.compute(rows)
        body, headers = v2.write(answer, common.MODEL, binary=length is not None)
        return Response(body, headers=headers)


if __name__ == "__main__":
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200_000_000,
        _temp_dir=sys.argv[1],
    )
    serve.start(
        http_options={"host": "127.0.0.1", "port": common.HTTP_PORT},
        logging_config={"enable_access_log": False},
    )
    serve.run(Onnx.bind(), route_prefix="/")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
