"""The process environment and `.env`: who wins, what is refused, what is never shown."""

from pathlib import Path

import pytest

from core.errors import ConfigError
from core.settings import Settings, child_environ, read_dotenv, read_settings


@pytest.fixture
def dotenv(tmp_path: Path) -> Path:
    return tmp_path / ".env"


def test_without_variables_the_defaults_are_in_force(dotenv: Path):
    assert read_settings({}, dotenv) == Settings()


def test_the_file_wins_over_the_default(dotenv: Path):
    dotenv.write_text("NATGYM_LOG_LEVEL=debug\n")
    assert read_settings({}, dotenv).log_level == "debug"


def test_the_process_wins_over_the_file(dotenv: Path):
    dotenv.write_text("NATGYM_LOG_LEVEL=debug\n")
    assert read_settings({"NATGYM_LOG_LEVEL": "error"}, dotenv).log_level == "error"


def test_an_empty_variable_counts_as_unset(dotenv: Path):
    assert read_settings({"NATGYM_LOG_LEVEL": ""}, dotenv).log_level == "info"


def test_words_become_the_type_of_the_setting(dotenv: Path):
    settings = read_settings({"NATGYM_LOG_JSON": "true", "NATGYM_NAT_PYTHON": "/opt/nat/python"}, dotenv)
    assert (settings.log_json, settings.nat_python) == (True, Path("/opt/nat/python"))


def test_a_wrong_value_is_answered_with_its_variable(dotenv: Path):
    with pytest.raises(ConfigError, match=r"^NATGYM_LOG_LEVEL: Input should be 'debug', 'info', 'warning' or 'error'$"):
        read_settings({"NATGYM_LOG_LEVEL": "loud"}, dotenv)


def test_a_secret_is_not_printed(dotenv: Path):
    assert "s3cret" not in repr(read_settings({"NATGYM_API_TOKEN": "s3cret"}, dotenv))


def test_a_secret_can_be_used(dotenv: Path):
    token = read_settings({"NATGYM_API_TOKEN": "s3cret"}, dotenv).api_token
    assert token is not None
    assert token.get_secret_value() == "s3cret"


def test_an_unknown_name_in_the_file_is_refused(dotenv: Path):
    dotenv.write_text("NATGYM_COLOUR=red\n")
    with pytest.raises(ConfigError, match="unknown variable 'NATGYM_COLOUR'; known: NATGYM_API_TOKEN, "):
        read_settings({}, dotenv)


def test_a_misspelt_name_of_the_process_is_refused_with_the_right_one(dotenv: Path):
    with pytest.raises(ConfigError, match="'NATGYM_LOG_LEVLE'; did you mean 'NATGYM_LOG_LEVEL'"):
        read_settings({"NATGYM_LOG_LEVLE": "debug"}, dotenv)


def test_a_variable_of_a_container_platform_is_left_alone(dotenv: Path):
    assert read_settings({"NATGYM_SERVICE_HOST": "10.0.0.1", "NATGYM_PORT": "tcp://10.0.0.1:8000"}, dotenv) == Settings()


def test_variables_of_others_are_left_alone(dotenv: Path):
    dotenv.write_text("OPENAI_API_KEY=x\n")
    assert read_settings({"HOME": "/root"}, dotenv) == Settings()


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b", "b"),
        ("  A = b  ", "b"),
        ("export A=b", "b"),
        ("A='b c'", "b c"),
        ('A="b # c"', "b # c"),
        ("A=it's", "it's"),
        ("A=b # why", "b"),
        ("A=b#c", "b#c"),
        ("A=b=c", "b=c"),
        ("A=", ""),
        ('A="', '"'),
    ],
)
def test_a_line_of_the_file_gives_its_value(dotenv: Path, line: str, value: str):
    dotenv.write_text(line)
    assert read_dotenv(dotenv) == {"A": value}


def test_comments_and_blank_lines_are_skipped(dotenv: Path):
    dotenv.write_text("# a comment\n\n  # another\n")
    assert read_dotenv(dotenv) == {}


@pytest.mark.parametrize("line", ["s3cret", "1A=s3cret", "A-B=s3cret", "=s3cret"])
def test_a_broken_line_is_named_by_its_number_and_not_shown(dotenv: Path, line: str):
    dotenv.write_text(f"A=b\n{line}\n")
    with pytest.raises(ConfigError, match=r"\.env:2: expected NAME=value$"):
        read_dotenv(dotenv)


def test_a_file_that_is_not_text_is_refused(dotenv: Path):
    dotenv.write_bytes(b"A=\xff\n")
    with pytest.raises(ConfigError, match="utf-8"):
        read_dotenv(dotenv)


def test_a_child_starts_with_our_variables_and_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NATGYM_LOG_LEVEL", "debug")
    environ = child_environ(NATGYM_LOG_JSON="true")
    assert (environ["NATGYM_LOG_LEVEL"], environ["NATGYM_LOG_JSON"]) == ("debug", "true")
