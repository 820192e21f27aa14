"""The SQLite file: tables, settings, and the lock that keeps a second server away.

write-ahead log and synchronous=FULL: a committed transaction survives kill -9 and power loss.
Payloads are the bytes that were validated, not compressed: zstd takes 1 ms a group to save a seventh, because
logprobs hardly compress.
"""

import fcntl
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TextIO

from core.errors import ConfigError

VERSION = 1
PAGE_BYTES = 16384  # payloads are 10 kB and more; larger pages are fewer to write and to free
LOG_BYTES = 4 << 20  # the write-ahead log is copied into the database at this size, and shrinks back to it

TABLES = """
CREATE TABLE run (
    only INTEGER PRIMARY KEY CHECK (only = 1), id TEXT NOT NULL, groups_per_batch INTEGER NOT NULL,
    group_size INTEGER NOT NULL, max_staleness INTEGER NOT NULL, total_steps INTEGER NOT NULL,
    step INTEGER NOT NULL, policy_version INTEGER NOT NULL, status TEXT NOT NULL, last_update TEXT
);
CREATE TABLE environments (name TEXT PRIMARY KEY, group_size INTEGER, weight REAL NOT NULL);
CREATE TABLE groups (
    arrival INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, environment TEXT NOT NULL,
    policy_version INTEGER NOT NULL, state TEXT NOT NULL, digest BLOB NOT NULL, bytes INTEGER NOT NULL,
    lost INTEGER NOT NULL, accepted_at REAL NOT NULL, batch_id TEXT
);
CREATE INDEX queued_by_arrival ON groups (arrival) WHERE state = 'queued';
CREATE INDEX queued_by_version ON groups (policy_version) WHERE state = 'queued';
CREATE INDEX groups_of_batch ON groups (batch_id) WHERE batch_id IS NOT NULL;
CREATE TABLE payloads (arrival INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE batches (
    id TEXT PRIMARY KEY, state TEXT NOT NULL, groups INTEGER NOT NULL, lease_seconds REAL NOT NULL, expires_at REAL NOT NULL
);
CREATE TABLE counts (
    environment TEXT, state TEXT, groups INTEGER NOT NULL, bytes INTEGER NOT NULL, lost INTEGER NOT NULL,
    PRIMARY KEY (environment, state)
) WITHOUT ROWID;

CREATE TRIGGER group_added AFTER INSERT ON groups BEGIN
    INSERT INTO counts VALUES (NEW.environment, NEW.state, 1, NEW.bytes, NEW.lost)
    ON CONFLICT DO UPDATE SET groups = groups + 1, bytes = bytes + NEW.bytes, lost = lost + NEW.lost;
END;
CREATE TRIGGER group_moved AFTER UPDATE OF state ON groups WHEN OLD.state <> NEW.state BEGIN
    UPDATE counts SET groups = groups - 1, bytes = bytes - OLD.bytes, lost = lost - OLD.lost
    WHERE environment = OLD.environment AND state = OLD.state;
    INSERT INTO counts VALUES (NEW.environment, NEW.state, 1, NEW.bytes, NEW.lost)
    ON CONFLICT DO UPDATE SET groups = groups + 1, bytes = bytes + NEW.bytes, lost = lost + NEW.lost;
END;
CREATE TRIGGER group_done AFTER UPDATE OF state ON groups WHEN NEW.state IN ('trained', 'dropped') BEGIN
    DELETE FROM payloads WHERE arrival = NEW.arrival;
END;
"""


def open_database(path: Path) -> sqlite3.Connection:
    """A connection to the database at `path`, made if it is not there; `lock_database` comes first.

    Raises ConfigError where the file cannot be used or is of another version.
    """
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise ConfigError(f"database {path}: {error}") from error
    try:
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def lock_database(path: Path) -> TextIO:
    """A lock that ends with this process, held while the returned file is open. Raises ConfigError if another has it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(path.name + ".lock").open("w")
    except OSError as error:
        raise ConfigError(f"database {path}: {error}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise ConfigError(f"database {path} is in use by another rollout API: stop it or choose another path") from error
    return file


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    try:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_BYTES // PAGE_BYTES}")
        connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
        with closing(connection.execute("PRAGMA user_version")) as cursor:
            found = cursor.fetchone()[0]
        if found == 0:
            connection.executescript(f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
    except sqlite3.Error as error:
        raise ConfigError(f"database {path}: {error}") from error
    if found not in (0, VERSION):
        raise ConfigError(f"database {path} has version {found}, this natgym reads {VERSION}: choose another path")
