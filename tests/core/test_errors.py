"""One tree of errors: they cross processes, carry exit codes and name the boundary that was crossed."""

import asyncio
import pickle

import pytest

from core.errors import (
    BadData,
    BoundaryError,
    ConfigError,
    MissingRuntime,
    NatgymError,
    PolicyError,
    PortInUse,
    QueueError,
    RewardError,
    SandboxError,
    TrainingError,
    UnknownName,
    UserError,
    boundary,
    did_you_mean,
)

BOUNDARIES = [PolicyError, SandboxError, RewardError, QueueError, TrainingError]


@pytest.mark.parametrize("kind", [ConfigError, BadData, PortInUse, MissingRuntime])
def test_a_mistake_of_the_user_exits_with_two(kind: type[UserError]):
    assert kind("wrong").exit_code == 2


@pytest.mark.parametrize("kind", BOUNDARIES)
def test_what_broke_outside_the_policy_exits_with_one(kind: type[BoundaryError]):
    assert kind("broken").exit_code == 1


@pytest.mark.parametrize("kind", BOUNDARIES)
def test_a_boundary_error_survives_pickling(kind: type[BoundaryError]):
    copy = pickle.loads(pickle.dumps(kind("it broke", "gsm8k.reward")))
    assert (type(copy), str(copy), copy.where) == (kind, "it broke", "gsm8k.reward")


def test_an_unknown_name_survives_pickling():
    error = UnknownName("parser", "hermez", ["qwen", "hermes"])
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.known) == (str(error), ("hermes", "qwen"))


def test_an_unknown_name_lists_the_nearest_and_all_known_names():
    message = str(UnknownName("parser", "hermez", ["qwen", "hermes"]))
    assert message == "no parser 'hermez'; did you mean 'hermes'? known: hermes, qwen"


def test_nothing_is_suggested_where_nothing_is_near():
    assert did_you_mean("zzz", ["hermes", "qwen"]) == ""


def test_a_boundary_error_names_its_own_boundary_unless_told():
    assert RewardError("it broke").where == "reward"


def test_a_boundary_names_an_exception_after_where_it_happened():
    with (
        pytest.raises(RewardError, match=r"gsm8k\.reward: KeyError: 'answer'") as caught,
        boundary(RewardError, "gsm8k.reward"),
    ):
        {}["answer"]
    assert caught.value.where == "gsm8k.reward"


def test_a_boundary_keeps_the_cause():
    with pytest.raises(RewardError) as caught, boundary(RewardError, "gsm8k.reward"):
        raise OSError("gone")
    assert isinstance(caught.value.__cause__, OSError)


def test_an_error_that_was_named_closer_to_its_cause_passes_unchanged():
    with pytest.raises(SandboxError, match=r"^it died$"), boundary(RewardError, "gsm8k.reward"):
        raise SandboxError("it died")


async def test_a_boundary_lets_cancellation_pass():
    async def reward() -> None:
        with boundary(RewardError, "gsm8k.reward"):
            await asyncio.Event().wait()

    task = asyncio.create_task(reward())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_boundary_lets_a_result_pass():
    with boundary(RewardError, "gsm8k.reward"):
        total = 1
    assert total == 1


def test_everything_that_natgym_raises_is_one_family():
    assert issubclass(UserError, NatgymError)
    assert issubclass(BoundaryError, NatgymError)
