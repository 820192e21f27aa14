"""The contract of a dialect: how one kind of server is asked for completions and told of new weights."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from core.types import JsonObject
from trainer.inference.base import Generation, GenerationRequest

Command = Callable[[str, JsonObject | None], Awaitable[JsonObject]]
"""POST a body to a path of one server, GET it without a body, and give what it answers. Raises TrainingError."""


def numbered(label: str | int | None, version: int) -> int:
    """The version that a server's label says; that one for any label of its own, of the weights that it started with."""
    text = str(label)
    return int(text) if text.isdigit() else version


class Dialect(Protocol):
    """One kind of server."""

    path: str
    """Where completions are asked for."""
    takes_adapters: str
    """What such a server must be started with to take adapters."""

    def body(self, request: GenerationRequest, max_tokens: int, salt: str, adapter: str | None = None) -> JsonObject:
        """What to POST, to be sampled by the adapter of that name; requests of another salt share no cache.

        Raises UnusableRequest for what would not give exact logprobs.
        """
        ...

    def generation(self, answer: bytes, version: int) -> Generation:
        """The completion of an answer; `version` for the weights of the server's start. Raises ValueError for anything else."""
        ...

    async def swap(self, command: Command, folder: Path, version: int) -> None:
        """Have one server sample by the weights of a Hugging Face directory. Raises TrainingError."""
        ...

    async def load_adapter(self, command: Command, name: str, folder: Path) -> None:
        """Have one server know an adapter, which lies in a directory as peft writes it, by a name. Raises TrainingError."""
        ...

    async def unload_adapter(self, command: Command, name: str) -> None:
        """Have one server forget an adapter that nothing in flight names. Raises TrainingError."""
        ...


class Meeting(NamedTuple):
    """Where the workers of one server come together with the process that trains, and as whom."""

    address: str
    port: int
    group: str
    backend: str
    rank: int
    """The first of its workers'; its others follow."""
    world: int


class Part(NamedTuple):
    """What a broadcast of some of the weights holds: tensors of these names, dtypes and shapes, in that order."""

    group: str
    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]


@runtime_checkable
class NetworkDialect(Protocol):
    """One kind of server whose workers join a process group of torch.distributed."""

    async def workers(self, command: Command) -> int:
        """How many ranks one server has. Raises TrainingError."""
        ...

    async def join(self, command: Command, meeting: Meeting) -> None:
        """Have its workers join; returns when they have. Raises TrainingError."""
        ...

    async def leave(self, command: Command, group: str) -> None:
        """Have its workers forget a group. Raises TrainingError."""
        ...

    async def begin(self, command: Command) -> None:
        """Keep what is in flight, and sample nothing until `end`. Raises TrainingError."""
        ...

    async def receive(self, command: Command, part: Part, version: int) -> None:
        """Have its workers take a part out of the broadcast, as that version's. Raises TrainingError."""
        ...

    async def end(self, command: Command) -> None:
        """Go on, by what was received. Raises TrainingError."""
        ...
