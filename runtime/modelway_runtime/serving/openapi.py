"""The REST interface as an OpenAPI 3.1 document, served at ``/v2/openapi.json`` and kept in the docs."""

from __future__ import annotations

from typing import Any, TypeAlias

from modelway_runtime import __version__
from modelway_runtime.serving.tensors import DTYPES

Json: TypeAlias = dict[str, Any]
_NAME = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"}
_VERSION = {"type": "string", "pattern": "^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"}
_ERRORS = {
    400: "The request is wrong; the same request will always be",
    401: "No valid credentials",
    403: "The client may not do this",
    404: "No such model, version or path",
    413: "The body is larger than the server takes",
    415: "An encoding that the server does not know",
    429: "Too much at once; try again after Retry-After seconds",
    500: "The model failed",
    503: "The model is not ready",
    504: "The deadline passed",
}


def document() -> Json:
    """The whole document. Every status that a path answers is in it."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Modelway inference server",
            "version": __version__,
            "description": "The Open Inference Protocol (V2) with the extensions for binary tensors, model "
            "configuration, statistics and the model repository.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{}, {"bearer": []}],
        "paths": {**_health(), **_models(), **_repository()},
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An API key or a JWT"}
            },
            "schemas": _schemas(),
            "responses": {
                str(status): {"description": text, "content": _content(_ref("Error"))}
                for status, text in _ERRORS.items()
            },
        },
    }


def _health() -> Json:
    free: Json = {"security": [{}]}
    return {
        "/v2": {"get": _operation("Server metadata", "serverMetadata", _ref("ServerMetadata"), 401)},
        "/v2/health/live": {
            "get": {**_operation("Whether the process works", "serverLive", _ref("Health")), **free}
            | _or_503("live", "Health")
        },
        "/v2/health/ready": {
            "get": {**_operation("Whether requests may come", "serverReady", _ref("Health")), **free}
            | _or_503("ready", "Health")
        },
    }


def _models() -> Json:
    paths: Json = {}
    for base, parameters in (
        ("/v2/models/{model}", [_parameter("model", _NAME)]),
        (
            "/v2/models/{model}/versions/{version}",
            [_parameter("model", _NAME), _parameter("version", _VERSION)],
        ),
    ):
        suffix = "Version" if "version" in base else ""
        gets = {
            "": ("Model metadata", "modelMetadata", "ModelMetadata"),
            "/config": ("Configuration, as Triton describes it", "modelConfig", "ModelConfig"),
            "/stats": ("Statistics, as Triton describes them", "modelStatistics", "Statistics"),
        }
        for path, (summary, name, schema) in gets.items():
            operation = _operation(summary, name + suffix, _ref(schema), 401, 404, 503)
            paths[base + path] = {"parameters": parameters, "get": operation}
        ready = _operation("Whether the model is ready", "modelReady" + suffix, _ref("ModelReady"))
        ready = {**ready, "security": [{}]} | _or_503("model", "ModelReady", suffix)
        paths[base + "/ready"] = {"parameters": parameters, "get": ready}
        paths[base + "/infer"] = {"parameters": parameters, "post": _infer("infer" + suffix)}
    paths["/v2/models/stats"] = {
        "get": _operation("Statistics of all models", "allStatistics", _ref("Statistics"), 401)
    }
    return paths


def _infer(name: str) -> Json:
    binary = {"schema": {"type": "string", "format": "binary"}}
    operation = _operation("Compute", name, _ref("InferenceResponse"), *_ERRORS)
    operation["parameters"] = [
        {
            "name": "Inference-Header-Content-Length",
            "in": "header",
            "required": False,
            "description": "Length of the JSON in front of binary tensors.",
            "schema": {"type": "integer", "minimum": 1},
        }
    ]
    operation["requestBody"] = {
        "required": True,
        "content": {**_content(_ref("InferenceRequest")), "application/octet-stream": binary},
    }
    operation["responses"]["200"]["content"]["application/octet-stream"] = binary
    return operation


def _repository() -> Json:
    index = _operation(
        "All models and their state", "repositoryIndex", _ref("RepositoryIndex"), 400, 401, 413, 415
    )
    index["requestBody"] = {"required": False, "content": _content(_ref("IndexRequest"))}
    paths: Json = {"/v2/repository/index": {"post": index}}
    for verb in ("load", "unload"):
        operation = _operation(
            f"{verb.capitalize()} a model", f"repository{verb.capitalize()}", {"type": "object"},
            400, 401, 403, 404, 413, 415,
        )  # fmt: skip
        paths[f"/v2/repository/models/{{model}}/{verb}"] = {
            "parameters": [_parameter("model", _NAME)],
            "post": operation,
        }
    return paths


def _operation(summary: str, name: str, schema: Json, *errors: int) -> Json:
    return {
        "summary": summary,
        "operationId": name,
        "responses": {
            "200": {"description": "Done", "content": _content(schema)},
            **{str(status): {"$ref": f"#/components/responses/{status}"} for status in errors},
        },
    }


def _or_503(what: str, schema: str, suffix: str = "") -> Json:
    """Health answers 503 with the same body when the answer is no."""
    name = {"live": "serverLive", "ready": "serverReady", "model": "modelReady"}[what] + suffix
    content = _content(_ref(schema))
    return {
        "operationId": name,
        "responses": {
            "200": {"description": "Yes", "content": content},
            "503": {"description": "No", "content": content},
        },
    }


def _parameter(name: str, schema: Json) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _content(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: list[str], **properties: Json) -> Json:
    return {"type": "object", "required": required, "properties": properties}


def _list(items: Json, **more: Any) -> Json:
    return {"type": "array", "items": items, **more}


def _schemas() -> Json:
    text, count = {"type": "string"}, {"type": "integer", "minimum": 0}
    datatype = {"type": "string", "enum": list(DTYPES)}
    parameters = {"type": "object", "additionalProperties": True}
    data = {
        "type": "array",
        "description": "Numbers, booleans or strings in row-major order, flat or nested.",
    }
    described = _object(
        ["name", "datatype", "shape"],
        name=text,
        datatype=datatype,
        shape=_list({"type": "integer", "minimum": -1}),
    )
    tensor = _object(
        ["name", "datatype", "shape"],
        name={"type": "string", "minLength": 1},
        datatype=datatype,
        shape=_list(count, maxItems=32),
        parameters=parameters,
        data=data,
    )
    output = _object(["name"], name={"type": "string", "minLength": 1}, parameters=parameters)
    state = {"type": "string", "enum": ["LOADING", "READY", "UNAVAILABLE"]}
    return {
        "Error": _object(["error"], error=text),
        "Health": _object(["live"], live={"type": "boolean"}, ready={"type": "boolean"}),
        "ModelReady": _object(["name", "ready"], name=text, ready={"type": "boolean"}),
        "ServerMetadata": _object(
            ["name", "version", "extensions"], name=text, version=text, extensions=_list(text)
        ),
        "ModelMetadata": _object(
            ["name", "versions", "platform", "inputs", "outputs"],
            name=text,
            versions=_list(text),
            platform=text,
            inputs=_list(described),
            outputs=_list(described),
        ),
        "ModelConfig": {"type": "object", "required": ["name", "platform", "max_batch_size"]},
        "Statistics": _object(["model_stats"], model_stats=_list({"type": "object"})),
        "IndexRequest": _object([], ready={"type": "boolean"}),
        "RepositoryIndex": _list(
            _object(["name", "state"], name=text, version=text, state=state, reason=text)
        ),
        "InferenceRequest": _object(
            ["inputs"],
            id={"type": "string", "maxLength": 1024},
            parameters=parameters,
            inputs=_list(tensor, minItems=1),
            outputs=_list(output),
        ),
        "InferenceResponse": _object(
            ["model_name", "model_version", "outputs"],
            model_name=text,
            model_version=text,
            id=text,
            parameters=parameters,
            outputs=_list(tensor),
        ),
    }
