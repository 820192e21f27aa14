"""The queue in a PostgreSQL server, which several rollout APIs on several machines may share.

Rows that one process works on are locked or passed over by the others (FOR UPDATE, SKIP LOCKED); every commit tells
them what happened (LISTEN, NOTIFY). Needs `pip install natgym[postgres]`.
"""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING
from uuid import uuid4

from core.errors import ConfigError, MissingRuntime
from core.logs import get_logger
from services.rollout_api.base import Event
from services.rollout_api.database import Database
from services.rollout_api.payload_table import PayloadTable
from services.rollout_api.refusals import Closing, Refusal, StorageFull, TryLater
from services.rollout_api.tables import VERSION, ColumnTypes, tables

if TYPE_CHECKING:
    import psycopg

TYPES = ColumnTypes(
    serial="BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    blob="BYTEA",
    real="DOUBLE PRECISION",
    payload="frame BYTEA NOT NULL",
)
LOCK = 6_171_842_605  # one number for all rollout APIs: they make the tables one after the other
CHANNEL = "natgym"
MAX_NOTICE = 7000  # bytes; PostgreSQL refuses 8000
CONNECT_SECONDS = 10
HEAR_SECONDS = 1.0  # how soon the listener notices that it should end
DISK_FULL, DEADLOCK, SERIALIZATION = "53100", "40P01", "40001"

log = get_logger("rollout_api")


class PostgresServer:
    """A database on a PostgreSQL server, by the address that libpq takes (`postgresql://user@host/name`)."""

    def __init__(self, address: str) -> None:
        """Raises MissingRuntime without psycopg, and ConfigError for an address with a password in it."""
        try:
            import psycopg
            from psycopg.conninfo import conninfo_to_dict
        except ImportError as error:
            raise MissingRuntime("a database in PostgreSQL needs psycopg: pip install 'natgym[postgres]'") from error
        try:
            parts = conninfo_to_dict(address)
        except psycopg.Error as error:
            raise ConfigError("database: not an address that PostgreSQL understands, as postgresql://user@host/name") from error
        if parts.get("password"):
            raise ConfigError("database: leave the password out of the address; put it into ~/.pgpass or PGPASSWORD")
        self._address = address
        self._process = uuid4().hex[:12]

    def connect(self) -> Database:
        """See Connector."""
        database = PostgresDatabase(self._open, self._process)
        try:
            database.begin()
            database.run("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
            found = database.rows("SELECT to_regclass('natgym_version') IS NOT NULL")[0][0]
            version = database.rows("SELECT version FROM natgym_version")[0][0] if found else None
            if version is None:
                for statement in tables(TYPES).split(";"):
                    if statement.strip():
                        database.run(statement)
                # frames are compressed already
                database.run("ALTER TABLE payloads ALTER COLUMN frame SET STORAGE EXTERNAL")
                database.run("CREATE TABLE natgym_version (version BIGINT NOT NULL)")
                database.run("INSERT INTO natgym_version VALUES (%s)", (VERSION,))
            database.commit(())
        except database.errors as error:
            database.close()
            raise ConfigError(f"database on PostgreSQL: {str(error).strip()}") from error
        if version not in (None, VERSION):
            database.close()
            raise ConfigError(f"the database has version {version}, this natgym reads {VERSION}: choose another one")
        return database

    def connect_reader(self) -> Database:
        """See Connector."""
        return PostgresDatabase(self._open, self._process)

    def check_space(self) -> None:
        """See Connector. The server itself refuses when its disk is full, which is answered with 507 too."""

    def watch(self, changed: Callable[[Sequence[Event]], None]) -> Callable[[], None] | None:
        """See Connector."""
        ended = threading.Event()
        thread = threading.Thread(target=self._listen, args=(changed, ended), name="rollout-listener", daemon=True)
        thread.start()

        def end() -> None:
            ended.set()
            thread.join()

        return end

    def close(self) -> None:
        """See Connector: nothing is claimed for the whole time."""

    def _open(self) -> "psycopg.Connection":
        import psycopg

        try:
            return psycopg.connect(self._address, autocommit=True, connect_timeout=CONNECT_SECONDS)
        except psycopg.Error as error:
            raise ConfigError(f"cannot connect to PostgreSQL: {str(error).strip()}") from error

    def _listen(self, changed: Callable[[Sequence[Event]], None], ended: threading.Event) -> None:
        import psycopg

        while not ended.is_set():
            try:
                with self._open() as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    changed(())  # what was told while nobody listened
                    while not ended.is_set():
                        for notice in connection.notifies(timeout=HEAR_SECONDS):
                            self._hear(notice.payload, changed)
            except (psycopg.Error, ConfigError) as error:
                log.warning("listener_lost", error=str(error).strip())
                ended.wait(HEAR_SECONDS)

    def _hear(self, payload: str, changed: Callable[[Sequence[Event]], None]) -> None:
        told = json.loads(payload)
        if told["from"] != self._process:
            changed([Event(*event) for event in told["events"]])


class PostgresDatabase:
    """One connection; see Database."""

    row_lock = " FOR UPDATE"
    skip_locked = " FOR UPDATE SKIP LOCKED"

    def __init__(self, connect: Callable[[], "psycopg.Connection"], process: str) -> None:
        import psycopg

        self.errors: tuple[type[Exception], ...] = (psycopg.Error,)
        self._connect, self._process = connect, process
        self._connection = connect()
        self.payloads = PayloadTable(self)

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[tuple]:
        """See Database."""
        return self._connection.execute(sql.encode(), values, binary=True).fetchall()

    def run(self, sql: str, values: Sequence[object] = ()) -> int:
        """See Database."""
        return self._connection.execute(sql.encode(), values or None).rowcount

    def run_many(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """See Database."""
        with self._connection.cursor() as cursor:
            cursor.executemany(sql.encode(), rows)

    def begin(self) -> None:
        """See Database."""
        self._connection.execute("BEGIN")

    def commit(self, events: Sequence[Event]) -> None:
        """See Database."""
        for payload in self._notices(events):
            self._connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, payload))
        self._connection.execute("COMMIT")

    def rollback(self) -> None:
        """See Database."""
        import psycopg

        try:
            self._connection.execute("ROLLBACK")
        except psycopg.Error:
            self._connection.close()
            try:
                self._connection = self._connect()
            except ConfigError as error:
                log.error("store_failed", error=str(error))

    def refusal(self, error: Exception) -> Refusal:
        """See Database."""
        code = getattr(error, "sqlstate", None)
        log.error("store_failed", error=str(error).strip(), code=code)
        if code == DISK_FULL:
            return StorageFull("the disk of the database is full: free some space; nothing that was accepted is lost")
        if code in (DEADLOCK, SERIALIZATION):
            return TryLater("another process changed the same groups: try again")
        return Closing("the database failed, see the log of the rollout API")

    def close(self) -> None:
        """See Database."""
        self._connection.close()

    def _notices(self, events: Sequence[Event]) -> Iterator[str]:
        part: list[str] = []
        size = 0
        for event in events:
            text = json.dumps(event)
            if part and size + len(text) > MAX_NOTICE:
                yield self._notice(part)
                part, size = [], 0
            part.append(text)
            size += len(text) + 1
        if part:
            yield self._notice(part)

    def _notice(self, events: Sequence[str]) -> str:
        return f'{{"from": "{self._process}", "events": [{",".join(events)}]}}'
