"""The docker daemon: how it is reached, what it enforces, what its errors mean, and the image that natgym makes itself."""

import asyncio
import tarfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from aiohttp import ClientError

from backends.base import (
    BackendUnavailable,
    Capabilities,
    CapabilityError,
    CapacityExhausted,
    Feature,
    ImageError,
    Limit,
    SandboxError,
    Tier,
)
from backends.images.host_root import digest, root_archive, write_root
from core.errors import MissingRuntime

if TYPE_CHECKING:
    from aiodocker import Docker

HOST_IMAGE = "natgym-host"
DOCKERFILE = b"FROM scratch\nADD root.tar /\n"
NO_CONNECTION = 900  # the library's own status
VM_RUNTIMES = ("kata", "runsc", "krun", "youki-vm")
LIMITS = {"PidsLimit": Limit.PROCESSES, "MemoryLimit": Limit.MEMORY, "CpuCfsQuota": Limit.CPU}


async def connect(url: str | None, api_version: str = "auto") -> "Docker":
    """A client of the daemon. Raises MissingRuntime where there is none, or no library to speak to it."""
    try:
        from aiodocker import Docker
    except ModuleNotFoundError as error:
        raise MissingRuntime("the backend 'docker' needs a package: pip install 'natgym[docker]'") from error
    try:
        return Docker(url, api_version=api_version)
    except (AssertionError, ValueError) as error:  # the library asserts that it found an address
        raise MissingRuntime(
            "the backend 'docker' found no docker daemon: start one (systemctl start docker), or set DOCKER_HOST"
        ) from error


@contextmanager
def explained(image: str = "", *, first: bool = False) -> Generator[None]:
    """Turn what the library raises into errors of ours. `first`: nothing was heard of the daemon yet."""
    from aiodocker import DockerError

    try:
        yield
    except DockerError as error:
        raise _meaning(error.status, error.message, image, first=first) from error
    except (ClientError, OSError) as error:
        raise BackendUnavailable(f"the docker daemon broke off: {type(error).__name__}: {error}") from error


async def own_image(daemon: "Docker") -> str:
    """The image of this machine's own directories (images/host_root.py), made where the daemon does not have it."""
    from aiodocker import DockerError

    archive = await asyncio.to_thread(_host_root)
    name = f"{HOST_IMAGE}:{digest(archive)}"
    try:
        await daemon.images.inspect(name)
    except DockerError as error:
        if error.status != 404:
            raise
        context = _tar({"Dockerfile": DOCKERFILE, "root.tar": archive})
        await daemon.images.build(fileobj=BytesIO(context), tag=name, encoding="identity")
    return name


def capabilities(info: Mapping[str, Any]) -> Capabilities:
    """What the daemon's answer to /info says about its containers."""
    limits = frozenset({Limit.DISK, *(limit for field, limit in LIMITS.items() if info.get(field))})
    runtime = str(info.get("DefaultRuntime", ""))
    tier = Tier.CONTAINED if len(limits) == len(Limit) else Tier.NAMESPACES
    if runtime.startswith(VM_RUNTIMES):
        tier = Tier.VM
    enforced = ", ".join(sorted(limits))
    return Capabilities(
        backend="docker",
        tier=tier,
        detail=f"docker {info.get('ServerVersion')} with {runtime}; user 1000, no capability, no network; limits: {enforced}",
        private_pids=True,
        no_network=True,
        hides_host=True,
        limits=limits,
        features=frozenset(Feature),
    )


def _meaning(status: int, message: str, image: str, *, first: bool) -> SandboxError | MissingRuntime:
    if status == NO_CONNECTION and "ermission denied" in message:
        return MissingRuntime(f"{message}; expected a user that may use docker (usermod -aG docker USER, then log in again)")
    if status == NO_CONNECTION and first:
        return MissingRuntime(f"{message}; start the daemon (systemctl start docker), or set DOCKER_HOST")
    if status == NO_CONNECTION:
        return BackendUnavailable(message)
    if "No such image" in message:
        return ImageError(f"docker has no image {image!r}; pull it, or build it (docs/sandboxes.md)")
    if "executable file not found" in message or "exec: " in message:
        return ImageError(f"the image {image!r} cannot run natgym's agent; expected one with python3 in its PATH ({message})")
    if "bind source path does not exist" in message:
        return CapabilityError(f"the docker daemon does not see this machine's files: name an image that has them ({message})")
    if "no space left" in message:
        return CapacityExhausted(f"docker: {message}")
    return SandboxError(f"docker: {message}")


def _host_root() -> bytes:
    with TemporaryDirectory() as directory:
        write_root(Path(directory))
        return root_archive(Path(directory))


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, BytesIO(data))
    return buffer.getvalue()
