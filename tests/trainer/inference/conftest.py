"""A tiny random model, an engine of it, and what transformers says about the same tokens."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.trainer.inference.tiny import Reference, write_tiny_model
from trainer.inference.local_engine import LocalEngine, LocalEngineConfig


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"), seed=0)


@pytest.fixture(scope="session")
def other_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same shape, other weights."""
    return write_tiny_model(tmp_path_factory.mktemp("other"), seed=1)


@pytest.fixture(scope="session")
def reference(model_dir: Path) -> Reference:
    return Reference(model_dir)


@pytest.fixture(scope="session")
def other_reference(other_model_dir: Path) -> Reference:
    return Reference(other_model_dir)


@pytest.fixture
async def engine(model_dir: Path) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine.load(model_dir, LocalEngineConfig(max_batch=8, prefill_tokens=64))
    yield engine
    await engine.aclose()
