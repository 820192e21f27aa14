"""The rollout API as a process: `natgym serve api`."""

from pathlib import Path

from pydantic import Field, SecretStr

from core.clock import SystemClock
from core.config import Config
from services.bind import check_bind, claim_socket, run_server, url_of
from services.rollout_api.app import create_app
from services.rollout_api.ledger import Limits
from services.rollout_api.store import Store

MIB = 1 << 20


class RolloutApiConfig(Config):
    """Where the rollout API listens, where it keeps the queue, and how much of it."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535, description="0: any free one")
    database: Path = Path("runs/rollouts.sqlite")
    max_queued_groups: int = Field(default=4096, ge=1)
    max_queued_mib: int = Field(default=4096, ge=1)
    remembered_groups: int = Field(default=100_000, ge=1, description="ids that are known when a group comes again")
    max_body_mib: int = Field(default=32, ge=1, le=512, description="size of one group")
    min_free_mib: int = Field(default=64, ge=0, description="disk space below which groups are refused")


def serve_api(config: RolloutApiConfig, token: SecretStr | None = None) -> None:
    """Serve until SIGTERM or SIGINT; prints one line once it listens.

    Raises ConfigError (address without a token, unusable database) and PortInUse before anything is served.
    """
    check_bind(config.host, token)
    clock = SystemClock()
    sock = claim_socket(config.host, config.port)
    with sock:
        limits = Limits(config.max_queued_groups, config.max_queued_mib * MIB, config.remembered_groups)
        store = Store(config.database, limits, min_free_bytes=config.min_free_mib * MIB, clock=clock)
        app = create_app(store, clock=clock, token=token, max_body_bytes=config.max_body_mib * MIB)
        print(f"rollout API  {url_of(sock)}  {config.database}", flush=True)  # noqa: T201 the command's result

        async def end_long_polls() -> None:
            store.stop_waiting()

        run_server(app, sock, on_shutdown=end_long_polls)
