"""A run's figures where others look at them, beside metrics.jsonl: TensorBoard and Weights & Biases, each an extra."""

from pathlib import Path
from typing import Protocol

from core.errors import MissingRuntime
from core.registry import Registry
from core.types import JsonObject
from trainer.metrics import StepRecord

PROJECT = "natgym"


class Reporter(Protocol):
    """Takes the record of every step."""

    def __init__(self, out: Path, run: str, step: int) -> None:
        """Goes on with that run after `step`, below its output directory. Raises MissingRuntime."""
        ...

    def write(self, record: StepRecord) -> None:
        """One step's figures."""
        ...

    def close(self) -> None:
        """Hand over what is still held. Safe to call twice."""
        ...


REPORTERS: Registry[type[Reporter]] = Registry(
    "reporter",
    {"tensorboard": "trainer.reporters:TensorBoardReporter", "wandb": "trainer.reporters:WandbReporter"},
)


class TensorBoardReporter:
    """Event files in OUT/tensorboard, for `tensorboard --logdir OUT`."""

    def __init__(self, out: Path, run: str, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingRuntime("TensorBoard is not installed: pip install 'natgym[tensorboard]'") from error
        # steps after the checkpoint are made again: what was written of them is hidden
        self._writer = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)

    def write(self, record: StepRecord) -> None:
        """See Reporter."""
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, record.step, record.time)
        self._writer.flush()

    def close(self) -> None:
        """See Reporter."""
        self._writer.close()


class WandbReporter:
    """A W&B run in OUT/wandb. Offline: `wandb sync` sends it; WANDB_MODE=online sends it as it happens."""

    def __init__(self, out: Path, run: str, step: int) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports] an extra that brings its own network stack
        except ImportError as error:
            raise MissingRuntime("W&B is not installed: pip install 'natgym[wandb]'") from error
        from os import environ

        mode = "online" if environ.get("WANDB_MODE") == "online" else "offline"
        wandb.setup(wandb.Settings(mode=mode))  # offline of a run only, it would still report on itself over the network
        self._run = wandb.init(dir=str(out), project=PROJECT, id=run, name=run, resume="allow", mode=mode)
        self._end = wandb.teardown

    def write(self, record: StepRecord) -> None:
        """See Reporter."""
        self._run.log(scalars(record), step=record.step)

    def close(self) -> None:
        """See Reporter."""
        self._run.finish()
        self._end()  # waits for W&B's own process, which writes the file


def scalars(record: StepRecord) -> dict[str, float]:
    """Every number of a record, `loss`, `dropped/stale`, `seconds/train` and so on; what was not measured is left out."""
    return _flat("", record.model_dump(mode="json", exclude={"step", "time"}))


def _flat(prefix: str, found: JsonObject) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for name, value in found.items():
        if isinstance(value, dict):
            numbers |= _flat(f"{prefix}{name}/", value)
        elif isinstance(value, int | float):
            numbers[f"{prefix}{name}"] = float(value)
    return numbers
