"""The tables of the queue, the same in SQLite and PostgreSQL but for the names of a few column types."""

from typing import NamedTuple

VERSION = 5


class ColumnTypes(NamedTuple):
    """What one database calls them."""

    serial: str
    """A whole number that grows with each row, and is the primary key."""
    blob: str
    real: str
    payload: str
    """The columns that say what a frame is, or where."""
    indexes: str = ""


TABLES = """
CREATE TABLE runs (
    id TEXT PRIMARY KEY, opened BIGINT NOT NULL, groups_per_batch BIGINT NOT NULL, group_size BIGINT NOT NULL,
    max_staleness BIGINT NOT NULL, total_steps BIGINT NOT NULL, step BIGINT NOT NULL, policy_version BIGINT NOT NULL,
    status TEXT NOT NULL, dialect TEXT NOT NULL, last_update TEXT
);
CREATE TABLE environments (
    name TEXT PRIMARY KEY, group_size BIGINT, weight {real} NOT NULL, min_share {real} NOT NULL
);
CREATE TABLE groups (
    arrival {serial}, id TEXT NOT NULL UNIQUE, run TEXT NOT NULL, environment TEXT NOT NULL, dialect TEXT NOT NULL,
    policy_version BIGINT NOT NULL, state TEXT NOT NULL, digest {blob} NOT NULL, bytes BIGINT NOT NULL,
    stored BIGINT NOT NULL, scored BIGINT NOT NULL, lost BIGINT NOT NULL, accepted_at {real} NOT NULL, batch_id TEXT
);
CREATE INDEX queued_groups ON groups (run, policy_version, arrival) WHERE state = 'queued';
CREATE INDEX groups_of_batch ON groups (batch_id) WHERE batch_id IS NOT NULL;
CREATE TABLE payloads (arrival BIGINT PRIMARY KEY, {payload});
CREATE TABLE batches (
    taken {serial}, id TEXT NOT NULL UNIQUE, run TEXT NOT NULL, state TEXT NOT NULL, groups BIGINT NOT NULL,
    lease_seconds {real} NOT NULL, expires_at {real} NOT NULL
);
CREATE TABLE counts (
    run TEXT, environment TEXT, state TEXT, groups BIGINT NOT NULL, bytes BIGINT NOT NULL, lost BIGINT NOT NULL,
    PRIMARY KEY (run, environment, state)
);
CREATE TABLE notes (key TEXT PRIMARY KEY, value {blob} NOT NULL);
CREATE TABLE servers (
    name TEXT PRIMARY KEY, process TEXT NOT NULL, turn BIGINT NOT NULL, told_at {real} NOT NULL, facts TEXT NOT NULL
);
CREATE INDEX servers_by_turn ON servers (turn);
CREATE TABLE turns (turn BIGINT NOT NULL);
INSERT INTO turns VALUES (0);
{indexes}
"""


def tables(types: ColumnTypes) -> str:
    """The statements that make an empty database."""
    return TABLES.format(**types._asdict())
