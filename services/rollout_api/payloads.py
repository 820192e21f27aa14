"""Where the frames of groups are kept: beside the other tables of a database, or in files that it points into."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from services.rollout_api.refusals import NotKnown

if TYPE_CHECKING:
    from services.rollout_api.database import Database


class Payloads(Protocol):
    """The frames of one database connection; what is put and dropped is part of its transaction."""

    def put(self, arrival: int, frame: bytes) -> None:
        """Keep the frame of a group."""
        ...

    def read(self, arrivals: Sequence[int]) -> list[bytes]:
        """The frames of those groups, in that order. Raises NotKnown where one is gone, and Damaged."""
        ...

    def drop(self, arrivals: Sequence[int]) -> None:
        """Forget the frames of those groups, where they are kept."""
        ...

    def drop_where(self, condition: str, values: Sequence[object]) -> None:
        """Forget the frames that fulfil a condition on the table `payloads`, whose key is `arrival`."""
        ...


class PayloadTable:
    """Frames in a column of the table."""

    def __init__(self, db: "Database") -> None:
        self._db = db

    def put(self, arrival: int, frame: bytes) -> None:
        """See Payloads."""
        self._db.run("INSERT INTO payloads (arrival, frame) VALUES (%s, %s)", (arrival, frame))

    def read(self, arrivals: Sequence[int]) -> list[bytes]:
        """See Payloads."""
        frames: list[bytes] = []
        for arrival in arrivals:
            found = self._db.rows("SELECT frame FROM payloads WHERE arrival = %s", (arrival,))
            if not found:
                raise gone()
            frames.append(found[0][0])
        return frames

    def drop(self, arrivals: Sequence[int]) -> None:
        """See Payloads."""
        self._db.run_many("DELETE FROM payloads WHERE arrival = %s", [(arrival,) for arrival in arrivals])

    def drop_where(self, condition: str, values: Sequence[object]) -> None:
        """See Payloads."""
        self._db.run(f"DELETE FROM payloads WHERE {condition}", values)  # noqa: S608 no caller's text


def gone() -> NotKnown:
    """What is answered for a group whose frame is no longer kept."""
    return NotKnown("the content of a group is gone: it was trained on or dropped meanwhile")
