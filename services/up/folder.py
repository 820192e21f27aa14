"""The folder of a run: what is in it, and with which options it was made."""

from pathlib import Path

from pydantic import Field

from core.config import Config, read_file, validated
from core.errors import ConfigError
from core.files import write_whole
from trainer.metrics import read_metrics

RUNS = Path("runs")


class UpOptions(Config):
    """What `natgym up` was asked for; kept in the folder, so that a run can be resumed with it."""

    environment: str = "nat_agent"
    config: str | None = None
    overrides: tuple[str, ...] = ()
    model: str | None = None
    steps: int | None = Field(default=None, ge=1)
    """None: what the file says."""
    seed: int = Field(default=0, ge=0)
    groups_per_batch: int | None = Field(default=None, ge=1)
    group_size: int | None = Field(default=None, ge=2)
    minutes: float | None = Field(default=None, gt=0)
    eval_tasks: int = Field(default=100, ge=0)
    """0: no evaluation."""
    eval_samples: int = Field(default=2, ge=1)


class RunFolder:
    """Names of the files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.options = path / "run.json"
        self.metrics = path / "metrics.jsonl"
        self.plot = path / "reward.png"
        self.summary = path / "summary.json"
        self.groups = path / "groups.jsonl"
        self.database = path / "rollouts.sqlite"
        self.logs = path / "logs"

    def evaluation(self, when: str) -> Path:
        """The report of an evaluation, `before` or `after`."""
        return self.path / f"evaluation-{when}.json"

    def begin(self, options: UpOptions) -> None:
        """Make the folder for a new run. Raises ConfigError where it holds one that has come to something."""
        if self.groups.exists() or self.evaluation("before").exists() or read_metrics(self.metrics):
            raise ConfigError(f"{self.path} holds a run already: go on with it by --resume, or choose another --out")
        write_whole(self.options, options.model_dump_json(indent=2) + "\n")

    def resumed(self, given: dict[str, object]) -> UpOptions:
        """The options of the run that is in the folder, with what was given now in their place. Raises ConfigError."""
        if not self.options.exists():
            raise ConfigError(f"{self.path} holds no run to resume: leave --resume out to begin one")
        options = validated(UpOptions, {**read_file(self.options), **given}, str(self.options))
        write_whole(self.options, options.model_dump_json(indent=2) + "\n")
        return options


def next_folder() -> Path:
    """`runs/0007`, where 0006 is the highest there is."""
    numbers = [int(path.name) for path in RUNS.glob("[0-9]*") if path.name.isdigit()]
    return RUNS / f"{max(numbers, default=0) + 1:04d}"
