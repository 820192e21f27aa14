"""`natgym`: a table of commands, each of which is loaded when it is asked for.

What a user can mend is one line on standard error and exit code 2; what broke otherwise is one line and exit code 1.
"""

import argparse
import errno
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, NoReturn, Protocol

from core.errors import NatgymError, UnknownName, UserError, did_you_mean
from services.setting_flags import as_settings

if TYPE_CHECKING:
    from core.settings import Settings

DESCRIPTION = "natgym trains coding agents to build NVIDIA NeMo Agent Toolkit agents, scored by running what they build."


class Command(NamedTuple):
    """Where a command lives, and what it does in one line."""

    module: str
    summary: str


COMMANDS = {
    "up": Command("services.commands.up", "the main job: all three services here, live progress, a before/after table"),
    "env": Command("services.commands.env", "init NAME: begin an environment of your own, with its test"),
    "serve": Command("services.commands.serve", "one service in this terminal: api | trainer | env NAME"),
    "train": Command("services.commands.train", "all three services for one environment, without evaluations"),
    "process": Command("services.commands.process", "make SFT data from rollouts, without any other service"),
    "sft": Command("services.commands.sft", "a policy learns SFT data; `natgym up --model DIR` starts from the result"),
    "evaluate": Command("services.commands.evaluate", "score a policy on the held-out tasks"),
    "check": Command("services.commands.check", "run the gold answers through the reward"),
    "plan": Command("services.commands.plan", "turn a request in words into the plan of an agent"),
    "build": Command("services.commands.build", "a NAT agent from a request in words: planned, built, tried on NAT"),
    "dataset": Command("services.commands.dataset", "make the specifications of an environment anew"),
    "parse": Command("services.commands.parse", "show what a tool-call parser sees in a completion"),
    "policy": Command("services.commands.policy", "make the policy that comes with the project anew"),
    "doctor": Command("services.commands.doctor", "say what is installed here and what is missing"),
}
FULL_OR_FORBIDDEN = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM})
WRONG_PATH = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG})
ALIASES = {"run-api": ("serve", "api")}


class CommandModule(Protocol):
    """What a module in services.commands offers."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""
        ...

    def run(self, arguments: argparse.Namespace, settings: "Settings") -> int:
        """Do it; the exit code. Raises NatgymError."""
        ...


class OneLineParser(argparse.ArgumentParser):
    """Tells mistakes as UserError: one line, with the nearest option for an unknown one."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The parsed arguments. Raises UserError."""
        if "--set" in self._option_string_actions:
            arguments = as_settings(arguments)
        parsed, unknown = self.parse_known_args(arguments)
        if unknown:
            hint = did_you_mean(unknown[0].partition("=")[0], sorted(self._option_string_actions))
            raise UserError(f"unknown argument {unknown[0]!r}{hint} (see {self.prog} --help)")
        return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 1 broken, 2 a mistake of the user's, 130 Ctrl-C, 143 terminated."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(given)
    except BaseException as error:
        return _told(error)


def _dispatch(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help", "help"):
        print(_overview(), file=sys.stdout if given else sys.stderr)
        return 0 if given else 2
    if given[0] == "--version":
        from importlib.metadata import version

        print(version("natgym"))
        return 0
    name, *rest = (*ALIASES.get(given[0], given[:1]), *given[1:])
    if name not in COMMANDS:
        raise UnknownName("command", name, [*COMMANDS, *ALIASES])
    module = _load(name)
    parser = OneLineParser(prog=f"natgym {name}", description=COMMANDS[name].summary, allow_abbrev=False)
    module.configure(parser)
    parsed = parser.parse(rest)
    return module.run(parsed, _start(quiet=name != "serve"))


def _load(name: str) -> CommandModule:
    module: CommandModule = import_module(COMMANDS[name].module)  # type: ignore[assignment]
    return module


def _start(*, quiet: bool) -> "Settings":
    """Read the settings and set the logs up; commands that print results log warnings only, unless told otherwise."""
    from core.logs import LogLevel, configure
    from core.settings import read_settings

    settings = read_settings()
    chosen = "log_level" in settings.model_fields_set or not quiet
    configure(settings.log_level if chosen else LogLevel.WARNING, json_lines=settings.log_json)
    return settings


def _overview() -> str:
    lines = [f"  {name:<10}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join([DESCRIPTION, "", "usage: natgym COMMAND [options]", "", *lines, "", "natgym COMMAND --help says more."])


def _told(error: BaseException) -> int:
    """Say in one line what went wrong, and with which exit code; what is a fault of ours is raised again."""
    cause = _first_cause(error)
    if isinstance(cause, KeyboardInterrupt):
        return getattr(cause, "exit_code", 130)
    if isinstance(cause, BrokenPipeError):
        sys.stderr.close()  # whoever read our output has left; nothing more can be told
        return 1
    if isinstance(cause, NatgymError):
        print(f"natgym: {' '.join(str(cause).split())}", file=sys.stderr)
        return cause.exit_code
    if isinstance(cause, OSError) and cause.errno in FULL_OR_FORBIDDEN | WRONG_PATH:
        print(f"natgym: {cause.filename or 'writing'}: {cause.strerror}", file=sys.stderr)
        return 2 if cause.errno in WRONG_PATH else 1
    raise error


def _first_cause(error: BaseException) -> BaseException:
    """The first error inside of groups; one of natgym's before any other."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = [_first_cause(inner) for inner in error.exceptions]
    return next((cause for cause in causes if isinstance(cause, NatgymError)), causes[0])


if __name__ == "__main__":
    sys.exit(main())
