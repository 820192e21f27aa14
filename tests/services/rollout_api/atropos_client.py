"""What the tests of Atropos's dialect say to the server, and no more than a stock client says."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from services.rollout_api.base import Limits
from tests.services.rollout_api.harness import raw

REGISTRATION = {
    "wandb_group": "group",
    "wandb_project": "project",
    "batch_size": 4,
    "max_token_len": 512,
    "checkpoint_dir": "checkpoints",
    "save_checkpoint_interval": 10,
    "starting_step": 0,
    "num_steps": 100,
}
KEYS = [
    "tokens", "masks", "scores", "advantages", "ref_logprobs", "messages", "generation_params", "inference_logprobs",
    "overrides", "group_overrides", "images", "env_id", "distill_token_ids", "distill_logprobs",
]  # fmt: skip
Json = dict


def scored(name: int, size: int = 2, **more: object) -> Json:
    """A group of `size` sequences whose first token is its name."""
    return {
        "tokens": [[name, 5, 6]] * size,
        "masks": [[-100, 5, 6]] * size,
        "scores": [float(index) for index in range(size)],
        "inference_logprobs": [[1.0, -0.5, -0.25]] * size,
        **more,
    }


def names(batch: Sequence[Json] | None) -> list[int] | None:
    """Which groups those are."""
    return None if batch is None else [group["tokens"][0][0] for group in batch]


class Atropos:
    """A client that says no more than a stock one."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def register(self, **changes: object) -> Json:
        return (await self.http.post("/register", json=REGISTRATION | changes)).json()

    async def start(self, **changes: object) -> None:
        """A trainer registers and asks for a first batch."""
        await self.register(**changes)
        await self.batch()

    async def join(self, name: str = "sums", group_size: int = 2, weight: float = 1.0, **more: object) -> Json:
        wanted = {"max_token_length": 100, "desired_name": name, "weight": weight, "group_size": group_size, **more}
        return (await self.http.post("/register-env", json=wanted)).json()

    async def post(self, *groups: Json) -> None:
        for one in groups:
            answer = await self.http.post("/scored_data", json=one)
            assert (answer.status_code, answer.json()) == (200, {"status": "received"})

    async def batch(self) -> list[Json] | None:
        return (await self.http.get("/batch")).json()["batch"]

    async def status(self) -> Json:
        return (await self.http.get("/status")).json()

    async def status_env(self, env_id: int) -> Json:
        return (await self.http.request("GET", "/status-env", json={"env_id": env_id})).json()


@asynccontextmanager
async def atropos(database: Path, **options: Limits | int) -> AsyncIterator[Atropos]:
    async with raw(database, **options) as http:
        yield Atropos(http)
