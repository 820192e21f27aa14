"""Weights on disk as Hugging Face directories, and on their way to whoever samples."""

import json
import shutil
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from tempfile import mkdtemp
from typing import Protocol, runtime_checkable

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.errors import TrainingError, boundary
from core.files import flush

WEIGHTS_FILE = "model.safetensors"
WEIGHT_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".index.json")
PARTIAL = ".partial-"


class WeightFormat(StrEnum):
    """How numbers are written."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


TORCH_TYPES = {
    WeightFormat.FLOAT32: torch.float32,
    WeightFormat.FLOAT16: torch.float16,
    WeightFormat.BFLOAT16: torch.bfloat16,
}


class Publisher(Protocol):
    """Who samples with the weights; `trainer.inference.base.InferenceEngine` is one."""

    async def publish(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Sample with these weights from now on; returns when they have been copied. Raises TrainingError."""
        ...


class WeightSource(Protocol):
    """Who has the weights: a training engine, whose weights stand still meanwhile."""

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of the weights under their Hugging Face names."""
        ...


@runtime_checkable
class AdapterSource(WeightSource, Protocol):
    """Whose weights are a model that stands still and a small adapter that learns."""

    def save_adapter(self, directory: Path) -> None:
        """Write the adapter alone into that directory, as peft does. Raises TrainingError where none learns."""
        ...


@runtime_checkable
class TensorSource(WeightSource, Protocol):
    """Who gives one tensor after the other, so that the whole model is never in one place."""

    def each_weight(self) -> Generator[tuple[str, Tensor], None, None]:
        """Hugging Face names and whole tensors, tied ones once. To be closed by who does not take all."""
        ...


class GivenWeights:
    """Fulfils TensorSource with weights that lie here."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = weights

    def state_dict(self) -> dict[str, Tensor]:
        """The very weights."""
        return dict(self._weights)

    def each_weight(self) -> Generator[tuple[str, Tensor], None, None]:
        """See TensorSource."""
        tied = shared_names(self._weights)
        yield from ((name, value) for name, value in self._weights.items() if name not in tied)


@runtime_checkable
class DirectPublisher(Publisher, Protocol):
    """Who takes from the source what it needs, which may be less than a copy of the whole."""

    async def publish_from(self, source: WeightSource, version: int) -> None:
        """Sample with the weights of that source from now on; reads nothing of it afterwards. Raises TrainingError."""
        ...


def snapshot(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of the weights; names that shared one tensor share one copy."""
    copies: dict[int, Tensor] = {}
    for value in weights.values():
        if value.data_ptr() not in copies:
            copies[value.data_ptr()] = value.detach().clone()
    return {name: copies[value.data_ptr()] for name, value in weights.items()}


def shared_names(weights: Mapping[str, Tensor]) -> set[str]:
    """Names whose tensor has an earlier name too: tied embeddings, which are written once."""
    seen: set[int] = set()
    shared: set[str] = set()
    for name, value in weights.items():
        (shared.add(name) if value.data_ptr() in seen else seen.add(value.data_ptr()))
    return shared


def save_model(
    weights: Mapping[str, Tensor], like: Path, target: Path, number_format: WeightFormat = WeightFormat.FLOAT32
) -> None:
    """Write a Hugging Face directory: these weights, and config and tokenizer of the directory `like`.

    `target` holds the whole of it or what it held before. Raises TrainingError.
    """
    tied = shared_names(weights)
    tensors = {name: as_written(value, number_format) for name, value in weights.items() if name not in tied}
    with boundary(TrainingError, f"weights {target}"), replaced_directory(target) as partial:
        for path in sorted(like.iterdir()):
            if path.is_file() and not path.name.endswith(WEIGHT_ENDINGS):
                shutil.copyfile(path, partial / path.name)
        _set_number_format(partial / "config.json", number_format)
        save_file(tensors, partial / WEIGHTS_FILE, metadata={"format": "pt"})


def as_written(value: Tensor, number_format: WeightFormat) -> Tensor:
    """A tensor on the CPU, in the format if it holds floats; the very tensor where it is so already."""
    return value.detach().to("cpu", TORCH_TYPES[number_format] if value.is_floating_point() else value.dtype).contiguous()


def read_weights(directory: Path) -> dict[str, Tensor]:
    """The tensors of a directory that `save_model` wrote, on the CPU. Raises TrainingError."""
    with boundary(TrainingError, f"weights {directory}"):
        return load_file(directory / WEIGHTS_FILE)


@contextmanager
def replaced_directory(target: Path) -> Iterator[Path]:
    """An empty directory that becomes `target` when the block ends, after everything in it reached the disk.

    When the block raises, or the process dies in it, `target` is what it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(mkdtemp(prefix=PARTIAL, dir=target.parent))
    try:
        partial.chmod(0o755)
        yield partial
        for path in sorted(partial.rglob("*")):
            flush(path)
        flush(partial)
        _swap(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_partial(parent: Path) -> None:
    """Delete what writers that died left in a directory."""
    for path in parent.glob(f"{PARTIAL}*"):
        shutil.rmtree(path, ignore_errors=True)


def _swap(partial: Path, target: Path) -> None:
    if target.exists():
        # a directory that is not empty cannot be replaced in one step: it leaves first, and is deleted last
        former = Path(mkdtemp(prefix=PARTIAL, dir=target.parent))
        target.rename(former / target.name)
        partial.rename(target)
        shutil.rmtree(former, ignore_errors=True)
    else:
        partial.rename(target)
    flush(target.parent)


def _set_number_format(path: Path, number_format: WeightFormat) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config["dtype"] = number_format.value
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
