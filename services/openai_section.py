"""The section `openai` of a run's file: an OpenAI-compatible server that answers in place of our own policy.

    openai:
      base_url: http://127.0.0.1:9001/v1        --openai.base_url URL on the command line
      model_name: qwen                          left out: the first that the server names

It is another way to say the section `policy`, for those who know it from Atropos, and wins over that section of the
file; what is set on the command line wins over both. A key is the variable NATGYM_OPENAI_API_KEY, never a setting.
"""

from typing import Self

from pydantic import Field, JsonValue, model_validator

from core.config import Config, validated
from core.errors import ConfigError
from environments.policy import PolicyKind
from services.run_file import RunFile, override


class OpenAIConfig(Config):
    """What may stand in the section."""

    base_url: str = Field(default="", pattern="^(https?://.*)?$")
    model_name: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    """Of one turn."""
    timeout: float | None = None
    """Seconds."""
    num_max_requests_at_once: int | None = None
    api_key: str | None = None

    @model_validator(mode="after")
    def _says_where_and_holds_no_key(self) -> Self:
        if not self.base_url:  # not a required field: a key that is misspelt is told first
            raise ValueError("openai.base_url: is missing; expected the address of an OpenAI-compatible server")
        if self.api_key not in (None, "", "x"):  # "x" is what Atropos' examples give servers that want none
            raise ValueError("openai.api_key: a key is given by the variable NATGYM_OPENAI_API_KEY or in .env")
        return self

    def as_policy(self) -> dict[str, JsonValue]:
        """The same as settings of the section `policy`."""
        told: dict[str, JsonValue] = {
            "base_url": self.base_url,
            "kind": PolicyKind.SERVER.value
            if self.model_name
            else None,  # a server is asked what it is where no model is named
            "model": self.model_name,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens_per_turn": self.max_tokens,
            "timeout_seconds": self.timeout,
            "max_concurrency": self.num_max_requests_at_once,
        }
        return {key: value for key, value in told.items() if value is not None}


def with_openai(file: RunFile) -> RunFile:
    """The file with its section `openai`, where it has one, as its section `policy`. Raises ConfigError."""
    config = _section(file)
    if config is None:
        return file
    told = [override(f"policy.{key}", value) for key, value in config.as_policy().items()]
    return RunFile(file.path, (*told, *file.overrides))


def served_by(file: RunFile) -> str | None:
    """The address in the section `openai`; None where there is none."""
    config = _section(file)
    return config.base_url if config else None


def _section(file: RunFile) -> OpenAIConfig | None:
    found = file.sections().openai
    if isinstance(found, list):
        if len(found) != 1:
            raise ConfigError(f"openai: expected one server, found a list of {len(found)}")
        found = found[0]
    return validated(OpenAIConfig, found, f"{file.path or 'command line'}: section openai") if found else None
