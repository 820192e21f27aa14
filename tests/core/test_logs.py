"""Events with fields: one line each, no secrets, nothing that a model wrote can forge."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from core.logs import MAX_CHARACTERS, configure, get_logger

LOG = get_logger("test")


@pytest.fixture(autouse=True)
def _leave_logging_as_it_was() -> Iterator[None]:
    logger = logging.getLogger("natgym")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture
def lines() -> io.StringIO:
    stream = io.StringIO()
    configure("debug", stream=stream)
    return stream


@pytest.fixture
def objects() -> io.StringIO:
    stream = io.StringIO()
    configure("debug", json_lines=True, stream=stream)
    return stream


def test_a_line_holds_level_event_and_fields(lines: io.StringIO):
    LOG.info("group_scored", group="g1", reward_mean=0.4123456789, failed=0)
    assert lines.getvalue().split(maxsplit=1)[1] == "info    group_scored group=g1 reward_mean=0.412346 failed=0\n"


def test_a_json_line_keeps_numbers_as_numbers(objects: io.StringIO):
    LOG.warning("group_scored", reward_mean=0.25, tokens=7, ok=True, note=None)
    event = json.loads(objects.getvalue())
    assert {name: event[name] for name in ("level", "event", "reward_mean", "tokens", "ok", "note")} == {
        "level": "warning",
        "event": "group_scored",
        "reward_mean": 0.25,
        "tokens": 7,
        "ok": True,
        "note": None,
    }


def test_a_field_cannot_take_the_place_of_the_event(objects: io.StringIO):
    LOG.info("real", event="forged", level="forged")
    event = json.loads(objects.getvalue())
    assert (event["event"], event["level"]) == ("real", "info")


def test_a_number_that_json_has_no_word_for_is_text(objects: io.StringIO):
    LOG.info("update", loss=float("nan"))
    assert json.loads(objects.getvalue())["loss"] == "nan"


@pytest.mark.parametrize("name", ["api_token", "TOKEN", "openai_api_key", "apikey", "password", "Authorization", "set-cookie"])
def test_a_secret_is_hidden_by_its_name(lines: io.StringIO, name: str):
    LOG.info("started", **{name: "s3cret"})
    assert lines.getvalue().endswith(f"{name}=***\n")


def test_a_secret_inside_a_mapping_is_hidden(objects: io.StringIO):
    LOG.info("request", headers={"Authorization": "Bearer s3cret", "Accept": "*"}, hops=[{"token": "s3cret"}])
    event = json.loads(objects.getvalue())
    assert (event["headers"], event["hops"]) == ({"Authorization": "***", "Accept": "*"}, [{"token": "***"}])


def test_a_secret_value_is_hidden_under_any_name(lines: io.StringIO):
    LOG.info("started", given=SecretStr("s3cret"))
    assert "s3cret" not in lines.getvalue()


@pytest.mark.parametrize("name", ["tokens", "tokens_per_second", "keys", "monkey"])
def test_a_field_that_only_sounds_like_a_secret_is_shown(lines: io.StringIO, name: str):
    LOG.info("update", **{name: 5})
    assert lines.getvalue().endswith(f"{name}=5\n")


def test_a_text_with_a_newline_stays_on_one_line(lines: io.StringIO):
    LOG.info("tool_failed", message="x\n12:00:00 error   forged")
    assert lines.getvalue().count("\n") == 1


def test_a_text_cannot_send_terminal_codes(lines: io.StringIO):
    LOG.info("tool_failed", message="\x1b[2J")
    assert "\x1b" not in lines.getvalue()


def test_a_long_text_is_cut(lines: io.StringIO):
    LOG.info("tool_failed", message="x" * 100_000)
    assert len(lines.getvalue()) < MAX_CHARACTERS + 200


def test_an_event_below_the_level_is_not_written():
    stream = io.StringIO()
    configure("warning", stream=stream)
    LOG.info("quiet")
    assert stream.getvalue() == ""


def test_configuring_twice_writes_each_event_once(lines: io.StringIO):
    configure("info", stream=lines)
    LOG.error("once")
    assert lines.getvalue().count("once") == 1


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_an_event_carries_the_level_that_it_was_written_with(objects: io.StringIO, level: str):
    getattr(LOG, level)("happened")
    assert json.loads(objects.getvalue())["level"] == level
