"""Plays an environment of Atropos for an environment server."""

from collections.abc import Sequence
from pathlib import Path

from core.settings import Settings
from core.types import ScoredGroup, Task
from environments.adapters.atropos import AtroposConfig, AtroposEnvironment
from services.arena import RolloutsConfig
from services.environment_server.process import api_url_of, policy_url_of, rollout_api
from services.environment_server.record import GroupFile
from services.environment_server.server import EnvironmentServer, health_of
from services.environment_server.task_order import Assignment
from services.ready import wait_until_ready
from services.rollout_api.messages import Demand
from services.run_file import RunFile


class AtroposPlayer:
    """See Player. Which task is next, the environment knows itself: there is one that stands for all."""

    def __init__(self, environment: AtroposEnvironment) -> None:
        self._environment, self.name = environment, environment.name

    def tasks(self) -> Sequence[Task]:
        """See Player."""
        return (Task(id="next item", environment=self.name, messages=()),)

    async def play(self, assignment: Assignment, demand: Demand) -> ScoredGroup:
        """See Player."""
        return await self._environment.play(assignment.group_id, demand.group_size, demand.policy_version)


async def serve_atropos_environment(source: str, file: RunFile, settings: Settings, record: Path | None = None) -> None:
    """Play groups until the run is finished or the task is cancelled; prints one line once it plays.

    Raises ConfigError, MissingRuntime, and what EnvironmentServer.run raises.
    """
    config, url = file.section("rollouts", RolloutsConfig), policy_url_of(file)
    environment = AtroposEnvironment(source, file.section("env", AtroposConfig), url, settings.api_token)
    await wait_until_ready(health_of(url), "the policy")
    await environment.setup()
    async with rollout_api(config, settings) as client:
        print(f"environment  {environment.name}  {api_url_of(file)}  policy {url}", flush=True)  # noqa: T201 the result
        await EnvironmentServer(AtroposPlayer(environment), client, config, url).run(GroupFile(record))
