"""Where the frames of groups are kept: beside the other tables of a database, or in files that it points into."""

from collections.abc import Sequence
from typing import Protocol

from services.rollout_api.refusals import NotKnown


class Payloads(Protocol):
    """The frames of one database connection; what is put and dropped is part of its transaction."""

    def put(self, arrival: int, frame: bytes) -> None:
        """Keep the frame of a group."""
        ...

    def read(self, arrivals: Sequence[int]) -> list[bytes]:
        """The frames of those groups, in that order. Raises NotKnown where one is gone, Damaged, and OSError."""
        ...

    def drop(self, arrivals: Sequence[int]) -> None:
        """Forget the frames of those groups, where they are kept."""
        ...

    def drop_where(self, condition: str, values: Sequence[object]) -> None:
        """Forget the frames that fulfil a condition on the table `payloads`, whose key is `arrival`."""
        ...


def gone() -> NotKnown:
    """What is answered for a group whose frame is no longer kept."""
    return NotKnown("the content of a group is gone: it was trained on or dropped meanwhile")
