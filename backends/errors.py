"""What may go wrong with a sandbox, as one tree under SandboxError, each with whose doing it is.

    SandboxError               could not be made, died, or broke its protocol
    |- BackendUnavailable      the daemon, host or service behind a backend does not answer
    |- RateLimited             it asks to be called less often
    |- CapacityExhausted       it has no room now
    |- QuotaExceeded           the account may have no more
    |- ImageError              the image or root directory cannot be used
    |- StartTimeout            it did not answer within the deadline of its creation
    |- SandboxLost             it died or its link was cut; says whether the command may have run
    |- ProtocolViolation       a reply that no honest agent sends
    |- CapabilityError         this backend cannot do that here
    |- ExecRefused             a command that could not even be started
    `- SandboxPathError        a path that does not exist, is too large, or leaves the sandbox

`retryable`: the same call may succeed later, in another sandbox where this one is gone. `blame`: an error of infra is
dropped and tried again, one of the model is an answer to the model, one of config is for the user to mend.
"""

from enum import StrEnum

from core.errors import SandboxError


class Blame(StrEnum):
    """Whose doing an error is."""

    INFRA = "infra"
    MODEL = "model"
    CONFIG = "config"


class Cause(StrEnum):
    """What ended a sandbox."""

    UNKNOWN = "unknown"
    LINK = "link"
    OUT_OF_MEMORY = "out_of_memory"
    EXPIRED = "expired"
    EVICTED = "evicted"
    KILLED = "killed"
    DESTROYED = "destroyed"


class PathProblem(StrEnum):
    """What is wrong with a path."""

    NOT_FOUND = "not_found"
    IS_A_DIRECTORY = "is_a_directory"
    NOT_A_DIRECTORY = "not_a_directory"
    NOT_A_FILE = "not_a_file"
    DENIED = "denied"
    TOO_LARGE = "too_large"
    ESCAPES = "escapes"
    NO_SPACE = "no_space"
    OTHER = "other"


class BackendUnavailable(SandboxError):
    """The daemon, host or service behind a backend does not answer."""

    retryable = True


class RateLimited(SandboxError):
    """Creations come too fast; `retry_after_seconds` is 0 where the backend did not say when to come back."""

    retryable = True

    def __init__(self, message: str, *, retry_after_seconds: float = 0.0) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class CapacityExhausted(SandboxError):
    """No room for another sandbox now."""

    retryable = True


class QuotaExceeded(SandboxError):
    """The account or the machine may hold no more; only its owner can change that."""

    blame = Blame.CONFIG


class ImageError(SandboxError):
    """The image or root directory that a spec names is missing or cannot be used."""

    blame = Blame.CONFIG


class StartTimeout(SandboxError):
    """A sandbox did not answer within the deadline of its creation."""

    retryable = True


class SandboxLost(SandboxError):
    """The sandbox died or stopped answering. `maybe_executed`: the command may have run."""

    retryable = True

    def __init__(self, message: str, *, maybe_executed: bool = False, cause: Cause = Cause.UNKNOWN) -> None:
        self.maybe_executed, self.cause = maybe_executed, cause
        super().__init__(message)


class ProtocolViolation(SandboxError):
    """A reply that no honest in-sandbox agent sends. The sandbox must not be used again."""


class CapabilityError(SandboxError):
    """The backend cannot do that here; the message names one that can, or what to change."""

    blame = Blame.CONFIG


class ExecRefused(SandboxError):
    """A command that could not be started: no words, a NUL byte, no process left for it."""

    blame = Blame.MODEL


class SandboxPathError(SandboxError):
    """A path that does not exist, is too large, or leaves the sandbox; `problem` says which."""

    blame = Blame.MODEL

    def __init__(self, message: str, *, problem: PathProblem = PathProblem.OTHER) -> None:
        self.problem = problem
        super().__init__(message)


def blame_of(error: SandboxError) -> Blame:
    """Whose doing an error is; infra where its class does not say."""
    return getattr(error, "blame", Blame.INFRA)
