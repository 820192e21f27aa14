"""What counts against a child's wall clock limit: its own time, not the host's and not the machine's."""

from environments.nat_agent.runtime.patience import LONGEST, Patience

LIMIT = 10.0


def asked_at(now: float) -> Patience:
    patience = Patience(LIMIT)
    patience.ask(now)
    return patience


def test_a_child_that_sleeps_is_late():
    patience = asked_at(100.0)
    assert patience.deadline == 110.0
    assert patience.verdict(110.0, waited_seconds=0.0) == "late"


def test_a_child_that_nobody_asks_has_no_deadline():
    patience = Patience(LIMIT)
    assert patience.deadline == float("inf")
    patience.ask(0.0)
    patience.answered(1.0)
    assert patience.deadline == float("inf")


def test_the_time_of_all_its_answers_counts_and_that_between_them_does_not():
    patience = asked_at(0.0)
    patience.answered(4.0)
    patience.ask(1000.0)
    assert patience.deadline == 1006.0


def test_waiting_for_a_processor_is_forgiven():
    patience = asked_at(0.0)
    assert patience.verdict(10.0, waited_seconds=4.0) == ""
    assert patience.deadline == 14.0
    assert patience.verdict(14.0, waited_seconds=4.0) == "late"


def test_a_child_that_gets_no_processor_for_long_is_starved_and_not_late():
    patience = asked_at(0.0)
    assert patience.verdict(10.0, waited_seconds=10.0) == ""
    assert patience.verdict(20.0, waited_seconds=20.0) == ""
    assert patience.verdict(LONGEST * LIMIT, waited_seconds=29.0) == "starved"


def test_no_wait_prolongs_a_life_beyond_all_bounds():
    patience = asked_at(0.0)
    patience.verdict(10.0, waited_seconds=500.0)
    assert patience.deadline == LONGEST * LIMIT
