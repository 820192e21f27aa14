"""The process environment and `.env`, read in one place and nowhere else.

`.env` of the working directory fills in what the process environment does not say. Everything is optional. An
unknown NATGYM_ name in `.env` is refused; in the process environment only one that looks like a known name, because
container platforms put variables of their own there (NATGYM_SERVICE_HOST for a service called natgym).
"""

import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path

from pydantic import SecretStr, ValidationError

from core.errors import ConfigError
from core.logs import LogLevel
from core.types import Value

PREFIX = "NATGYM_"
FIRST_INHERITED = 3  # sd_listen_fds(3)


class Settings(Value):
    """What a user may set outside of configuration files. Variables are the upper-case names with NATGYM_ before."""

    nat_python: Path = Path(".venv-nat/bin/python")
    """Interpreter of the NAT runtime's own environment; `make nat` makes it."""
    api_token: SecretStr | None = None
    """Bearer token that the services want from each other; required where they listen beyond loopback."""
    environment_token: SecretStr | None = None
    """Bearer token with which environment servers may do their part at the rollout API, and nothing else."""
    trainer_token: SecretStr | None = None
    """The same for trainers."""
    reader_token: SecretStr | None = None
    """The same for those that only look."""
    openai_api_key: SecretStr | None = None
    """Key of a remote OpenAI-compatible server, where a policy or planner uses one."""
    exa_api_key: SecretStr | None = None
    """Key of the web search Exa, for environments whose tools search the web."""
    log_level: LogLevel = LogLevel.INFO
    log_json: bool = False


def read_settings(environ: Mapping[str, str] | None = None, dotenv: Path = Path(".env")) -> Settings:
    """The settings in force: process environment over `.env` over defaults; an empty variable counts as unset.

    Raises ConfigError for a line of `.env` that is not NAME=value, for an unknown name and for a wrong value.
    """
    in_file, in_process = read_dotenv(dotenv), os.environ if environ is None else environ
    _refuse_unknown(str(dotenv), in_file, only_lookalikes=False)
    _refuse_unknown("environment", in_process, only_lookalikes=True)
    variables = {**in_file, **in_process}
    found = {name: variables[_variable(name)] for name in Settings.model_fields if variables.get(_variable(name))}
    try:
        return Settings.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(f"{_variable(str(first['loc'][0]))}: {first['msg']}") from error


def read_secret(variable: str, environ: Mapping[str, str] | None = None, dotenv: Path = Path(".env")) -> SecretStr | None:
    """A key under the name that its own service gave it (TINKER_API_KEY); found and overridden as in `read_settings`."""
    variables = {**read_dotenv(dotenv), **(os.environ if environ is None else environ)}
    value = variables.get(variable)
    return SecretStr(value) if value else None


def read_dotenv(path: Path) -> dict[str, str]:
    """NAME=value lines of a `.env` file; blank lines, comments, `export` and quotes round a value are dropped."""
    if not path.is_file():
        return {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    values: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip().removeprefix("export ")
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise ConfigError(f"{path}:{number}: expected NAME=value")  # what was found may be a secret
        values[name.strip()] = _unquoted(value.strip())
    return values


def child_environ(**extra: str) -> dict[str, str]:
    """The environment that natgym's own child processes start with: ours, plus what is given."""
    return {**os.environ, **extra}


def inherited_descriptor(environ: Mapping[str, str] | None = None) -> int | None:
    """The listening socket that a supervisor hands to this process, as systemd does; None where there is none."""
    variables = os.environ if environ is None else environ
    meant = variables.get("LISTEN_PID") == str(os.getpid()) and variables.get("LISTEN_FDS") == "1"
    return FIRST_INHERITED if meant else None


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _unquoted(value: str) -> str:
    """The text between matching quotes, or the text before ` #`."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value.partition(" #")[0].rstrip()


def _refuse_unknown(source: str, variables: Iterable[str], *, only_lookalikes: bool) -> None:
    known = sorted(Settings.model_fields)
    for variable in variables:
        name = variable.removeprefix(PREFIX).lower()
        if not variable.startswith(PREFIX) or name in known:
            continue
        near = get_close_matches(name, known, n=1)
        if near or not only_lookalikes:
            hint = f"; did you mean {_variable(near[0])!r}?" if near else ""
            raise ConfigError(f"{source}: unknown variable {variable!r}{hint or ';'} known: {', '.join(map(_variable, known))}")
