"""Whoever is to answer, from what stands on the command line: gold, expert, an address or a directory."""

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol, TypeGuard
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from core.errors import ConfigError, PolicyError, UserError
from core.settings import Settings
from core.types import JsonObject, Task
from environments.base import Environment
from environments.completion_client import root_of
from environments.gold_policy import GoldPolicy
from environments.policy import Completion, CompletionRequest, Policy, PolicyConfig, open_policy
from environments.resampling import resampled
from services.arena import OpenPolicy
from services.bind import is_loopback
from services.run_file import RunFile


class Demonstrator(Protocol):
    """An environment with a scripted expert that errs by choice."""

    def demonstration(self, task: Task, seed: int) -> Sequence[str]:
        """Completions of the expert, one a turn; the same seed gives the same ones."""
        ...


class ExpertPolicy:
    """Plays an environment's scripted expert; each episode draws mistakes of its own."""

    def __init__(self, environment: Demonstrator, seed: int) -> None:
        self._environment, self._seed = environment, seed

    async def complete(self, request: CompletionRequest) -> Completion:
        """The next turn; see Policy."""
        digest = hashlib.sha256(f"{self._seed}-{request.episode_id}".encode()).digest()
        number = int.from_bytes(digest[:6])
        return await GoldPolicy(lambda task: self._environment.demonstration(task, number)).complete(request)

    async def aclose(self) -> None:
        """Nothing is open."""


def gold(environment: Environment) -> Policy:
    """The gold answers of an environment."""
    return GoldPolicy(environment.gold)


def expert(seed: int) -> OpenPolicy:
    """The scripted expert of an environment. Raises UserError where it has none."""

    def opened(environment: Environment) -> Policy:
        if not _demonstrates(environment):
            raise UserError(f"environment {environment.name!r} has no scripted expert; --policy gold plays its gold answers")
        return ExpertPolicy(environment, seed)

    return opened


SCRIPTED: dict[str, Callable[[int], OpenPolicy]] = {"gold": lambda seed: gold, "expert": expert}


@asynccontextmanager
async def named_policy(text: str, file: RunFile, settings: Settings, seed: int = 0) -> AsyncIterator[OpenPolicy]:
    """What opens the policy of that description, alive as long as the block: gold, expert, an address or a directory.

    A directory is served in this process. Raises ConfigError for anything else.
    """
    if text in SCRIPTED:
        yield SCRIPTED[text](seed)
    elif text.startswith(("http://", "https://")):
        yield await policy_at(text, file, key_for(text, settings))
    elif holds(text, "config.json"):
        from services.trainer_server.serving import served_model

        async with served_model(Path(text), settings.api_token) as url:
            yield await policy_at(url, file, settings.api_token)
    else:
        raise ConfigError(f"--policy {text}: expected gold, expert, an address (http://...) or a directory with a config.json")


async def policy_at(url: str, file: RunFile, token: SecretStr | None) -> OpenPolicy:
    """What opens the policy behind an address: in tokens where its tokenizer is known here, else as an OpenAI server.

    The token is sent to that server.
    """
    root = root_of(url)
    wanted = file.with_flags(policy__base_url=root)
    wanted.with_flags(policy__kind="server").section("policy", PolicyConfig)  # a mistake is told before the server is asked
    told = file.sections().policy.keys()
    if not {"kind", "tokenizer"} & told:
        served = await _first_model(root, token)
        wanted = wanted.with_flags(**_kind_of(served), **({} if "max_tokens" in told else _length_of(served)))
    config = wanted.section("policy", PolicyConfig)
    return lambda environment: resampled(open_policy(config, token), config.resamples)


def key_for(url: str, settings: Settings) -> SecretStr | None:
    """Our own token stays on this machine: who listens at an address elsewhere is told the key for such servers, or none."""
    return settings.api_token if _is_here(url) else settings.openai_api_key


def _is_here(url: str) -> bool:
    return is_loopback(urlsplit(url).hostname or "")


def _kind_of(served: JsonObject) -> dict[str, str]:
    """Flags for the section `policy`, from what the server says of its one model."""
    path = served.get("path")
    if isinstance(path, str) and holds(path, "tokenizer.json"):
        return {"policy__kind": "tokens", "policy__tokenizer": path}
    return {"policy__kind": "server", "policy__model": str(served.get("id", "policy"))}


def _length_of(served: JsonObject) -> dict[str, int]:
    """No conversation may become longer than the server takes; it also wants room for one token."""
    longest = served.get("max_model_len")
    return {"policy__max_tokens": longest} if isinstance(longest, int) and longest > 0 else {}


async def _first_model(root: str, token: SecretStr | None) -> JsonObject:
    headers = {"authorization": f"Bearer {token.get_secret_value()}"} if token else {}
    try:
        async with httpx.AsyncClient(timeout=10.0, trust_env=False) as http:
            answer = await http.get(f"{root}/v1/models", headers=headers)
            answer.raise_for_status()
            first = answer.json()["data"][0]
    except httpx.HTTPStatusError as error:
        status, variable = error.response.status_code, "NATGYM_API_TOKEN" if _is_here(root) else "NATGYM_OPENAI_API_KEY"
        hint = f"; the key for it is {variable}" if status in (401, 403) else ""
        raise PolicyError(f"{root}/v1/models: answered {status}{hint}") from error
    except httpx.HTTPError as error:
        raise PolicyError(f"{root}/v1/models: no answer: {error or type(error).__name__}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise PolicyError(f"{root}/v1/models: not a list of models") from error
    if not isinstance(first, dict):
        raise PolicyError(f"{root}/v1/models: not a list of models")
    return first


def holds(directory: str, name: str) -> bool:
    """Whether there is a file of that name in a directory."""
    return Path(directory, name).is_file()


def _demonstrates(environment: Environment) -> TypeGuard[Demonstrator]:
    return callable(getattr(environment, "demonstration", None))
