"""Checkpoints: a directory that is whole or not there, from which the next step comes out the same."""

import shutil
from pathlib import Path

from pydantic import Field

from core.config import Config, read_file, validated
from core.errors import ConfigError, TrainingError
from core.logs import get_logger
from core.types import Update, Value
from trainer.engines.base import Engine
from trainer.weights import PARTIAL, remove_partial, replaced_directory

log = get_logger("checkpoints")
PROGRESS_FILE = "progress.json"
STEP_PREFIX = "step-"


class CheckpointConfig(Config):
    """When checkpoints are made and how many are kept."""

    every: int = Field(default=1, ge=1, description="steps; after a crash, the steps since the last one are lost")
    keep: int = Field(default=2, ge=1, description="newest checkpoints that stay")


class Told(Value):
    """What the source of a batch is told of the step that it was used for."""

    batch_id: str
    update: Update


class Progress(Value):
    """Where a run is."""

    step: int = 0
    policy_version: int = 0
    trained_groups: tuple[str, ...] = ()
    """Groups of the last step: after a crash before the acknowledgement, they come back and must not count twice."""
    told: Told | None = None
    """The acknowledgement of the last step: after a crash before it, it is made up for."""


class CheckpointStore:
    """The checkpoints of one run, newest last: `step-00000012/{progress.json, model/, ...}`."""

    def __init__(self, root: Path, config: CheckpointConfig | None = None) -> None:
        self._root = root
        self._config = config or CheckpointConfig()

    def due(self, step: int) -> bool:
        """Whether that step ends with a checkpoint."""
        return step % self._config.every == 0

    def path(self, step: int) -> Path:
        """Where the checkpoint of that step is, or will be."""
        return self._root / f"{STEP_PREFIX}{step:08d}"

    def save(self, progress: Progress, engine: Engine) -> Path:
        """Write a checkpoint and delete the oldest beyond `keep`. Raises TrainingError or OSError; nothing partial stays."""
        target = self.path(progress.step)
        with replaced_directory(target) as partial:
            engine.save(partial)
            (partial / PROGRESS_FILE).write_text(progress.model_dump_json(), encoding="utf-8")
        for old in self.all()[: -self._config.keep]:
            doomed = old.rename(self._root / f"{PARTIAL}{old.name}")  # half deleted, it must not look whole
            shutil.rmtree(doomed, ignore_errors=True)
        return target

    def all(self) -> list[Path]:
        """Directories of the checkpoints, oldest first."""
        return sorted(path.parent for path in self._root.glob(f"{STEP_PREFIX}*/{PROGRESS_FILE}"))

    def newest_step(self) -> int | None:
        """The step of the newest checkpoint; None where there is none."""
        found = self.all()
        return int(found[-1].name.removeprefix(STEP_PREFIX)) if found else None

    def restore(self, engine: Engine) -> Progress | None:
        """Put the engine where the newest checkpoint left it; None where there is none.

        Raises ConfigError for a checkpoint of another model, TrainingError for one that cannot be read.
        """
        remove_partial(self._root)
        found = self.all()
        if not found:
            return None
        progress = validated(Progress, read_file(found[-1] / PROGRESS_FILE), str(found[-1]))
        try:
            engine.load(found[-1])
        except (ConfigError, TrainingError) as error:
            # the engine knows what is wrong, and not always with which directory
            raise error if str(found[-1]) in str(error) else type(error)(f"{found[-1]}: {error}") from error
        log.info("restored", path=str(found[-1]), step=progress.step, policy_version=progress.policy_version)
        return progress
