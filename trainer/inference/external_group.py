"""The process group over which weights leave this process: rank 0 of it here, the workers of servers as the others.

It stands beside the group in which the engine trains. Servers join with what torch.distributed itself does for a group
that is not the default one; so does this, because both ends must name their keys in the store alike.
"""

import socket
from collections.abc import Sequence
from datetime import timedelta
from urllib.parse import urlsplit
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # pyright: ignore
from torch.distributed.distributed_c10d import (
    Backend,
    PrefixStore,
    _new_process_group_helper,  # no public way makes a group that the default one does not hold
    _world,
)


class WeightGroup:
    """Rank 0 of a group, from the moment when others can come. Every call waits, so none belongs into an event loop."""

    def __init__(self, address: str, backend: str, world: int, seconds: float) -> None:
        """Listen at that address; `world` counts this process. What takes longer than `seconds` fails with RuntimeError."""
        self.address, self.backend, self.world = address, backend, world
        self.name = f"natgym-{uuid4().hex[:8]}"  # a server may still hold the group of a process before this one
        self._timeout = timedelta(seconds=seconds)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            # bound here, because the store itself would listen at every address of the machine
            listener.bind((address, 0))
            self.port: int = listener.getsockname()[1]
            self._store = TCPStore(
                address,
                self.port,
                world,
                is_master=True,
                timeout=self._timeout,
                wait_for_workers=False,
                master_listen_fd=listener.detach(),
            )
        self._group: dist.ProcessGroup | None = None

    def meet(self) -> None:
        """Wait until all others have come, where the backend does so."""
        store = PrefixStore(self.name, self._store)
        self._group, _ = _new_process_group_helper(
            self.world,
            0,
            [],
            Backend(self.backend),
            store,
            group_name=self.name,  # pyright: ignore
            timeout=self._timeout,
        )
        _world.pg_group_ranks[self._group] = {rank: rank for rank in range(self.world)}

    def placed(self, value: Tensor, kind: torch.dtype) -> Tensor:
        """A tensor as the backend can send it; the very tensor where it is so already."""
        if self.backend == "gloo":
            return value.detach().to("cpu", kind).contiguous()
        return value.detach().to(value.device if value.is_cuda else "cuda", kind).contiguous()

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Send them, one after the other, to all others."""
        assert self._group is not None, "the others have been met"
        options = dist.BroadcastOptions()
        options.rootRank, options.timeout = 0, self._timeout
        for sent in [self._group.broadcast([tensor], options) for tensor in tensors]:
            sent.wait()
        if self.backend != "gloo":
            torch.cuda.synchronize()  # waiting orders streams only

    def close(self) -> None:
        """Leave; the others are told by their servers."""
        if self._group is not None:
            dist.destroy_process_group(self._group)
            self._group = None


def address_towards(url: str) -> str:
    """The address by which a server at that URL can reach this process: the one from which packets would leave."""
    parts = urlsplit(url)
    place = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_DGRAM)[0]
    with socket.socket(place[0], socket.SOCK_DGRAM) as probe:
        probe.connect(place[4])  # sends nothing
        return probe.getsockname()[0]
