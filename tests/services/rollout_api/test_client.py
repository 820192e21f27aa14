"""What the client does when the API is away, slow to accept, or says no."""

import asyncio
from pathlib import Path

import pytest
from pydantic import SecretStr

from core.errors import ConfigError, PortInUse, QueueError
from core.types import Message, Role
from services.bind import claim_socket
from services.rollout_api.base import Limits
from services.rollout_api.server import RolloutApiConfig, serve_api
from services.sdk.rollout_client import RolloutClient
from tests.services.rollout_api.harness import group, run_spec, serving, update


async def test_a_server_that_is_away_is_a_queue_error():
    with claim_socket("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
    async with RolloutClient(f"http://127.0.0.1:{port}", retry_seconds=0.3) as client:
        with pytest.raises(QueueError, match=r"POST /v1/groups: ClientConnectorError"):
            await client.post_group(group("a"))


async def test_a_full_queue_is_waited_for(tmp_path: Path):
    async with serving(tmp_path / "q", limits=Limits(1, 1 << 30)) as url, RolloutClient(url) as client:
        await client.open_run(run_spec())
        await client.post_group(group("a"))
        waiting = asyncio.create_task(client.post_group(group("b")))
        taken = await client.take_batch(1, 0)
        assert taken is not None
        await client.acknowledge(taken.batch_id, update())
        assert await waiting is True


async def test_a_group_of_megabytes_goes_there_and_back(tmp_path: Path):
    small = group("a")
    large = small.model_copy(
        update={"task": small.task.model_copy(update={"messages": (Message(role=Role.USER, content="ä" * (1 << 20)),)})}
    )
    async with serving(tmp_path / "q", max_body_bytes=1 << 23) as url, RolloutClient(url) as client:
        await client.open_run(run_spec())
        await client.post_group(large)
        taken = await client.take_batch(1, 0)
    assert taken is not None
    assert taken.groups == (large,)


async def test_a_wrong_token_is_not_tried_again(tmp_path: Path):
    async with (
        serving(tmp_path / "q", token=SecretStr("right")) as url,
        RolloutClient(url, SecretStr("wrong"), retry_seconds=3600) as client,
    ):
        with pytest.raises(QueueError, match="401"):
            await client.status()


async def test_the_right_token_is_sent(tmp_path: Path):
    token = SecretStr("right")
    async with serving(tmp_path / "q", token=token) as url, RolloutClient(url, token) as client:
        assert (await client.status()).run is None


async def test_names_are_quoted(tmp_path: Path):
    async with serving(tmp_path / "q") as url, RolloutClient(url) as client:
        await client.register_environment("a b&c?")
        await client.open_run(run_spec())
        assert (await client.demand("a b&c?", 0)).groups == 2


def test_others_are_not_served_without_a_token(tmp_path: Path):
    with pytest.raises(ConfigError, match="NATGYM_API_TOKEN"):
        serve_api(RolloutApiConfig(host="0.0.0.0", port=0, database=tmp_path / "q"))


def test_a_taken_port_is_named_before_the_database_is_made(tmp_path: Path):
    with claim_socket("127.0.0.1", 0) as sock, pytest.raises(PortInUse):
        serve_api(RolloutApiConfig(port=sock.getsockname()[1], database=tmp_path / "q"))
    assert not (tmp_path / "q").exists()
