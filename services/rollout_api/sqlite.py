"""The queue in one SQLite file, with the frames in segments beside it: settings, disk space, and a lock.

Write-ahead log and synchronous=FULL: a committed transaction survives kill -9 and power loss. The lock keeps a second
server away.
"""

import errno
import fcntl
import shutil
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from core.errors import ConfigError
from core.files import make_folder
from core.logs import get_logger
from services.rollout_api.base import Event
from services.rollout_api.database import Database
from services.rollout_api.refusals import Closing, Refusal, StorageFull
from services.rollout_api.segment_payloads import SegmentPayloads
from services.rollout_api.segments import SEGMENT_BYTES, Segments
from services.rollout_api.tables import VERSION, ColumnTypes, tables

PAGE_BYTES = 4096  # a commit changes a few rows here and there
LOG_BYTES = 4 << 20  # the write-ahead log is copied into the database at this size, and shrinks back to it
LOOK_SECONDS = 0.01  # posts in between take the disk to be as it was found
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
TYPES = ColumnTypes(
    serial="INTEGER PRIMARY KEY AUTOINCREMENT",
    blob="BLOB",
    real="REAL",
    payload="segment BIGINT NOT NULL, start BIGINT NOT NULL, length BIGINT NOT NULL, checksum BIGINT NOT NULL",
    indexes="CREATE INDEX payloads_of_segment ON payloads (segment);",
)

log = get_logger("rollout_api")


class SqliteFile:
    """The database of one rollout API on one machine."""

    def __init__(
        self, path: Path, *, min_free_bytes: int, max_bytes: int | None = None, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        """Locks the file; `max_bytes` bounds what it and its segments may grow to.

        Raises ConfigError where another process has it.
        """
        self._path, self._min_free_bytes, self._max_bytes = path, min_free_bytes, max_bytes
        self._log_path = path.with_name(path.name + "-wal")
        self._reusable_bytes: Callable[[], int] = lambda: 0
        self._good_until = 0.0
        try:
            make_folder(path.parent)
            self._lock = path.with_name(path.name + ".lock").open("w")
        except OSError as error:
            raise ConfigError(f"database {path}: {error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise ConfigError(f"database {path} is in use by another rollout API: stop it or choose another path") from error
        try:
            self._segments = Segments(path.with_name(path.name + "-frames"), segment_bytes)
        except OSError as error:
            self._lock.close()
            raise ConfigError(f"database {path}: {error}") from error

    def connect(self) -> Database:
        """See Connector."""
        connection = self._open()
        try:
            self._prepare(connection)
            database = SqliteDatabase(connection, self._segments)
            database.payloads.load()
        except BaseException:
            connection.close()
            raise
        self._reusable_bytes = lambda: database.free_bytes
        return database

    def connect_reader(self) -> Database:
        """See Connector."""
        return SqliteDatabase(self._open(), self._segments)

    def check_space(self) -> None:
        """See Connector. Space is kept back so that batches can still be taken and acknowledged."""
        if time.monotonic() < self._good_until:
            return
        free = shutil.disk_usage(self._path.parent).free
        if free < self._min_free_bytes:
            raise StorageFull(f"the disk is full: {free} bytes left, {self._min_free_bytes} are kept back")
        if self._max_bytes is not None and self.used_bytes() > self._max_bytes:
            raise StorageFull(f"database {self._path.name} has reached the {self._max_bytes} bytes that it may have")
        self._good_until = time.monotonic() + LOOK_SECONDS

    def watch(self, changed: Callable[[Sequence[Event]], None]) -> Callable[[], None] | None:
        """See Connector: the lock keeps others away."""
        return None

    def close(self) -> None:
        """See Connector."""
        self._segments.seal()
        self._lock.close()

    def used_bytes(self) -> int:
        """What `max_bytes` bounds; room that can be filled again is not counted."""
        log_bytes = self._log_path.stat().st_size if self._log_path.exists() else 0
        return self._path.stat().st_size + log_bytes + self._segments.total_bytes - self._reusable_bytes()

    def _open(self) -> sqlite3.Connection:
        try:
            return sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=30.0)
        except sqlite3.Error as error:
            raise ConfigError(f"database {self._path}: {error}") from error

    def _prepare(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_BYTES // PAGE_BYTES}")
            connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            if found == 0:
                connection.executescript(f"BEGIN IMMEDIATE; {tables(TYPES)} PRAGMA user_version = {VERSION}; COMMIT;")
        except sqlite3.Error as error:
            raise ConfigError(f"database {self._path}: {error}") from error
        if found not in (0, VERSION):
            raise ConfigError(f"database {self._path} has version {found}, this natgym reads {VERSION}: choose another path")


class SqliteDatabase:
    """One connection; see Database. There is one writer, so no row needs a lock."""

    row_lock = skip_locked = ""
    errors: tuple[type[Exception], ...] = (sqlite3.Error, OSError)

    def __init__(self, connection: sqlite3.Connection, segments: Segments) -> None:
        self._connection = connection
        self.payloads = SegmentPayloads(self, segments)
        self.free_bytes = 0
        """Room inside the file that finished groups have left, as of the last commit."""

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[tuple]:
        """See Database."""
        return self._connection.execute(sql.replace("%s", "?"), values).fetchall()

    def run(self, sql: str, values: Sequence[object] = ()) -> int:
        """See Database."""
        return self._connection.execute(sql.replace("%s", "?"), values).rowcount

    def run_many(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """See Database."""
        self._connection.executemany(sql.replace("%s", "?"), rows)

    def begin(self) -> None:
        """See Database."""
        self._connection.execute("BEGIN IMMEDIATE")
        self.payloads.begin()

    def commit(self, events: Sequence[Event]) -> None:
        """See Database."""
        self.payloads.write()
        free_pages = self._connection.execute("PRAGMA freelist_count").fetchone()[0]
        self._connection.execute("COMMIT")
        self.free_bytes = free_pages * PAGE_BYTES
        self.payloads.committed()

    def rollback(self) -> None:
        """See Database."""
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                log.error("not_rolled_back", error=str(error))
        self.payloads.rolled_back()

    def refusal(self, error: Exception) -> Refusal:
        """See Database."""
        name = getattr(error, "sqlite_errorname", "")
        full = isinstance(error, OSError) and error.errno in FULL
        log.error("store_failed", error=str(error), name=name)
        if full or name in ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"):
            return StorageFull("the disk is full: free some space; nothing that was accepted is lost")
        return Closing(f"the database failed: {error}")

    def close(self) -> None:
        """See Database."""
        self._connection.close()
