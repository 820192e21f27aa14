"""The rollout API as a process: `natgym serve api`."""

from pathlib import Path

from pydantic import Field

from core.clock import SystemClock
from core.config import Config
from core.errors import ConfigError
from services.bind import claim_socket, given_socket, run_server, url_of
from services.rollout_api.access import Tokens
from services.rollout_api.app import create_app
from services.rollout_api.base import Limits
from services.rollout_api.database import Connector
from services.rollout_api.memory import keep_freed_memory
from services.rollout_api.queue import GroupQueue
from services.rollout_api.store import LedgerStore

MIB = 1 << 20
POSTGRES = ("postgresql://", "postgres://")


class RolloutApiConfig(Config):
    """Where the rollout API listens, where it keeps the queue, and how much of it."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535, description="0: any free one")
    database: str | Path = Field(default="runs/rollouts.sqlite", description="a file, or postgresql://user@host/name")
    max_queued_groups: int = Field(default=4096, ge=1)
    max_queued_mib: int = Field(default=4096, ge=1)
    remembered_groups: int = Field(default=100_000, ge=1, description="ids that are known when a group comes again")
    kept_payloads: int = Field(default=0, ge=0, description="newest groups that can be read when they are done with")
    max_body_mib: int = Field(default=32, ge=1, le=512, description="size of one group")
    min_free_mib: int = Field(default=64, ge=0, description="disk space below which groups are refused")
    max_database_mib: int | None = Field(
        default=None, ge=1, description="size of the database, with its frames, above which they are"
    )


def serve_api(config: RolloutApiConfig, tokens: Tokens | None = None) -> None:
    """Serve until SIGTERM or SIGINT; prints one line once it listens.

    Raises ConfigError (address without a token, unusable database) and PortInUse before anything is served.
    """
    tokens = tokens or Tokens()
    tokens.check_bind(config.host)
    keep_freed_memory()
    clock = SystemClock()
    sock = given_socket() or claim_socket(config.host, config.port)
    with sock:
        tokens.check_bind(sock.getsockname()[0])
        limits = Limits(config.max_queued_groups, config.max_queued_mib * MIB, config.remembered_groups, config.kept_payloads)
        queue = GroupQueue(LedgerStore(connector_of(config), limits), clock)
        app = create_app(queue, clock=clock, tokens=tokens, max_body_bytes=config.max_body_mib * MIB)
        print(f"rollout API  {url_of(sock)}  {config.database}", flush=True)  # noqa: T201 the command's result

        async def end_long_polls() -> None:
            queue.stop_waiting()

        run_server(app, sock, on_shutdown=end_long_polls)


def connector_of(config: RolloutApiConfig) -> Connector:
    """The database that a config names. Raises ConfigError and MissingRuntime."""
    max_bytes = None if config.max_database_mib is None else config.max_database_mib * MIB
    if str(config.database).startswith(POSTGRES):
        from services.rollout_api.postgres import PostgresServer

        if max_bytes is not None:
            raise ConfigError("max_database_mib bounds a file; give the PostgreSQL server a tablespace of that size")
        return PostgresServer(str(config.database))
    from services.rollout_api.sqlite import SqliteFile

    return SqliteFile(Path(config.database), min_free_bytes=config.min_free_mib * MIB, max_bytes=max_bytes)
