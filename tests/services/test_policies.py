"""Which key goes to whom, and what is said where it is the wrong one."""

from pathlib import Path

import pytest

from core.errors import PolicyError
from core.settings import read_settings
from services.policies import key_for, policy_at
from services.run_file import RunFile
from tests.environments.broken_server import answered, broken_server

BOTH = {"NATGYM_API_TOKEN": "ours", "NATGYM_OPENAI_API_KEY": "theirs"}


@pytest.mark.parametrize(
    ("url", "variables", "sent"),
    [
        ("http://127.0.0.1:8001", BOTH, "ours"),
        ("http://localhost:8001/v1", BOTH, "ours"),
        ("https://api.example.com/v1", BOTH, "theirs"),
        ("https://api.example.com/v1", {"NATGYM_API_TOKEN": "ours"}, None),
        ("http://10.0.0.7:8001", {"NATGYM_API_TOKEN": "ours"}, None),
    ],
)
def test_our_token_is_told_to_nobody_elsewhere(url: str, variables: dict[str, str], sent: str | None, tmp_path: Path):
    key = key_for(url, read_settings(variables, tmp_path / ".env"))
    assert (key and key.get_secret_value()) == sent


async def test_a_key_that_is_refused_is_named(tmp_path: Path):
    async with broken_server([answered(b"{}", "401 Unauthorized")]) as server:
        with pytest.raises(PolicyError, match="answered 401; the key for it is NATGYM_API_TOKEN"):
            await policy_at(server.url, RunFile(), None)
