"""The messages of all services (inference, health, reflection), in a descriptor pool of their own.

Every client library registers its own ``inference.*`` messages in protobuf's default pool, which takes a
name only once; with a private pool the server and any one of them live in the same process. Made from
descriptors when the module is imported, they work with each protobuf that can read those: generated code
asks for a protobuf no older than the compiler that wrote it.
"""

from __future__ import annotations

from importlib import resources
from typing import Any, TypeAlias

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

Message: TypeAlias = Any
"""An instance of a class below: protobuf makes the classes, so no checker can know their fields."""
SERVICE = "inference.GRPCInferenceService"


_FILES = ("inference", "health", "reflection")


def _make_pool() -> DescriptorPool:
    pool = DescriptorPool()
    for name in _FILES:
        described = resources.files(__package__).joinpath(f"{name}.binpb").read_bytes()
        for file in FileDescriptorSet.FromString(described).file:
            pool.AddSerializedFile(file.SerializeToString())
    return pool


POOL = _make_pool()


def services() -> list[str]:
    """The full names of all services."""
    files = (POOL.FindFileByName(f"{name}.proto") for name in _FILES)
    return sorted(service.full_name for file in files for service in file.services_by_name.values())


def _message(name: str, package: str = "inference") -> Any:
    return GetMessageClass(POOL.FindMessageTypeByName(f"{package}.{name}"))


ServerLiveRequest = _message("ServerLiveRequest")
ServerLiveResponse = _message("ServerLiveResponse")
ServerReadyRequest = _message("ServerReadyRequest")
ServerReadyResponse = _message("ServerReadyResponse")
ModelReadyRequest = _message("ModelReadyRequest")
ModelReadyResponse = _message("ModelReadyResponse")
ServerMetadataRequest = _message("ServerMetadataRequest")
ServerMetadataResponse = _message("ServerMetadataResponse")
ModelMetadataRequest = _message("ModelMetadataRequest")
ModelMetadataResponse = _message("ModelMetadataResponse")
ModelInferRequest = _message("ModelInferRequest")
ModelInferResponse = _message("ModelInferResponse")
ModelStreamInferResponse = _message("ModelStreamInferResponse")
ModelConfigRequest = _message("ModelConfigRequest")
ModelConfigResponse = _message("ModelConfigResponse")
ModelStatisticsRequest = _message("ModelStatisticsRequest")
ModelStatisticsResponse = _message("ModelStatisticsResponse")
RepositoryIndexRequest = _message("RepositoryIndexRequest")
RepositoryIndexResponse = _message("RepositoryIndexResponse")
RepositoryModelLoadRequest = _message("RepositoryModelLoadRequest")
RepositoryModelLoadResponse = _message("RepositoryModelLoadResponse")
RepositoryModelUnloadRequest = _message("RepositoryModelUnloadRequest")
RepositoryModelUnloadResponse = _message("RepositoryModelUnloadResponse")

HealthCheckRequest = _message("HealthCheckRequest", "grpc.health.v1")
HealthCheckResponse = _message("HealthCheckResponse", "grpc.health.v1")
ServerReflectionRequest = _message("ServerReflectionRequest", "grpc.reflection.v1alpha")
ServerReflectionResponse = _message("ServerReflectionResponse", "grpc.reflection.v1alpha")
