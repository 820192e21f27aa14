"""Environment, policy and backend by name, opened together and closed together."""

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import Field, JsonValue

from backends.base import BACKENDS, Backend
from core.config import Address, Config
from core.errors import ConfigError, UnknownName
from core.settings import Settings
from environments.agent_loop import EpisodeLimits
from environments.base import ENVIRONMENTS, Environment
from environments.ephemeral import steered
from environments.episode import Arena
from environments.policy import Policy
from services.run_file import RunFile

OpenPolicy = Callable[[Environment], Policy]


class RunApiConfig(Config):
    """The section `rollouts.run_api`: a server of Atropos that groups are made for, in place of natgym's rollout API."""

    url: Address | None = None
    group_size: int = Field(default=8, ge=1, description="rollouts of one group; natgym's own API says this itself")
    max_batches: int = Field(default=2, ge=1, description="batches that may wait or be played at once")


class RolloutsConfig(Config):
    """The section `rollouts` of a run's file: where and how episodes are played."""

    api_url: Address = "http://127.0.0.1:8000"
    run_api: RunApiConfig = RunApiConfig()
    backend: str = "local"
    seed: int = Field(default=0, description="order of the tasks")
    max_groups: int = Field(default=16, ge=1, description="groups that one server plays at once")
    limits: EpisodeLimits = EpisodeLimits()
    ephemeral_system_prompt: str = ""
    """Words that the policy reads at the end of its system message and that no saved conversation holds."""


@asynccontextmanager
async def open_arena(name: str, file: RunFile, settings: Settings, open_policy: OpenPolicy) -> AsyncIterator[Arena]:
    """The arena of the environment of that name.

    Raises UnknownName, ConfigError and MissingRuntime before anything has been started that would have to be freed.
    """
    config = file.section("rollouts", RolloutsConfig)
    environment = make_environment(name, file, settings)
    backend = make_backend(config.backend, file)
    await backend.probe()
    policy = steered(open_policy(environment), config.ephemeral_system_prompt)
    try:
        async with environment:
            yield Arena(environment, policy, backend, config.limits)
    finally:
        await policy.aclose()
        await backend.aclose()


def make_backend(name: str, file: RunFile) -> Backend:
    """The backend of that name, with the settings of the section `backend` where it has any. Raises ConfigError."""
    kind = BACKENDS.load(name)
    config_type: type[Config] | None = getattr(kind, "config_type", None)
    if config_type is not None:
        return kind(file.section("backend", config_type))  # type: ignore[call-arg]
    if found := file.sections().backend:
        raise ConfigError(f"backend.{min(found)}: the backend {name!r} has no settings")
    return kind()


def environment_type(name: str) -> type[Environment]:
    """The environment of that name, or that `module:Class` leads to, also where the module lies in this folder.

    Raises UnknownName, MissingRuntime, and ConfigError where it leads to something else.
    """
    here = str(Path.cwd())
    if ":" in name and here not in sys.path:
        sys.path.append(here)  # at the end: it adds a module of the user's and hides none
    try:
        kind = ENVIRONMENTS.load(name)
    except UnknownName as error:
        if ":" not in name and not name.endswith(".py"):
            raise
        raise ConfigError(f"{error}; one of your own is module:Class, its module in this folder or installed") from error
    if Environment not in getattr(kind, "__mro__", ()):
        raise ConfigError(f"environment {name!r}: expected a subclass of environments.base.Environment, found {kind!r}")
    return kind  # type: ignore[return-value]


def make_environment(name: str, file: RunFile, settings: Settings) -> Environment:
    """The environment of that name with the settings of the section `env`, not entered yet."""
    kind = environment_type(name)
    known = kind.config_type.model_fields
    variables: dict[str, JsonValue] = {
        key: str(getattr(settings, key)) for key in ("nat_python",) if key in known and key in settings.model_fields_set
    }
    searches = "tools" in known and "web" in getattr(known["tools"].annotation, "model_fields", {})
    if settings.exa_api_key is not None and searches:
        variables["tools.web.exa_api_key"] = settings.exa_api_key.get_secret_value()
    return kind(file.section("env", kind.config_type, variables))  # type: ignore[call-arg]
