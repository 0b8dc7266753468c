"""The standard reflection service of gRPC, for callers that may ask something.

The package grpcio-reflection is generated for a newer protobuf than the clients of the protocol allow; its
messages are therefore made here, as those of the protocol are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from modelway_runtime.serving.grpc import messages
from modelway_runtime.serving.grpc.messages import Message

SERVICE = "grpc.reflection.v1alpha.ServerReflection"


class Reflection:
    """Describes every service of the server.

    ``authenticated`` ends the RPC where its caller is not known.
    """

    def __init__(self, authenticated: Callable[[Any], Awaitable[None]]) -> None:
        self._authenticated = authenticated

    def handlers(self) -> Any:
        """The RPC, by name."""
        info = grpc.stream_stream_rpc_method_handler(
            self._info,
            messages.ServerReflectionRequest.FromString,
            messages.ServerReflectionResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"ServerReflectionInfo": info})

    async def _info(self, requests: AsyncIterator[Message], context: Any) -> AsyncIterator[Message]:
        await self._authenticated(context)
        async for request in requests:
            yield _answer(request)


def _answer(request: Message) -> Message:
    answer = messages.ServerReflectionResponse(original_request=request)
    asked = request.WhichOneof("message_request")
    try:
        if asked == "list_services":
            for name in messages.services():
                answer.list_services_response.service.add(name=name)
        elif asked == "file_by_filename":
            _describe(answer, messages.POOL.FindFileByName(request.file_by_filename))
        elif asked == "file_containing_symbol":
            _describe(answer, _file_of(request.file_containing_symbol))
        elif asked == "all_extension_numbers_of_type":  # no message of the server can be extended
            message = messages.POOL.FindMessageTypeByName(request.all_extension_numbers_of_type)
            answer.all_extension_numbers_response.base_type_name = message.full_name
        elif asked == "file_containing_extension":
            _refuse(answer, grpc.StatusCode.NOT_FOUND)
        else:
            _refuse(answer, grpc.StatusCode.INVALID_ARGUMENT)
    except KeyError:
        _refuse(answer, grpc.StatusCode.NOT_FOUND)
    return answer


def _file_of(symbol: str) -> Any:
    """Where a message, an enum, a service or one of its methods is declared. Raises KeyError."""
    service, _, method = symbol.rpartition(".")
    if service in messages.services():
        return messages.POOL.FindServiceByName(service).methods_by_name[method].containing_service.file
    return messages.POOL.FindFileContainingSymbol(symbol)


def _describe(answer: Message, file: Any) -> None:
    """The file; none of ours depends on another."""
    described = FileDescriptorProto()
    file.CopyToProto(described)
    answer.file_descriptor_response.file_descriptor_proto.append(described.SerializeToString())


def _refuse(answer: Message, code: grpc.StatusCode) -> None:
    number, text = code.value
    answer.error_response.error_code = number
    answer.error_response.error_message = text
