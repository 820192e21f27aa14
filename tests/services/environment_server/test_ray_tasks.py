"""One order of tasks for many servers: every task once an epoch, and again where a server was lost."""

import asyncio

import pytest

from core.errors import QueueError
from core.types import Task
from environments.base import Split
from services.arena import RolloutsConfig
from services.environment_server.ray_fleet import portable
from services.environment_server.ray_tasks import SharedTasks, TaskBook
from services.environment_server.task_order import Assignment
from services.run_file import NAT_SMALL, RunFile
from tests.fakes import Sums

TASKS = tuple(Sums().tasks(Split.TRAIN))


class NearBook:
    """The book without a process between."""

    def __init__(self, book: TaskBook) -> None:
        self._book = book

    async def take(self, server: str) -> Assignment | None:
        return self._book.take(server)

    async def done(self, server: str, group_id: str) -> None:
        self._book.done(server, group_id)


def taken(book: TaskBook, server: str) -> Assignment:
    assignment = book.take(server)
    assert assignment is not None
    return assignment


def test_servers_of_one_fleet_play_every_task_once_an_epoch():
    book = TaskBook(TASKS, seed=1)
    played = [taken(book, f"server-{number % 3}").task.id for number in range(len(TASKS))]
    assert sorted(played) == sorted(task.id for task in TASKS)


def test_what_a_lost_server_was_playing_is_handed_out_again_first_under_the_same_id():
    book = TaskBook(TASKS, seed=1)
    kept, lost, accepted = taken(book, "alive"), taken(book, "dead"), taken(book, "dead")
    book.done("dead", accepted.group_id)
    assert book.lose("dead") == 1
    assert taken(book, "alive") == lost
    assert taken(book, "alive").group_id not in {kept.group_id, lost.group_id, accepted.group_id}


def test_a_group_that_a_lost_server_still_handed_over_is_not_played_again():
    book = TaskBook(TASKS, seed=1)
    late = taken(book, "dead")
    book.lose("dead")
    book.done("dead", late.group_id)
    assert taken(book, "alive").group_id != late.group_id


def test_a_server_that_was_given_up_gets_no_more_tasks():
    book = TaskBook(TASKS, seed=1)
    book.lose("dead")
    with pytest.raises(QueueError, match="the fleet has given environment server dead up"):
        asyncio.run(SharedTasks(NearBook(book), "dead").take())


def test_two_fleets_never_give_two_groups_one_id():
    first, second = TaskBook(TASKS, seed=1), TaskBook(TASKS, seed=1)
    assert taken(first, "a").group_id != taken(second, "a").group_id


def test_settings_travel_to_machines_that_do_not_have_the_file():
    file = RunFile(NAT_SMALL, ("rollouts.seed=3", 'rollouts.limits={"turns": 4}'))
    carried = portable(file)
    assert carried.path is None
    assert carried.sections() == file.sections()
    assert carried.section("rollouts", RolloutsConfig) == file.section("rollouts", RolloutsConfig)


def test_a_task_can_be_carried_to_another_machine():
    import pickle

    assignment = taken(TaskBook(TASKS, seed=1), "a")
    assert pickle.loads(pickle.dumps(assignment)) == assignment
    assert isinstance(assignment.task, Task)
