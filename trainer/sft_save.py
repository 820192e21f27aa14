"""Where supervised learning is, in one file, so that a run that was killed goes on at its last save."""

from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import ConfigError, TrainingError, boundary
from core.files import flush
from core.types import JsonObject

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from transformers import PreTrainedModel


class SftSave:
    """The file; `told` is what has to be the same for a run to be taken up again."""

    def __init__(self, path: Path, told: JsonObject, every: int = 100) -> None:
        """`every`: steps between two saves, at least 1."""
        self.path, self._told, self._every = path, told, every

    def due(self, step: int) -> bool:
        """Whether that step ends with a save."""
        return step % self._every == 0

    def write(self, step: int, model: "PreTrainedModel", optimiser: "Optimizer") -> None:
        """Keep both as they are after that step. Raises TrainingError; what was kept before stays until all is written."""
        import torch

        partial = self.path.with_name(f"{self.path.name}.partial")
        state = {"told": self._told, "step": step, "model": model.state_dict(), "optimiser": optimiser.state_dict()}
        with boundary(TrainingError, f"saving {self.path}"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.save(state, partial)
                flush(partial)
                partial.replace(self.path)
                flush(self.path.parent)
            finally:
                partial.unlink(missing_ok=True)

    def restore(self, model: "PreTrainedModel", optimiser: "Optimizer") -> int:
        """Put both where the file left them; the step that it was written after, 0 where there is none.

        Raises ConfigError where it is of another run, TrainingError where it cannot be read.
        """
        import torch

        if not self.path.is_file():
            return 0
        with boundary(TrainingError, f"resuming {self.path}"):
            state = torch.load(self.path, weights_only=True)
            if state["told"] != self._told:
                raise ConfigError(f"{self.path}: is of a run with {state['told']}, not {self._told}; delete it to begin anew")
            model.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
            return int(state["step"])

    def remove(self) -> None:
        """The run is done."""
        self.path.unlink(missing_ok=True)
