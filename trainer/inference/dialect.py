"""The contract of a dialect: how one kind of server is asked for completions and told of new weights."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from core.types import JsonObject
from trainer.inference.base import Generation, GenerationRequest

Command = Callable[[str, JsonObject | None], Awaitable[JsonObject]]
"""POST a body to a path of one server, GET it without a body, and give what it answers. Raises TrainingError."""


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
        """The completion of an answer; `version` where the server does not know it. Raises ValueError for anything else."""
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
