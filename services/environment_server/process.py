"""The environment server as a process: `natgym serve env NAME`."""

import math
from pathlib import Path

from core.settings import Settings
from environments.policy import PolicyConfig
from services.arena import RolloutsConfig, open_arena
from services.environment_server.record import GroupFile
from services.environment_server.server import EnvironmentServer, health_of
from services.policies import policy_at
from services.ready import wait_until_ready
from services.run_file import RunFile
from services.sdk.rollout_client import RolloutClient

RETRY_SECONDS = math.inf
"""How long a restart of the rollout API is ridden out: the groups that were played are worth the wait."""


async def serve_environment(name: str, file: RunFile, settings: Settings, record: Path | None = None) -> None:
    """Play groups until the run is finished or the task is cancelled; prints one line once it plays.

    Raises UnknownName, ConfigError, MissingRuntime, and what EnvironmentServer.run raises.
    """
    config = file.section("rollouts", RolloutsConfig)
    url = file.with_flags(policy__kind="server").section("policy", PolicyConfig).base_url
    async with RolloutClient(config.api_url, settings.api_token, retry_seconds=RETRY_SECONDS) as client:
        await wait_until_ready(health_of(url), "the policy")
        async with open_arena(name, file, settings, await policy_at(url, file, settings)) as arena:
            print(f"environment  {name}  {config.api_url}  policy {url}", flush=True)  # noqa: T201 the command's result
            await EnvironmentServer(arena, client, config, url).run(GroupFile(record))
