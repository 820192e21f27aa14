"""What is refused, with which status, and that hostile bodies never break the server."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from core.wire import encode, pack
from services.rollout_api.base import Limits
from services.rollout_api.messages import EnvironmentSpec
from tests.services.rollout_api.harness import MSGPACK, group, raw, run_spec, turn, update

JSON = {"Content-Type": "application/json"}
NAN, INFINITY = float("nan"), float("inf")


def changed(path: str, value: object) -> bytes:
    """A valid group with one value replaced; `path` such as trajectories.0.turns.0.logprobs."""
    whole: dict = group("a").model_dump(mode="python")
    *parents, last = path.split(".")
    place = whole
    for part in parents:
        if isinstance(place, dict) and isinstance(place[part], tuple):
            place[part] = list(place[part])
        place = place[int(part)] if isinstance(place, list) else place[part]
    place[last] = value
    return pack(whole)


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("trajectories.0.turns.0.logprobs", (-0.5, -0.5), "3 completion_ids but 2 logprobs"),
        ("trajectories.0.turns.0.logprobs", (-0.5, NAN, -0.5), "logprobs.1: Input should be a finite number"),
        ("trajectories.0.turns.0.logprobs", (-0.5, -INFINITY, -0.5), "finite number"),
        ("trajectories.0.turns.0.seconds", NAN, "turns.0.seconds: Input should be a finite number"),
        ("trajectories.0.turns.0.completion_ids", (1, -2, 3), "greater than or equal to 0"),
        ("trajectories.0.turns.0.policy_version", -(2**60), "out of range"),
        ("trajectories.0.reward.total", NAN, "finite number"),
        ("trajectories.0.reward.total", 5.0, "not the sum"),
        ("trajectories.0.timings", {"tools": INFINITY}, "finite number"),
        ("trajectories.0.task_id", "another", "another task"),
        ("trajectories.0.id", "a/1", "share an id"),
        ("trajectories", (), "at least 1 item"),
        ("task.data", {"x": [NAN]}, "finite number"),
        ("task.environment", "another", "another"),
        ("id", "", "id has 0 characters"),
        ("id", "x" * 201, "id has 201 characters"),
        ("surprise", 1, "unknown key 'surprise'"),
    ],
)
async def test_a_group_that_is_not_whole_is_refused(tmp_path: Path, path: str, value: object, problem: str):
    async with raw(tmp_path / "q") as http:
        answer = await http.post("/v1/groups", content=changed(path, value), headers=MSGPACK)
        counts = (await http.get("/v1/status")).json()["counts"]
    assert (answer.status_code, counts["accepted"]) == (422, 0)
    assert problem in answer.json()["error"]


async def test_many_logprobs_with_one_nan_are_refused(tmp_path: Path):
    twenty = {"completion_ids": tuple(range(20)), "logprobs": (*[-0.5] * 19, NAN)}  # travels as a packed array
    packed = changed("trajectories.0.turns", (turn().model_dump() | twenty,))
    async with raw(tmp_path / "q") as http:
        answer = await http.post("/v1/groups", content=packed, headers=MSGPACK)
    assert answer.status_code == 422


@pytest.mark.parametrize("body", [b"", b"\xc1", encode(group("a"))[:-1], encode(group("a")) + b"\x00", b"\x91" * 5000])
async def test_what_is_not_msgpack_is_400(tmp_path: Path, body: bytes):
    async with raw(tmp_path / "q") as http:
        answer = await http.post("/v1/groups", content=body, headers=MSGPACK)
    assert answer.status_code == 400
    assert "application/msgpack" in answer.json()["error"]


@pytest.mark.parametrize("body", [b"", b"{", b'{"x": NaN}', b"[" * 5000, b'"\\ud800"', b"\xff"])
async def test_what_is_not_json_is_400(tmp_path: Path, body: bytes):
    async with raw(tmp_path / "q") as http:
        answer = await http.post("/v1/groups", content=body, headers=JSON)
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "headers", [{"Content-Type": "text/plain"}, {}, {**MSGPACK, "Content-Encoding": "br"}], ids=["text", "none", "br"]
)
async def test_other_media_types_are_415(tmp_path: Path, headers: dict[str, str]):
    async with raw(tmp_path / "q") as http:
        answer = await http.post("/v1/groups", content=encode(group("a")), headers=headers)
    assert answer.status_code == 415


async def test_a_body_over_the_limit_is_413(tmp_path: Path):
    async with raw(tmp_path / "q", max_body_bytes=1000) as http:
        answer = await http.post("/v1/groups", content=bytes(1001), headers=MSGPACK)
    assert answer.status_code == 413


async def test_a_body_that_hides_its_length_is_413_too(tmp_path: Path):
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield bytes(100)

    async with raw(tmp_path / "q", max_body_bytes=1000) as http:
        answer = await http.post("/v1/groups", content=chunks(), headers=MSGPACK)
    assert answer.status_code == 413


async def test_a_queue_with_enough_groups_says_when_to_come_back(tmp_path: Path):
    async with raw(tmp_path / "q", limits=Limits(1, 1 << 30)) as http:
        bodies = [encode(group(name)) for name in ("a", "b")]
        _, answer = [await http.post("/v1/groups", content=body, headers=MSGPACK) for body in bodies]
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_a_full_queue_still_knows_what_it_has(tmp_path: Path):
    async with raw(tmp_path / "q", limits=Limits(1, 1 << 30)) as http:
        answers = [await http.post("/v1/groups", content=encode(group("a")), headers=MSGPACK) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 200]


async def test_a_queue_with_enough_bytes_is_503(tmp_path: Path):
    async with raw(tmp_path / "q", limits=Limits(100, 100)) as http:
        answer = await http.post("/v1/groups", content=encode(group("a")), headers=MSGPACK)
    assert answer.status_code == 503


async def test_a_disk_with_too_little_space_is_507(tmp_path: Path):
    async with raw(tmp_path / "q", min_free_bytes=1 << 60) as http:
        answer = await http.post("/v1/groups", content=encode(group("a")), headers=MSGPACK)
    assert answer.status_code == 507


async def test_everything_but_health_wants_the_token(tmp_path: Path):
    paths = ["/health", "/ready", "/v1/status", "/metrics", "/nothing"]
    async with raw(tmp_path / "q", token=SecretStr("s3cret")) as http:
        codes = [(await http.get(path)).status_code for path in paths]
    assert codes == [200, 200, 401, 401, 401]


async def test_the_token_opens_the_door(tmp_path: Path):
    async with raw(tmp_path / "q", token=SecretStr("s3cret")) as http:
        answer = await http.get("/v1/status", headers={"Authorization": "Bearer s3cret"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("DELETE", "/v1/groups", 405),
        ("GET", "/v1/demand", 422),
        ("GET", "/v1/demand?environment=sums&running=-1", 422),
        ("GET", "/v1/demand?environment=sums&running=1&wait_seconds=nan", 422),
        ("GET", "/v1/demand?environment=sums&running=1&wait_seconds=3600", 422),
    ],
)
async def test_wrong_questions_are_answered_in_json(tmp_path: Path, method: str, path: str, status: int):
    async with raw(tmp_path / "q") as http:
        answer = await http.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "request_id"}


async def test_an_update_with_nan_is_refused(tmp_path: Path):
    async with raw(tmp_path / "q") as http:
        body = pack({**update().model_dump(), "loss": NAN})
        answer = await http.post("/v1/batches/b/ack", content=body, headers=MSGPACK)
    assert answer.status_code == 422


async def test_a_json_number_that_msgpack_cannot_carry_is_refused(tmp_path: Path):
    body = group("a").model_dump_json().replace('"seed":0', '"seed":' + "9" * 40)
    async with raw(tmp_path / "q") as http:
        answer = await http.post("/v1/groups", content=body, headers=JSON)
    assert answer.status_code == 422


async def test_a_version_that_no_database_holds_is_refused(tmp_path: Path):
    async with raw(tmp_path / "q") as http:
        body = pack({**update().model_dump(), "policy_version": 2**63})
        answer = await http.post("/v1/batches/b/ack", content=body, headers=MSGPACK)
    assert answer.status_code == 422


async def test_an_environment_name_may_be_anything_that_fits(tmp_path: Path):
    async with raw(tmp_path / "q") as http:
        body = encode(EnvironmentSpec())
        answers = [
            await http.put(f"/v1/environments/{name}", content=body, headers=MSGPACK)
            for name in ("a%22%5Cb", "x%2Fy", "x" * 201)
        ]
        await http.get("/v1/demand", params={"environment": 'a"\\b', "running": 3})
        text = (await http.get("/metrics")).text
    assert [answer.status_code for answer in answers] == [200, 200, 422]
    assert 'natgym_running_groups{run="",environment="a\\"\\\\b"} 3' in text.splitlines()


async def test_damaged_bodies_never_break_the_server(tmp_path: Path):
    chance = random.Random(7)
    codes = set()
    async with raw(tmp_path / "q") as http:
        await http.post("/v1/run", content=encode(run_spec()), headers=MSGPACK)
        whole = encode(group("a"))
        for number in range(300):
            body = bytearray(whole)
            for _ in range(chance.randrange(1, 4)):
                body[chance.randrange(len(body))] = chance.randrange(256)
            path = ("/v1/groups", "/v1/run", "/v1/batches", "/v1/batches/b/ack")[number % 4]
            codes.add((await http.post(path, content=bytes(body), headers=MSGPACK)).status_code)
        assert (await http.get("/ready")).status_code == 200
    assert codes <= {200, 201, 400, 409, 422}
