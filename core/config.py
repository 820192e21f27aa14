"""Typed configuration: one frozen pydantic model per thing, read once at the top.

Values come from a TOML or YAML file, then from the environment (see core.settings), then from flags
(`--set a.b=c`); the later one wins. Unknown keys are refused with the nearest known one.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, Field, JsonValue, ValidationError

from core.errors import ConfigError, MissingRuntime, did_you_mean
from core.types import JsonObject, Value

M = TypeVar("M", bound=BaseModel)


class Config(Value):
    """Base of every configuration class: frozen, refuses unknown keys."""


def _holds_no_secret(url: str) -> str:
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise ValueError("an address is logged and shown, and must not hold a user or a password; keys go into variables")
    return url


Address = Annotated[str, Field(pattern="^https?://"), AfterValidator(_holds_no_secret)]
"""The address of a service, as a setting."""


def load_config(kind: type[M], path: Path | None = None, overrides: Sequence[str] = ()) -> M:
    """A config of that type from a file (or nothing) and `a.b=c` overrides.

    Raises ConfigError naming file, key, what was found and what would be right.
    """
    data: JsonObject = read_file(path) if path is not None else {}
    for override in overrides:
        data = _with_override(data, override)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{_source(path, overrides, error)}: {explain(kind, error)}") from error


def read_file(path: Path) -> JsonObject:
    """The mapping in a .toml, .yaml, .yml or .json file; an empty YAML file is an empty mapping."""
    try:
        data = _parse(path.suffix, path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping at the top, found {type(data).__name__}")
    return data


def validated(kind: type[M], data: Mapping[str, object], source: str) -> M:
    """`data` as a model of that type, or a ConfigError in one line."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{source}: {explain(kind, error)}") from error


def explain(kind: type[BaseModel], error: ValidationError) -> str:
    """The first thing that is wrong, in one line, with the nearest and all known keys for an unknown one."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        found = str(first["loc"][-1])
        known = _known_keys(kind, first["loc"][:-1])
        return f"unknown key {where!r}{did_you_mean(found, known) or ';'} known: {', '.join(known)}"
    if first["type"] == "missing":
        return f"{where}: is required and missing"
    if first["type"] == "value_error":  # a rule of the model itself: its message says what was found
        return f"{where or kind.__name__}: {first['msg'].removeprefix('Value error, ')}"
    return f"{where or kind.__name__}: {first['msg']}, found {str(first['input'])[:80]!r}"


def _source(path: Path | None, overrides: Sequence[str], error: ValidationError) -> str:
    """Where the first wrong value comes from: a file's key may have been set anew."""
    wrong = ".".join(str(part) for part in error.errors(include_url=False)[0]["loc"])
    keys = [override.partition("=")[0].strip() for override in overrides]
    if path is None or any(f"{wrong}.".startswith(f"{key}.") for key in keys):
        return "configuration"
    return str(path)


def _parse(suffix: str, text: str) -> JsonValue:
    if suffix == ".toml":
        return tomllib.loads(text)
    if suffix == ".json":
        return json.loads(text)
    if suffix in (".yaml", ".yml"):
        try:
            import yaml  # not needed by those who write TOML
        except ModuleNotFoundError as error:
            raise MissingRuntime("a YAML configuration needs the package 'pyyaml', which is not installed") from error
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(str(error)) from error
    raise ValueError(f"cannot read {suffix!r} files; expected .toml, .yaml, .yml or .json")


def _with_override(data: JsonObject, override: str) -> JsonObject:
    dotted, equals, text = override.partition("=")
    if not equals or not dotted.strip():
        raise ConfigError(f"--set {override}: expected key=value, such as algorithm.lr=1e-5")
    return _set(data, dotted.strip().split("."), _value(text))


def _set(data: JsonObject, keys: Sequence[str], value: JsonValue) -> JsonObject:
    head, *rest = keys
    if not rest:
        return {**data, head: value}
    inner = data.get(head, {})
    if not isinstance(inner, dict):
        raise ConfigError(f"--set {'.'.join(keys)}: {head!r} holds {inner!r}, not a section")
    return {**data, head: _set(inner, rest, value)}


def _value(text: str) -> JsonValue:
    """JSON where it is JSON (numbers, true, lists), else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _known_keys(kind: type[BaseModel], path: Sequence[int | str]) -> tuple[str, ...]:
    current = kind
    for part in path:
        field = current.model_fields.get(str(part))
        if field is None:
            break
        inner = _model_of(field.annotation)
        if inner is None:
            break
        current = inner
    return tuple(sorted(current.model_fields))


def _model_of(annotation: object) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
