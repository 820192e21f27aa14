"""What tests of the services share."""

from pathlib import Path

import pytest

from tests.services.small_policy import write_random_policy


@pytest.fixture(scope="session")
def random_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_policy(tmp_path_factory.mktemp("policy"))
