"""Toy models on disk."""

from pathlib import Path

import pytest

from tests.trainer.toy import write_toy_model


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_model(tmp_path_factory.mktemp("toy"))
