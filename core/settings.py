"""The process environment and `.env`, read in one place and nowhere else.

`.env` of the working directory fills in what the process environment does not say. Everything is optional.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from core.config import validated
from core.errors import ConfigError
from core.types import Value

PREFIX = "NATGYM_"


class Settings(Value):
    """What a user may set outside of configuration files. Variables are the upper-case names with NATGYM_ before."""

    nat_python: Path = Path(".venv-nat/bin/python")
    """Interpreter of the NAT runtime's own environment; `make nat` makes it."""
    api_token: SecretStr | None = None
    """Bearer token that the services want from each other; required where they listen beyond loopback."""
    openai_api_key: SecretStr | None = None
    """Key of a remote OpenAI-compatible server, where a policy or planner uses one."""
    log_level: str = "info"
    log_json: bool = False


def read_settings(environ: Mapping[str, str] | None = None, dotenv: Path = Path(".env")) -> Settings:
    """The settings in force: process environment over `.env` over defaults.

    Raises ConfigError for a line of `.env` that is not NAME=value and for a value of the wrong type.
    """
    variables = {**read_dotenv(dotenv), **(os.environ if environ is None else environ)}
    known = {PREFIX + name.upper(): name for name in Settings.model_fields}
    found = {field: variables[variable] for variable, field in known.items() if variables.get(variable)}
    return validated(Settings, found, "environment")


def read_dotenv(path: Path) -> dict[str, str]:
    """NAME=value lines of a `.env` file; comments and blank lines are skipped, quotes around a value removed."""
    if not path.is_file():
        return {}
    values: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.strip().removeprefix("export ")
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise ConfigError(f"{path}:{number}: expected NAME=value, found {text.split('=')[0][:20]!r}")
        values[name.strip()] = value.strip().strip("\"'")
    return values


def child_environ(**extra: str) -> dict[str, str]:
    """The environment that natgym's own child processes start with: ours, plus what is given."""
    return {**os.environ, **extra}
