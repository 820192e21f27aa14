"""The routes of Atropos 0.4.0: what it promises holds, and what it loses, blocks on or reorders does not happen."""

import json
from pathlib import Path

import pytest

from tests.services.rollout_api.atropos_client import KEYS, Json, atropos, names, scored


async def test_a_trainer_is_told_to_register_first(tmp_path: Path):
    async with atropos(tmp_path / "q") as api:
        answer = (await api.http.get("/batch")).json()
        info = [(await api.http.get(path)).json() for path in ("/info", "/wandb_info", "/status")]
    assert (answer["status"], answer["batch"]) == ("error", [])
    nothing = {"group": None, "project": None}
    assert info == [{"batch_size": -1, "max_token_len": -1}, nothing, {"current_step": 0, "queue_size": 0}]


async def test_an_environment_waits_for_the_trainers_first_question(tmp_path: Path):
    async with atropos(tmp_path / "q") as api:
        assert await api.join() == {"status": "wait for trainer to start"}
        uuid = (await api.register())["uuid"]
        assert await api.join() == {"status": "wait for trainer to start"}
        await api.batch()
        joined = await api.join()
        info = [(await api.http.get(path)).json() for path in ("/info", "/wandb_info")]
    assert isinstance(uuid, int)
    assert joined == {
        "status": "success", "env_id": 0, "wandb_name": "sums_0", "checkpoint_dir": "checkpoints", "starting_step": 0,
        "checkpoint_interval": 10, "num_steps": 100,
    }  # fmt: skip
    assert info == [{"batch_size": 4, "max_token_len": 512}, {"group": "group", "project": "project"}]


async def test_a_group_comes_back_as_it_was_sent_with_every_field(tmp_path: Path):
    sent = scored(
        1,
        advantages=[[0.5], [1e-7]],
        ref_logprobs=[[0.0, -1.0, -2.5e-05]] * 2,
        messages=[[{"role": "user", "content": "\u00fc\n", "reward": None, "tool_calls": [{"id": 1}]}]] * 2,
        generation_params={"temperature": 0.7},
        overrides=[{"set_advantage_to_zero": True}, {}],
        group_overrides={"group_size": 2},
        images=["aGVsbG8="],
        env_id=7,
        distill_token_ids=[[[1, 2]] * 3] * 2,
        distill_logprobs=[[[-0.5, -1.0]] * 3] * 2,
    )
    async with atropos(tmp_path / "q") as api:
        await api.start()
        await api.post(sent | {"unknown": 1}, scored(2))
        latest = (await api.http.get("/latest_example")).json()
        batch = await api.batch()
    assert batch is not None
    assert batch[0] == sent
    assert latest == batch[1]
    assert [list(group) for group in batch] == [KEYS, KEYS]
    assert [batch[1][key] for key in ("advantages", "overrides", "env_id", "images")] == [None] * 4


async def test_numbers_that_came_as_strings_are_numbers(tmp_path: Path):
    async with atropos(tmp_path / "q") as api:
        await api.start(batch_size=1)
        await api.post({"tokens": [["1", 2]], "masks": [[-100, "2"]], "scores": ["0.5"], "inference_logprobs": [["1.0", -0.5]]})
        batch = await api.batch()
    assert batch is not None
    found = [batch[0][key] for key in ("tokens", "masks", "scores", "inference_logprobs")]
    assert found == [[[1, 2]], [[-100, 2]], [0.5], [[1.0, -0.5]]]


BROKEN = {
    "rows": {"masks": [[1, 1, 1]]},
    "entries": {"masks": [[1, 1, 1], [1, 1]]},
    "scores": {"scores": [1.0]},
    "logprobs": {"inference_logprobs": [[1.0, -0.5], [1.0, -0.5, -0.2]]},
    "ref": {"ref_logprobs": [[1.0, -0.5, 0.0]]},
    "empty": {"tokens": [], "masks": [], "scores": []},
    "empty sequence": {"tokens": [[], []], "masks": [[], []]},
    "missing": {"tokens": None},
    "float token": {"tokens": [[1.5, 5, 6]] * 2},
    "flat": {"inference_logprobs": [1.0, -0.5]},
    "deep": {"masks": [[[1, 2, 3]], [[1, 2, 3]]]},
    "huge": {"tokens": [[10**30, 5, 6]] * 2},
    "text": {"inference_logprobs": [["nan", 0.0, 0.0]] * 2},
    "message": {"messages": [[{"role": "user"}], []]},
    "distill": {"distill_token_ids": [[[1]]] * 2},
    "distill pairs": {"distill_token_ids": [[[1]] * 3] * 2, "distill_logprobs": [[[-1.0, -2.0]] * 3] * 2},
    "environment": {"env_id": "seven"},
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
async def test_a_group_that_is_not_whole_is_refused_and_named(tmp_path: Path, change: Json):
    async with atropos(tmp_path / "q") as api:
        one = await api.http.post("/scored_data", json=scored(1) | change)
        several = await api.http.post("/scored_data_list", json=[scored(1), scored(2) | change])
        status = await api.status()
    field = next(iter(change))
    assert (one.status_code, several.status_code, status["queue_size"]) == (422, 422, 0)
    assert field.split("_")[0] in one.json()["error"]
    assert several.json()["error"].startswith("group 1: ")
    assert one.json()["request_id"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" * 400, "1E400"])
@pytest.mark.parametrize("field", ["scores", "inference_logprobs", "advantages"])
async def test_what_is_not_finite_is_refused(tmp_path: Path, field: str, number: str):
    value = f"[{number},0]" if field == "scores" else f"[[{number},0,0],[0,0,0]]"
    body = json.dumps(scored(1) | {field: "HERE"}).replace('"HERE"', value)
    async with atropos(tmp_path / "q") as api:
        await api.start()
        answer = await api.http.post("/scored_data", content=body, headers={"Content-Type": "application/json"})
        await api.post(scored(2), scored(3))
        assert (answer.status_code, names(await api.batch())) == (422, [2, 3])


async def test_batches_come_oldest_first_and_count_one_by_one(tmp_path: Path):
    async with atropos(tmp_path / "q") as api:
        await api.start()
        await api.post(*(scored(name) for name in range(1, 9)))
        seen = [(await api.status(), names(await api.batch())) for _ in range(5)]
        after = await api.status()
    assert [batch for _, batch in seen] == [[1, 2], [3, 4], [5, 6], [7, 8], None]
    assert [status["current_step"] for status, _ in seen] == [0, 1, 2, 3, 4]
    assert [status["queue_size"] for status, _ in seen] == [8, 6, 4, 2, 0]
    assert after == {"current_step": 4, "queue_size": 0}


@pytest.mark.parametrize(
    ("batch_size", "sizes", "batches"),
    [
        (8, [4, 6, 4, 4, 4], [[0, 2], [3, 4], None]),  # one stray group blocks nothing
        (8, [2, 4, 6, 4], [[0, 2], [1, 3], None]),  # the oldest goes first where it can
        (8, [3, 5, 2, 6, 1, 7], [[0, 1], [2, 3], [4, 5], None]),
        (8, [3, 3, 2, 4, 4], [[0, 1, 2], [3, 4], None]),
        (12, [8, 8], [None]),  # more may come that makes it whole
        (12, [8, 8, 8], [[0], None]),  # no sum is 12: a smaller batch, rather than none for ever
        (4, [8], [[0], None]),  # larger than a batch: one of its own
        (4, [6, 4], [[1], None]),
        (5, [4, 4], [None]),
    ],
)
async def test_groups_of_any_size_make_batches(
    tmp_path: Path, batch_size: int, sizes: list[int], batches: list[list[int] | None]
):
    async with atropos(tmp_path / "q") as api:
        await api.start(batch_size=batch_size)
        await api.post(*(scored(name, size) for name, size in enumerate(sizes)))
        assert [names(await api.batch()) for _ in batches] == batches


async def test_a_group_of_another_size_than_declared_is_queued_at_once(tmp_path: Path):
    async with atropos(tmp_path / "q") as api:
        await api.start(batch_size=6)
        env_id = (await api.join(group_size=4))["env_id"]
        await api.post(scored(1, 6, env_id=env_id))
        assert (await api.status_env(env_id))["max_group_size"] == 6
        assert names(await api.batch()) == [1]


async def test_a_minimum_is_filled_first_and_waits_for_nothing(tmp_path: Path):
    async with atropos(tmp_path / "q") as api:
        await api.start()
        plain = (await api.join("plain"))["env_id"]
        wanted = (await api.join("wanted", min_batch_allocation=0.5))["env_id"]
        await api.post(*(scored(name, env_id=plain) for name in (1, 2, 3)), scored(4, env_id=wanted))
        shares = (await api.status_env(plain))["unallocated_fraction"]
        first = names(await api.batch())
        await api.post(scored(5, env_id=plain))
        assert (first, names(await api.batch()), shares) == ([1, 4], [2, 3], 0.5)


async def test_a_group_from_nobody_is_taken(tmp_path: Path):
    async with atropos(tmp_path / "q") as api:
        await api.start()
        await api.join(min_batch_allocation=1.0)
        await api.post(scored(1, env_id=None), scored(2, env_id=-1))
        assert names(await api.batch()) == [1, 2]


async def test_what_was_posted_before_the_trainer_came_waits_for_it(tmp_path: Path):
    async with atropos(tmp_path / "q") as api:
        await api.post(scored(1), scored(2))
        await api.register()
        assert names(await api.batch()) == [1, 2]


async def test_a_second_trainer_joins_and_other_settings_take_effect(tmp_path: Path):
    async with atropos(tmp_path / "q") as api:
        await api.start()
        await api.post(*(scored(name) for name in range(6)))
        await api.batch()
        uuids = {(await api.register())["uuid"] for _ in range(2)}
        assert (len(uuids), await api.status()) == (2, {"current_step": 1, "queue_size": 4})
        await api.register(batch_size=2)
        assert (names(await api.batch()), (await api.status())["current_step"]) == ([2], 2)
        await api.register(batch_size=2, starting_step=50)
        assert (await api.status())["current_step"] == 50


async def test_weights_are_shared_by_those_that_live(tmp_path: Path):
    async with atropos(tmp_path / "q") as api:
        await api.start()
        ids = [(await api.join("sums", weight=weight))["env_id"] for weight in (1.0, 3.0, 0.0)]
        weights = [(await api.status_env(env_id))["env_weight"] for env_id in ids]
        left = (await api.http.post("/disconnect-env", json={"env_id": ids[1]})).json()
        alone = (await api.status_env(ids[0]))["env_weight"]
        unknown = (await api.http.post("/disconnect-env", json={"env_id": -1})).json()
    assert (ids, weights) == ([0, 1, 2], [0.25, 0.75, 0.01])
    assert (left, alone, unknown["status"]) == ({"status": "success"}, 1.0, "failure")


async def test_an_environment_sees_what_waits_in_groups_of_its_size(tmp_path: Path):
    async with atropos(tmp_path / "q") as api:
        await api.start(batch_size=64)
        small, large = [(await api.join(group_size=size))["env_id"] for size in (2, 4)]
        await api.post(scored(1, 4, env_id=large), scored(2, 4, env_id=large), scored(3, 2, env_id=small))
        assert [await api.status_env(env_id) for env_id in (small, large)] == [
            {
                "current_step": 0, "queue_size": size, "unallocated_fraction": 1.0, "self_queue_size": own,
                "max_group_size": 4, "env_weight": 0.5,
            }
            for size, own in ((5, 1), (2, 2))
        ]  # fmt: skip


async def test_an_environment_feeds_a_trainer_whose_batches_grew(tmp_path: Path):
    async with atropos(tmp_path / "q") as api:
        await api.start(batch_size=4)
        env_id = (await api.join())["env_id"]
        await api.http.get("/reset_data")
        await api.start(batch_size=16)
        await api.post(*(scored(name, env_id=env_id) for name in range(4)))
        # it stops at so many batches of the four sequences that it was told of: a quarter of what waits
        assert [(await api.status_env(env_id))[key] for key in ("queue_size", "self_queue_size")] == [1, 1]
        assert (await api.status())["queue_size"] == 4


async def test_an_environment_that_nobody_knows_any_more_is_taken_in_again(tmp_path: Path):
    async with atropos(tmp_path / "q") as api:
        await api.start()
        env_id = (await api.join())["env_id"]
        await api.http.get("/reset_data")
        found = await api.status_env(env_id)
        await api.start()
        assert (await api.join())["env_id"] != env_id
    assert (found["current_step"], found["queue_size"], found["env_weight"]) == (0, 0, 1.0)


async def test_the_same_group_twice_is_two_groups(tmp_path: Path):
    async with atropos(tmp_path / "q") as api:
        await api.start()
        await api.post(scored(1), scored(1))
        assert names(await api.batch()) == [1, 1]
