"""The environment server as a process: `natgym serve env NAME`."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from core.settings import Settings
from environments.policy import PolicyConfig
from services.arena import RolloutsConfig, open_arena
from services.environment_server.player import ArenaPlayer
from services.environment_server.record import GroupFile
from services.environment_server.server import EnvironmentServer, health_of
from services.heap import settle_heap
from services.policies import policy_at
from services.ready import wait_until_ready
from services.rollout_api.access import Role, Tokens
from services.run_file import RunFile
from services.sdk.atropos_client import AtroposClient
from services.sdk.base import RolloutApi
from services.sdk.rollout_client import RolloutClient

RETRY_SECONDS = math.inf
"""How long a restart of the rollout API is ridden out: the groups that were played are worth the wait."""


async def serve_environment(name: str, file: RunFile, settings: Settings, record: Path | None = None) -> None:
    """Play groups until the run is finished or the task is cancelled; prints one line once it plays.

    Raises UnknownName, ConfigError, MissingRuntime, and what EnvironmentServer.run raises.
    """
    async with environment_server(name, file, settings) as server:
        settle_heap()
        print(f"environment  {name}  {api_url_of(file)}  policy {policy_url_of(file)}", flush=True)  # noqa: T201 the result
        await server.run(GroupFile(record))


@asynccontextmanager
async def environment_server(name: str, file: RunFile, settings: Settings) -> AsyncIterator[EnvironmentServer]:
    """A server that can play: its policy answers, its backend works. Everything that it opened is closed afterwards."""
    config, url = file.section("rollouts", RolloutsConfig), policy_url_of(file)
    async with rollout_api(config, settings) as client:
        await wait_until_ready(health_of(url), "the policy")
        async with open_arena(name, file, settings, await policy_at(url, file, settings.api_token)) as arena:
            yield EnvironmentServer(ArenaPlayer(arena), client, config, url)


def rollout_api(config: RolloutsConfig, settings: Settings) -> RolloutApi:
    """Where groups go: natgym's rollout API, or Atropos's where a `run_api` is named."""
    if config.run_api.url is not None:
        return AtroposClient(config.run_api.url, group_size=config.run_api.group_size, max_batches=config.run_api.max_batches)
    token = Tokens.of(settings).for_role(Role.ENVIRONMENT)
    return RolloutClient(config.api_url, token, retry_seconds=RETRY_SECONDS)


def api_url_of(file: RunFile) -> str:
    """Where the rollout API is."""
    config = file.section("rollouts", RolloutsConfig)
    return config.run_api.url or config.api_url


def policy_url_of(file: RunFile) -> str:
    """Where the policy's server is; its kind and tokenizer are asked there."""
    return file.with_flags(policy__kind="server").section("policy", PolicyConfig).base_url
