"""The messages are the protocol's, and live beside those of a client library."""

from __future__ import annotations

from typing import Any

import pytest
import tritonclient.grpc.model_config_pb2 as triton_config
import tritonclient.grpc.service_pb2 as triton
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from modelway_runtime.serving.grpc import messages
from tests.runtime.grpc.compile_proto import FOLDER, PROTOCOLS, compiled


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_compiled_protocols_are_not_stale(name: str) -> None:
    now = FileDescriptorSet.FromString(compiled(name))
    stored = FileDescriptorSet.FromString((FOLDER / f"{name}.binpb").read_bytes())
    assert stored == now, "run: python -m tests.runtime.grpc.compile_proto"


@pytest.mark.parametrize(
    ("name", "theirs"), [("health", health_pb2.DESCRIPTOR), ("reflection", reflection_pb2.DESCRIPTOR)]
)
def test_health_and_reflection_are_those_of_grpc(name: str, theirs: Any) -> None:
    ours = messages.POOL.FindFileByName(f"{name}.proto")
    assert ours.package == theirs.package
    assert ours.message_types_by_name
    for message in ours.message_types_by_name.values():
        _same_message(message, theirs.message_types_by_name[message.name])
        assert set(message.fields_by_number) == set(
            theirs.message_types_by_name[message.name].fields_by_number
        )
    (service,) = ours.services_by_name.values()
    _same_methods(service.methods, theirs.services_by_name[service.name].methods_by_name)


def test_names_numbers_and_types_are_those_of_triton() -> None:
    theirs = dict(triton.DESCRIPTOR.message_types_by_name) | dict(
        triton_config.DESCRIPTOR.message_types_by_name
    )
    ours = messages.POOL.FindFileByName("inference.proto")
    assert ours.package == "inference"
    for name, message in ours.message_types_by_name.items():
        _same_message(message, theirs[name])
    for name, enum in ours.enum_types_by_name.items():
        _same_enum(enum, triton_config.DESCRIPTOR.enum_types_by_name[name])
    their_service = triton.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    methods = ours.services_by_name["GRPCInferenceService"].methods
    assert len(methods) == 12
    _same_methods(methods, their_service)


def test_inference_messages_lack_nothing() -> None:
    for name in ("ModelInferRequest", "ModelInferResponse", "InferTensorContents", "InferParameter"):
        theirs = triton.DESCRIPTOR.message_types_by_name[name]
        ours = messages.POOL.FindMessageTypeByName(f"inference.{name}")
        assert set(ours.fields_by_number) == set(theirs.fields_by_number)


def test_the_pool_is_private() -> None:
    assert messages.ModelInferRequest is not triton.ModelInferRequest
    assert messages.ModelInferRequest.DESCRIPTOR is not triton.ModelInferRequest.DESCRIPTOR
    data = triton.ModelInferRequest(model_name="m", id="1").SerializeToString()
    assert messages.ModelInferRequest.FromString(data).model_name == "m"


def _same_methods(ours: Any, theirs: Any) -> None:
    assert ours
    for method in ours:
        other = theirs[method.name]
        assert method.input_type.full_name == other.input_type.full_name
        assert method.output_type.full_name == other.output_type.full_name
        assert method.client_streaming == other.client_streaming
        assert method.server_streaming == other.server_streaming


def _same_message(ours: Any, theirs: Any) -> None:
    for field in ours.fields:
        other = theirs.fields_by_number[field.number]
        assert (field.name, field.type, field.is_repeated) == (other.name, other.type, other.is_repeated)
        assert bool(field.containing_oneof) == bool(other.containing_oneof), field.full_name
        if field.message_type:
            assert field.message_type.full_name == other.message_type.full_name
        if field.enum_type:
            assert field.enum_type.full_name == other.enum_type.full_name
    for nested in ours.nested_types:
        _same_message(nested, theirs.nested_types_by_name[nested.name])
    for enum in ours.enum_types:
        _same_enum(enum, theirs.enum_types_by_name[enum.name])


def _same_enum(ours: Any, theirs: Any) -> None:
    assert {v.name: v.number for v in ours.values} == {v.name: v.number for v in theirs.values}
