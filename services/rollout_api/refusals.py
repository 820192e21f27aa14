"""What the rollout API does not do, each with its HTTP status. A client sees {"error": message}."""

from core.errors import QueueError


class Refusal(QueueError):
    """The request stands no chance as it is."""

    status = 400


class NotKnown(Refusal):
    """No environment, run or batch of that name."""

    status = 404


class Damaged(NotKnown):
    """The disk has lost the content of a group."""

    def __init__(self, arrival: int, message: str) -> None:
        super().__init__(message)
        self.arrival = arrival


class Conflict(Refusal):
    """It contradicts what was accepted before."""

    status = 409


class BodyTooLarge(Refusal):
    """More bytes than one message may have."""

    status = 413


class WrongMediaType(Refusal):
    """Neither msgpack nor JSON, or an encoding that is not spoken here."""

    status = 415


class Invalid(Refusal):
    """Well-formed, but not what its type says."""

    status = 422


class TryLater(Refusal):
    """Nothing is wrong with the request; the same one may be accepted in a moment."""

    status = 503
    retry_after_seconds = 1
    retryable = True


class QueueFull(TryLater):
    """The queue has as much as it may hold, until a trainer takes some."""


class Closing(TryLater):
    """The service is shutting down or its database failed."""


class StorageFull(Refusal):
    """The disk is full. Nothing that was accepted is lost."""

    status = 507
