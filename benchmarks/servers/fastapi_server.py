"""FastAPI on uvicorn with pydantic models, as its tutorial would have it; no batching."""

from typing import Any

import common
import numpy as np
import v2
from fastapi import FastAPI
from pydantic import BaseModel


class Tensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Request(BaseModel):
    id: str | None = None
    inputs: list[Tensor]


app = FastAPI()
compute = common.Computed()


@app.post("/v2/models/{model}/infer")
def infer(model: str, request: Request) -> dict[str, Any]:
    tensor = request.inputs[0]
    return v2.output(compute(np.array(tensor.data, np.float32).reshape(tensor.shape)), model)
