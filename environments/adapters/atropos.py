"""An environment of Atropos, a subclass of its BaseEnv as users wrote it, played for natgym.

It makes whole groups itself: it asks the inference server, scores, and tokenises. natgym asks it for groups when they
are wanted, hands them over durably, and restarts nothing of it. Its own serve loop is not used: no sleep at the start,
no groups thrown away when the queue is full.
"""

import asyncio
import inspect
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError

from core.config import Config
from core.errors import ConfigError, MissingRuntime
from core.logs import get_logger
from core.types import JsonObject, ScoredGroup
from environments.adapters.atropos_groups import NoSample, lost_group, scored_group

IDLE_SECONDS = 1.0

log = get_logger("atropos")


class AtroposConfig(Config):
    """The section `env` of an environment of Atropos."""

    options: JsonObject = Field(default_factory=dict)
    """Fields of its own config class, over those that its `config_init` gives."""
    server_type: str = "sglang"
    """How its server manager speaks to the policy. natgym's trainer answers `sglang` with token ids and logprobs."""
    model: str = "policy"


class AtroposEnvironment:
    """One environment object. `await setup()` once, then `play` any number of groups at once."""

    def __init__(self, source: str, config: AtroposConfig, policy_url: str, token: SecretStr | None = None) -> None:
        """`source`: module:Class or path/file.py:Class. Raises ConfigError and MissingRuntime."""
        kind = load_base_env(source)
        self.name = str(kind.name or kind.__name__)
        self._environment = _made(kind, config, policy_url, token)
        self._taking = asyncio.Lock()
        self._spare: list[dict[str, Any]] = []

    async def setup(self) -> None:
        """What it needs before it can play, such as its dataset."""
        await self._environment.setup()

    async def play(self, group_id: str, size: int, policy_version: int) -> ScoredGroup:
        """A group of `size` rollouts; one that broke is a group of Failures."""
        try:
            data = self._spare.pop() if self._spare else await self._collected(size)
            return scored_group(data, self.name, group_id, policy_version)
        except Exception as raised:  # the code of somebody else
            error = raised.exceptions[0] if isinstance(raised, ExceptionGroup) else raised
            log.warning("group_lost", group=group_id, problem=f"{type(error).__name__}: {error}")
            return lost_group(self.name, group_id, size, error)

    async def _collected(self, size: int) -> dict[str, Any]:
        """A group as the environment gives it. Where it gives several at once, the others are kept for later."""
        self._environment.config.group_size = size
        item = await self._next_item()
        found, backlog = await self._collect(item, size)
        self._environment.backlog.extend(backlog)
        found = await self._environment.postprocess_histories(found) if found else found
        groups = [group for group in (found if isinstance(found, list) else [found]) if group]
        if not groups:
            raise NoSample(f"{self.name} gave no group for an item")
        self._spare += groups[1:]
        return groups[0]

    async def _collect(self, item: Any, size: int) -> tuple[Any, list[Any]]:
        """Like its own method; where that is BaseEnv's, which drops logprobs on the way, without dropping them."""
        environment = self._environment
        if not _is_inherited(type(environment), "collect_trajectories"):
            return await environment.collect_trajectories(item)
        async with asyncio.TaskGroup() as owner:
            asked = [owner.create_task(environment.collect_trajectory(item)) for _ in range(size)]
        items, backlogs = zip(*(one.result() for one in asked), strict=True)
        rows = [one for one in items if one]
        fields = ("tokens", "masks", "scores", "messages", "inference_logprobs")
        group = {field: [row.get(field) for row in rows] for field in fields}
        return {field: column for field, column in group.items() if None not in column}, [
            left for backlog in backlogs for left in backlog
        ]

    async def _next_item(self) -> Any:
        """One from its backlog, else the next one. Waits where it has none at the moment."""
        async with self._taking:
            while True:
                if self._environment.backlog:
                    return self._environment.backlog.pop()
                item = await self._environment.get_next_item()
                if item is not None:
                    return item
                await asyncio.sleep(IDLE_SECONDS)


def load_base_env(source: str) -> Any:
    """The class that is named, a subclass of BaseEnv. Raises ConfigError and MissingRuntime."""
    try:
        base = import_module("atroposlib.envs.base").BaseEnv
    except ModuleNotFoundError as error:
        raise MissingRuntime(
            f"environments of Atropos need the package {error.name!r}: pip install 'natgym[atropos]', apart from the trainer"
        ) from error
    where, _, name = source.rpartition(":")
    kind = getattr(_module(where or source), name, None)
    if not (inspect.isclass(kind) and issubclass(kind, base)):
        raise ConfigError(f"{source}: no subclass of atroposlib's BaseEnv; expected module:Class or path/file.py:Class")
    return kind


def _module(where: str) -> Any:
    path = Path(where)
    try:
        if path.suffix != ".py":
            return import_module(where)
        spec = spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise ConfigError(f"{path}: no such file")
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError as error:
        raise ConfigError(f"{where}: {error}") from error
    return module


def _made(kind: Any, config: AtroposConfig, policy_url: str, token: SecretStr | None) -> Any:
    servers = import_module("atroposlib.envs.server_handling.server_manager")
    defaults, _ = kind.config_init()
    unknown = sorted(set(config.options) - set(type(defaults).model_fields))
    if unknown:
        raise ConfigError(f"env.options.{unknown[0]}: {kind.__name__} has no such setting")
    try:
        # nothing is logged elsewhere: natgym has its own record of what was played
        own = type(defaults)(**{**defaults.model_dump(), **config.options, "use_wandb": False})
    except ValidationError as error:
        raise ConfigError(f"env.options: {error.errors(include_url=False)[0]['msg']}") from error
    server = servers.APIServerConfig(
        model_name=config.model,
        base_url=f"{policy_url.rstrip('/').removesuffix('/v1')}/v1",
        api_key=token.get_secret_value() if token else "none",
        server_type=config.server_type,
        tokenizer_name=own.tokenizer_name,
        health_check=False,  # it would ask for a completion every second
    )
    return kind(own, [server])


def _is_inherited(kind: Any, method: str) -> bool:
    return getattr(kind, method) is getattr(import_module("atroposlib.envs.base").BaseEnv, method)
