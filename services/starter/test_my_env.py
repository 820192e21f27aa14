"""The environment `my_env`: what is right earns everything, what is wrong earns nothing, no task is in both splits."""

from my_env import MyEnv

from environments.base import Split
from services.cli import main


def test_gold_answers_win_and_wrong_answers_do_not():
    assert main(["check", "my_env:MyEnv"]) == 0


def test_no_task_to_learn_from_is_measured():
    splits = [{task.id for task in MyEnv().tasks(split)} for split in Split]
    assert splits[0].isdisjoint(splits[1])
