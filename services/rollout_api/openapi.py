"""The dialect /v1 as an OpenAPI document, made from the types that its routes read and answer with."""

from collections.abc import Mapping
from typing import NamedTuple

from pydantic import BaseModel, JsonValue
from pydantic.json_schema import models_json_schema

from core import wire
from core.types import ScoredGroup, Update
from services.rollout_api.bodies import JSON
from services.rollout_api.messages import (
    BatchReply,
    Demand,
    DemandQuery,
    EnvironmentSpec,
    GroupFilter,
    GroupPage,
    PostQuery,
    QueueStatus,
    Receipt,
    Run,
    RunChange,
    RunSpec,
    TakeBatch,
)

REF = "#/components/schemas/{model}"
REFUSALS = {
    "400": "not parseable",
    "401": "no token",
    "403": "not for this token",
    "404": "not known",
    "409": "contradicts what was accepted",
    "413": "too large",
    "415": "another media type",
    "422": "not of its type",
    "503": "try again",
    "507": "the disk is full",
}
TEXT: JsonValue = {"type": "string", "maxLength": 200}


class Operation(NamedTuple):
    """One method of one path."""

    method: str
    path: str
    summary: str
    query: type[BaseModel] | Mapping[str, JsonValue] | None = None
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    statuses: tuple[str, ...] = ("200",)


OPERATIONS = (
    Operation("put", "/v1/environments/{name}", "Register an environment", body=EnvironmentSpec, answer=EnvironmentSpec),
    Operation("get", "/v1/demand", "How many groups to start now", query=DemandQuery, answer=Demand),
    Operation("post", "/v1/groups", "Hand over a group, once", PostQuery, ScoredGroup, Receipt, ("200", "201")),
    Operation("get", "/v1/groups", "Groups, newest first", query=GroupFilter, answer=GroupPage),
    Operation("get", "/v1/groups/{id}", "One group as it was posted", answer=ScoredGroup),
    Operation("post", "/v1/batches", "Take groups under a lease", body=TakeBatch, answer=BatchReply, statuses=("200", "204")),
    Operation("post", "/v1/batches/{batch_id}/ack", "The update used that batch", body=Update, answer=Run),
    Operation("post", "/v1/batches/{batch_id}/return", "Give a batch back", statuses=("204",)),
    Operation("post", "/v1/run", "Open a run, or go on with it", body=RunSpec, answer=Run),
    Operation("post", "/v1/run/status", "Pause, continue or finish a run", body=RunChange, answer=Run),
    Operation("get", "/v1/status", "Counts, run and environments", query={"run": TEXT}, answer=QueueStatus),
)


def openapi() -> dict[str, JsonValue]:
    """The document. Bodies may be msgpack or JSON alike; the event stream is not in it."""
    named = [model for operation in OPERATIONS for model in (operation.query, operation.body, operation.answer)]
    models = {model.__name__: model for model in named if isinstance(model, type)}
    _, schemas = models_json_schema([(models[name], "validation") for name in sorted(models)], ref_template=REF)
    paths: dict[str, JsonValue] = {}
    for operation in OPERATIONS:
        methods = paths.setdefault(operation.path, {})
        assert isinstance(methods, dict)
        methods[operation.method] = _operation(operation, schemas["$defs"])
    return {
        "openapi": "3.1.0",
        "info": {"title": "natgym rollout API", "version": "1"},
        "paths": paths,
        "components": {"schemas": schemas["$defs"]},
    }


def _operation(operation: Operation, schemas: dict[str, JsonValue]) -> dict[str, JsonValue]:
    responses: dict[str, JsonValue] = {
        status: {
            "description": "done",
            **({"content": _content(operation.answer)} if operation.answer and status != "204" else {}),
        }
        for status in operation.statuses
    }
    responses |= {status: {"description": text} for status, text in REFUSALS.items()}
    found: dict[str, JsonValue] = {
        "summary": operation.summary,
        "parameters": [*_path_parameters(operation.path), *_query_parameters(operation.query, schemas)],
        "responses": responses,
    }
    if operation.body is not None:
        found["requestBody"] = {"required": True, "content": _content(operation.body)}
    return found


def _content(model: type[BaseModel]) -> JsonValue:
    schema: JsonValue = {"schema": {"$ref": REF.format(model=model.__name__)}}
    return {JSON: schema, wire.CONTENT_TYPE: schema}


def _path_parameters(path: str) -> list[JsonValue]:
    names = [part.partition("}")[0] for part in path.split("{")[1:]]
    return [{"name": name, "in": "path", "required": True, "schema": {**_object(TEXT), "minLength": 1}} for name in names]


def _query_parameters(
    query: type[BaseModel] | Mapping[str, JsonValue] | None, schemas: dict[str, JsonValue]
) -> list[JsonValue]:
    if not isinstance(query, type):
        return [{"name": name, "in": "query", "schema": schema} for name, schema in (query or {}).items()]
    model = _object(schemas[query.__name__])
    required = model.get("required", [])
    assert isinstance(required, list)
    return [
        {"name": name, "in": "query", "required": name in required, "schema": schema}
        for name, schema in _object(model["properties"]).items()
    ]


def _object(value: JsonValue) -> dict[str, JsonValue]:
    assert isinstance(value, dict)
    return value
