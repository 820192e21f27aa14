"""The file of a run: one section a part, read by the process that needs it.

    [env]       the environment's own settings          [policy]   how the policy is asked and samples
    [rollouts]  where and how episodes are played       [trainer]  the model, how it learns, how it is served
    [api]       the rollout API                         [backend]  the sandboxes' own settings: the host of `ssh`, say
    [openai]    an OpenAI-compatible server in place of the policy: see services/openai_section.py

A key of one section is `section.key` for `--set`, and `--section.key VALUE` is the same. Flags win over `--set`, that
over variables, those over the file.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, Field, JsonValue, create_model

from core.config import Config, load_config
from core.types import JsonObject

M = TypeVar("M", bound=BaseModel)

NAT_SMALL = Path(__file__).parent / "configs" / "nat_small.toml"
"""What `natgym up` uses unless told otherwise."""


class Sections(Config):
    """The sections that a file may have; what is in them is checked by whoever reads one."""

    env: JsonObject = Field(default_factory=dict)
    policy: JsonObject = Field(default_factory=dict)
    rollouts: JsonObject = Field(default_factory=dict)
    trainer: JsonObject = Field(default_factory=dict)
    openai: JsonObject | list[JsonObject] = Field(default_factory=dict)
    api: JsonObject = Field(default_factory=dict)
    backend: JsonObject = Field(default_factory=dict)


@dataclass(frozen=True)
class RunFile:
    """A file and what is set over it, `section.key=value` each; a later one wins."""

    path: Path | None = None
    overrides: tuple[str, ...] = ()

    def section(self, name: str, kind: type[M], variables: Mapping[str, JsonValue] | None = None) -> M:
        """One section as a config of that type; `variables` come from the environment.

        Raises ConfigError naming file, key, what was found and what would be right.
        """
        field = (kind, Field(default_factory=dict, validate_default=True))
        shape = create_model("Sections", __base__=Sections, **{name: field})  # pyright: ignore
        settings = [override(f"{name}.{key}", value) for key, value in (variables or {}).items()]
        return getattr(load_config(shape, self.path, [*settings, *self.overrides]), name)

    def sections(self) -> Sections:
        """All sections, unread. Raises ConfigError for an unknown one."""
        return load_config(Sections, self.path, self.overrides)

    def with_flags(self, **flags: JsonValue) -> "RunFile":
        """The same with `section__key=value` on top, those that are not None."""
        given = [override(key.replace("__", "."), value) for key, value in flags.items() if value is not None]
        return RunFile(self.path, (*self.overrides, *given))

    def arguments(self) -> list[str]:
        """The arguments that give another natgym process the same file."""
        return [*(["--config", str(self.path)] if self.path else []), *(f"--set={one}" for one in self.overrides)]


def override(key: str, value: JsonValue) -> str:
    """`key=value` that reads back as exactly that value."""
    return f"{key}={json.dumps(value)}"


def add_run_file_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --config, --set and --broken-rows."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML or YAML with sections env, policy, openai, rollouts, trainer..."
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change one setting, as --SECTION.KEY VALUE does",
    )
    parser.add_argument("--broken-rows", choices=("refuse", "skip"), help="what becomes of a data file with one (refuse)")


def run_file(arguments: argparse.Namespace, default: Path | None = None) -> RunFile:
    """The file of parsed arguments."""
    return RunFile(arguments.config or default, overrides_of(arguments))


def overrides_of(arguments: argparse.Namespace) -> tuple[str, ...]:
    """What parsed arguments set over the file."""
    rows = [] if arguments.broken_rows is None else [override("env.broken_rows", arguments.broken_rows)]
    return (*arguments.set, *rows)
