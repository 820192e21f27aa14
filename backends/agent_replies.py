"""The replies of an in-sandbox agent as types: whatever does not fit one is a ProtocolViolation."""

from typing import TypeVar

from pydantic import Field, ValidationError

from backends.base import ExecRefused, PathProblem, SandboxError, SandboxPathError
from backends.channel import Channel, Reply
from core.types import Value

MAX_SIGNAL = 64
PATH_SHOWN = 1000
REFUSALS: dict[str, type[SandboxError]] = {"start": ExecRefused}


class Answer(Value):
    """A reply that says only that it was done."""

    id: int


class ExecAnswer(Answer):
    """How a command ended, and where in the body its standard error begins."""

    exit_code: int | None = Field(ge=0, le=255)
    signal: int | None = Field(ge=1, le=MAX_SIGNAL)
    timed_out: bool
    truncated: bool
    seconds: float = Field(ge=0)
    stdout_bytes: int = Field(ge=0)
    stdout_total: int = Field(ge=0)
    stderr_total: int = Field(ge=0)


class RunAnswer(ExecAnswer):
    """The same for one run of a session."""

    cwd: str = Field(max_length=4096)
    ended: bool


class OutputAnswer(Answer):
    """Bytes of a program, and the end of its standard error."""

    stderr: str = Field(max_length=1 << 14)


class UsageAnswer(Answer):
    """What the sandbox uses."""

    processes: int = Field(ge=0)
    memory_bytes: int = Field(ge=0)
    cpu_seconds: float = Field(ge=0)
    disk_bytes: int = Field(ge=0)


class SnapshotAnswer(Answer):
    """A snapshot that the agent keeps: its number and the bytes of its archive."""

    snapshot: int = Field(ge=1)
    size: int = Field(ge=0)


class _Refusal(Answer):
    error: str = Field(max_length=32)
    message: str = Field(max_length=4096)
    problem: str = Field(default="other", max_length=32)


A = TypeVar("A", bound=Answer)


def checked(channel: Channel, kind: type[A], reply: Reply, path: str = "") -> A:
    """The header of a reply as that type. Raises what the agent's refusal stands for, or ProtocolViolation."""
    try:
        if "error" in reply.header:
            raise _error(_Refusal.model_validate(reply.header, strict=True), path)
        return kind.model_validate(reply.header, strict=True)
    except ValidationError as error:
        name = kind.__name__.removesuffix("Answer").lower() or "answer"
        raise channel.violated(f"a reply that is no {name}: {str(reply.header)[:200]}") from error


def _error(refusal: _Refusal, path: str) -> SandboxError:
    if refusal.error == "path":
        problem = PathProblem(refusal.problem) if refusal.problem in set(PathProblem) else PathProblem.OTHER
        shown = path.encode("utf-8", "backslashreplace").decode()  # or half a character would break whoever prints it
        return SandboxPathError(f"{shown[:PATH_SHOWN]}: {refusal.message}", problem=problem)
    return REFUSALS.get(refusal.error, SandboxError)(f"the sandbox refused: {refusal.message}")
