"""What the ledger needs of a database, so that SQLite and PostgreSQL can both be one."""

from collections.abc import Callable, Sequence
from typing import Protocol

from services.rollout_api.base import Event
from services.rollout_api.payloads import Payloads
from services.rollout_api.refusals import Refusal


class Database(Protocol):
    """One connection, used by one thread at a time. `%s` marks a value in every statement."""

    row_lock: str
    """Put behind a SELECT, it keeps other processes from changing those rows until the transaction ends."""
    skip_locked: str
    """The same, and rows that another process has locked are passed over."""
    errors: tuple[type[Exception], ...]
    """What its methods raise."""

    @property
    def payloads(self) -> Payloads:
        """The frames of groups, which belong to its transactions."""
        ...

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[tuple]:
        """Run a statement that answers with rows."""
        ...

    def run(self, sql: str, values: Sequence[object] = ()) -> int:
        """Run a statement; how many rows it touched."""
        ...

    def run_many(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """Run a statement once for each row of values."""
        ...

    def begin(self) -> None:
        """Start a transaction in which changes are made."""
        ...

    def commit(self, events: Sequence[Event]) -> None:
        """Put it on the disk; other processes on the same database hear of the events then."""
        ...

    def rollback(self) -> None:
        """Undo the transaction, where one is open. Never raises; connects again where the connection is lost."""
        ...

    def refusal(self, error: Exception) -> Refusal:
        """What to answer to a caller whose change met one of `errors`."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...


class Connector(Protocol):
    """A database that can be connected to."""

    def connect(self) -> Database:
        """A connection for changes, to tables that are made if they are not there. Raises ConfigError."""
        ...

    def connect_reader(self) -> Database:
        """A connection that only reads, beside the other one."""
        ...

    def check_space(self) -> None:
        """Raises StorageFull where there is too little space for more groups."""
        ...

    def watch(self, changed: Callable[[Sequence[Event]], None]) -> Callable[[], None] | None:
        """Have changes by other processes told, from any thread; what ends that. None where there are no others."""
        ...

    def close(self) -> None:
        """Free what was claimed for the whole time, such as a lock."""
        ...
