"""Whether a server answers at all, and with the numbers that onnxruntime gives."""

from __future__ import annotations

import json
from collections.abc import Mapping

import grpc
import numpy as np
from load import Request, exchange_bytes
from processes import HOST, Address
from serving_models import GRPC_INFER, Array, Model

from modelway_runtime.serving.grpc.messages import ModelInferResponse

TIMEOUT_S = 20.0
PREFIX = 5  # bytes that gRPC puts before a message


class NoAnswerError(Exception):
    """Nobody listens yet, or the answer is an error."""


class WrongAnswerError(Exception):
    """A server computes something else; its figures would mean nothing."""


def check(address: Address, form: str, request: Request, model: Model, headers: Mapping[str, str]) -> None:
    """Send one request. Raises NoAnswerError and WrongAnswerError."""
    if request.grpc:
        found = _over_grpc(address, request, headers)
    else:
        found = _over_http(address, form, request, headers)
    expected = model.expected.ravel()
    if found.shape != expected.shape or not np.allclose(found, expected, rtol=2e-3, atol=1e-4):
        raise WrongAnswerError(f"answers {found[:4]} and not {expected[:4]}")


def _over_http(address: Address, form: str, request: Request, headers: Mapping[str, str]) -> Array:
    body = request.body.read_bytes()
    sent = {**request.headers, **headers}
    status, received, answer = exchange_bytes(address.http, "POST", request.path, body, sent)
    if status != 200:
        raise NoAnswerError(f"status {status}: {answer[:300]!r}")
    if form.endswith("plain"):
        return np.frombuffer(answer, np.float32)
    length = received.get("inference-header-content-length")
    document = json.loads(answer[: int(length)] if length else answer)
    if form == "nested":
        return np.array(document, np.float32).ravel()
    if length:
        return np.frombuffer(answer, np.float32, offset=int(length))
    return np.array(document["outputs"][0]["data"], np.float32).ravel()


def _over_grpc(address: Address, request: Request, headers: Mapping[str, str]) -> Array:
    with grpc.insecure_channel(f"{HOST}:{address.grpc}") as channel:
        call = channel.unary_unary(GRPC_INFER)
        message = request.body.read_bytes()[PREFIX:]
        try:
            answer = call(message, timeout=TIMEOUT_S, metadata=tuple(headers.items()))
        except grpc.RpcError as error:
            raise NoAnswerError(str(error)[:300]) from None
    response = ModelInferResponse.FromString(answer)
    if response.raw_output_contents:
        return np.frombuffer(response.raw_output_contents[0], np.float32)
    return np.array(response.outputs[0].contents.fp32_contents, np.float32)
