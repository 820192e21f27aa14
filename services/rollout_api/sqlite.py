"""The queue in one SQLite file: settings, disk space, and the lock that keeps a second server away.

Write-ahead log and synchronous=FULL: a committed transaction survives kill -9 and power loss.
"""

import fcntl
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from core.errors import ConfigError
from core.logs import get_logger
from services.rollout_api.base import Event
from services.rollout_api.database import Database
from services.rollout_api.refusals import Closing, Refusal, StorageFull
from services.rollout_api.tables import VERSION, ColumnTypes, tables

PAGE_BYTES = 16384  # payloads are 10 kB and more; larger pages are fewer to write and to free
LOG_BYTES = 4 << 20  # the write-ahead log is copied into the database at this size, and shrinks back to it
TYPES = ColumnTypes(serial="INTEGER PRIMARY KEY AUTOINCREMENT", blob="BLOB", real="REAL")

log = get_logger("rollout_api")


class SqliteFile:
    """The database of one rollout API on one machine."""

    def __init__(self, path: Path, *, min_free_bytes: int, max_bytes: int | None = None) -> None:
        """Locks the file; `max_bytes` bounds what it may grow to. Raises ConfigError where another process has it."""
        self._path, self._min_free_bytes, self._max_bytes = path, min_free_bytes, max_bytes
        self._log_path = path.with_name(path.name + "-wal")
        self._reusable_bytes: Callable[[], int] = lambda: 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = path.with_name(path.name + ".lock").open("w")
        except OSError as error:
            raise ConfigError(f"database {path}: {error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise ConfigError(f"database {path} is in use by another rollout API: stop it or choose another path") from error

    def connect(self) -> Database:
        """See Connector."""
        connection = self._open()
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        database = SqliteDatabase(connection)
        self._reusable_bytes = lambda: database.free_bytes
        return database

    def connect_reader(self) -> Database:
        """See Connector."""
        return SqliteDatabase(self._open())

    def check_space(self) -> None:
        """See Connector. Space is kept back so that batches can still be taken and acknowledged."""
        # what is in the log needs room in the database as well, except where finished groups have left some
        log_bytes = self._log_path.stat().st_size if self._log_path.exists() else 0
        free, reusable = shutil.disk_usage(self._path.parent).free, self._reusable_bytes()
        room = free - log_bytes + reusable
        if room < self._min_free_bytes or free < self._min_free_bytes / 2:
            raise StorageFull(f"the disk is full: {min(free, max(room, 0))} bytes left, {self._min_free_bytes} are kept back")
        if self._max_bytes is not None and self._path.stat().st_size + log_bytes - reusable > self._max_bytes:
            raise StorageFull(f"database {self._path.name} has reached the {self._max_bytes} bytes that it may have")

    def watch(self, changed: Callable[[Sequence[Event]], None]) -> Callable[[], None] | None:
        """See Connector: the lock keeps others away."""
        return None

    def close(self) -> None:
        """See Connector."""
        self._lock.close()

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
    errors: tuple[type[Exception], ...] = (sqlite3.Error,)

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
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

    def commit(self, events: Sequence[Event]) -> None:
        """See Database."""
        free_pages = self._connection.execute("PRAGMA freelist_count").fetchone()[0]
        self._connection.execute("COMMIT")
        self.free_bytes = free_pages * PAGE_BYTES

    def rollback(self) -> None:
        """See Database."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def refusal(self, error: Exception) -> Refusal:
        """See Database."""
        name = getattr(error, "sqlite_errorname", "")
        log.error("store_failed", error=str(error), name=name)
        if name in ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"):
            return StorageFull("the disk is full: free some space; nothing that was accepted is lost")
        return Closing(f"the database failed: {error}")

    def close(self) -> None:
        """See Database."""
        self._connection.close()
