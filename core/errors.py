"""Every error of natgym, as one tree.

    NatgymError
    |- UserError            a mistake that the user can mend; the command line prints one line and exits with 2
    |  |- ConfigError       a file, flag or variable with a wrong key or value
    |  |- UnknownName       no environment, parser, backend ... of that name
    |  |- BadData           a row of a data file
    |  |- PortInUse         somebody else listens there
    |  `- MissingRuntime    a program or package that has to be installed first
    `- BoundaryError        not the policy's doing; becomes a Failure, never a score
       |- PolicyError       the inference server
       |- SandboxError      the place where commands run
       |- RewardError       the verifier
       |- QueueError        the rollout API
       `- TrainingError     the optimiser or the weights

Adding one: subclass the closest node, name the thing, what was found and what would be right in the message.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches


class NatgymError(Exception):
    """Catch this to catch everything that natgym raises on purpose."""

    exit_code = 1


class UserError(NatgymError):
    """A mistake that the user can mend. One line, exit code 2, no trace."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration file, flag or variable with a wrong key or value."""


class UnknownName(UserError):
    """No thing of that kind and name; lists the nearest and all known names."""

    def __init__(self, kind: str, found: str, known: Sequence[str]) -> None:
        self.kind, self.found, self.known = kind, found, tuple(sorted(known))
        super().__init__(f"no {kind} {found!r}{did_you_mean(found, self.known) or ';'} known: {', '.join(self.known)}")

    def __reduce__(self) -> tuple[type["UnknownName"], tuple[str, str, tuple[str, ...]]]:
        return type(self), (self.kind, self.found, self.known)


class BadData(UserError):
    """A row of a data file that does not hold what it must."""


class PortInUse(UserError):
    """Somebody else listens on that port."""


class MissingRuntime(UserError):
    """A program or package that has to be installed first; the message says how."""


class BoundaryError(NatgymError):
    """Something broke outside the policy. `where` names the boundary that was crossed."""

    boundary = "unknown"
    retryable = False

    def __init__(self, message: str, where: str | None = None) -> None:
        self.where = where or self.boundary
        super().__init__(message)


class PolicyError(BoundaryError):
    """The inference server did not answer, or not with a completion."""

    boundary = "policy"


class SandboxError(BoundaryError):
    """A sandbox could not be made, died, or broke its protocol."""

    boundary = "sandbox"


class RewardError(BoundaryError):
    """The verifier itself failed; this says nothing about the policy."""

    boundary = "reward"


class QueueError(BoundaryError):
    """The rollout API refused or did not answer."""

    boundary = "queue"


class TrainingError(BoundaryError):
    """An update that could not be made, or weights that could not be read."""

    boundary = "training"


def did_you_mean(found: str, known: Sequence[str]) -> str:
    """`; did you mean 'hermes'?` when a known name is near, else an empty string."""
    near = get_close_matches(found, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


@contextmanager
def boundary(kind: type[BoundaryError], where: str) -> Generator[None]:
    """Name the boundary that an exception crossed, once.

    Errors of natgym pass unchanged: they were named closer to their cause. Cancellation is not an error and
    passes too. Works around `await` as well, since it holds no resource.
    """
    try:
        yield
    except NatgymError:
        raise
    except Exception as error:
        raise kind(f"{where}: {type(error).__name__}: {error}", where) from error
