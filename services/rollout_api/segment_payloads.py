"""Frames in segments, and the rows that point at them, in one transaction of SQLite."""

import errno
from collections.abc import Sequence
from contextlib import suppress

from core.logs import get_logger
from services.rollout_api.database import Database
from services.rollout_api.payloads import gone
from services.rollout_api.refusals import Damaged
from services.rollout_api.segments import Place, Segments

SPARSE = 4  # a segment of which less than a quarter is kept is written anew, so that few old groups hold little space
LOST = {errno.ENOENT, errno.EIO}  # a file that is gone, a sector that cannot be read; other errors pass

log = get_logger("rollout_api")


class SegmentPayloads:
    """See Payloads. Frames are written when the transaction commits, and are on the disk before its rows are."""

    def __init__(self, db: Database, segments: Segments) -> None:
        self._db, self._segments = db, segments
        self._waiting: list[tuple[int, bytes]] = []
        self._kept: dict[int, int] = {}  # bytes that rows point at, by segment
        self._damaged: set[int] = set()  # segments that cannot be written anew
        self._before: tuple[dict[int, int], dict[int, int]] | None = None
        self._dropped = False

    def load(self) -> None:
        """Once, before the first change: drop what is left of commits that did not end."""
        rows = self._db.rows("SELECT segment, sum(length), max(start + length) FROM payloads GROUP BY segment")
        ends = {segment: end for segment, _, end in rows}
        self._kept = {segment: length for segment, length, _ in rows}
        for number, size in list(self._segments.sizes.items()):
            if number not in ends:
                self._segments.remove(number)
            elif size > ends[number]:
                self._segments.cut(number, ends[number])
        lost = [number for number, end in ends.items() if self._segments.sizes.get(number, 0) < end]
        if lost:
            log.error("payloads_lost", segments=sorted(lost))

    def put(self, arrival: int, frame: bytes) -> None:
        """See Payloads."""
        self._waiting.append((arrival, frame))

    def read(self, arrivals: Sequence[int]) -> list[bytes]:
        """See Payloads."""
        return [self._read(arrival) for arrival in arrivals]

    def drop(self, arrivals: Sequence[int]) -> None:
        """See Payloads."""
        dropped = set(arrivals)
        self._waiting = [(arrival, frame) for arrival, frame in self._waiting if arrival not in dropped]
        for arrival in arrivals:
            self._delete("arrival = %s", (arrival,))

    def drop_where(self, condition: str, values: Sequence[object]) -> None:
        """See Payloads."""
        self._write_waiting()  # it may be about these
        self._delete(condition, values)

    def begin(self) -> None:
        """A transaction has begun."""
        self._before = dict(self._segments.sizes), dict(self._kept)
        self._waiting.clear()

    def write(self) -> None:
        """Put what waits on the disk, before the transaction commits. Raises OSError."""
        self._write_waiting()
        if self._dropped:
            with suppress(OSError):  # on a disk that is full or failing they stay where they are
                self._move_sparse()

    def committed(self) -> None:
        """The transaction is on the disk: what no row points at can go."""
        self._before = None
        if self._dropped:
            for number in [known for known in self._segments.sizes if not self._kept.get(known)]:
                self._segments.remove(number)
                self._kept.pop(number, None)
            self._dropped = False

    def rolled_back(self) -> None:
        """Nothing of the transaction happened, where one had begun."""
        self._waiting.clear()
        self._dropped = False
        if self._before is not None:
            sizes, self._kept = self._before
            self._segments.rewind(sizes)
            self._before = None

    def _read(self, arrival: int) -> bytes:
        error: Exception | None = None
        for _ in range(2):  # it may be moved to another segment meanwhile
            found = self._db.rows("SELECT segment, start, length, checksum FROM payloads WHERE arrival = %s", (arrival,))
            if not found:
                raise gone()
            try:
                return self._segments.read(Place(*found[0]))
            except (OSError, ValueError) as failed:
                if isinstance(failed, OSError) and failed.errno not in LOST:
                    raise
                error = failed
        log.error("payload_lost", arrival=arrival, error=str(error))
        raise Damaged(arrival, "the disk has lost the content of a group, see the log of the rollout API") from error

    def _write_waiting(self) -> None:
        if self._waiting:
            places = self._segments.append([frame for _, frame in self._waiting])
            rows = [(arrival, *place) for (arrival, _), place in zip(self._waiting, places, strict=True)]
            self._db.run_many(
                "INSERT INTO payloads (arrival, segment, start, length, checksum) VALUES (%s, %s, %s, %s, %s)", rows
            )
            self._count(places)
            self._waiting.clear()

    def _delete(self, condition: str, values: Sequence[object]) -> None:
        sql = f"DELETE FROM payloads WHERE {condition} RETURNING segment, length"  # noqa: S608 no caller's text
        for segment, length in self._db.rows(sql, values):
            self._kept[segment] -= length
            self._dropped = True

    def _move_sparse(self) -> None:
        """Write what is left of one segment anew, so that it can go."""
        sizes = self._segments.sizes
        sparse = (n for n, size in sizes.items() if 0 < SPARSE * self._kept.get(n, 0) < size and not self._segments.is_open(n))
        number = next((n for n in sparse if n not in self._damaged), None)
        if number is None:
            return
        rows = self._db.rows("SELECT arrival, segment, start, length, checksum FROM payloads WHERE segment = %s", (number,))
        try:
            frames = [self._segments.read(Place(*place)) for _, *place in rows]
        except (OSError, ValueError):  # whoever reads that group hears of it; the others can still be moved
            self._damaged.add(number)
            return
        places = self._segments.append(frames)
        moved = [(place.segment, place.start, arrival) for (arrival, *_), place in zip(rows, places, strict=True)]
        self._db.run_many("UPDATE payloads SET segment = %s, start = %s WHERE arrival = %s", moved)
        self._kept[number] = 0
        self._count(places)

    def _count(self, places: Sequence[Place]) -> None:
        for place in places:
            self._kept[place.segment] = self._kept.get(place.segment, 0) + place.length
