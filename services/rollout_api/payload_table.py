"""Frames in a table of the database."""

from collections.abc import Sequence

from services.rollout_api.database import Database
from services.rollout_api.payloads import gone


class PayloadTable:
    """See Payloads."""

    def __init__(self, db: Database) -> None:
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
