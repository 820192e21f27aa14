"""What is apptainer's own: images, users, configuration. The conformance suite says the rest."""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from backends import cgroups
from backends.base import CapabilityError, ImageError, Network, SandboxSpec, Tier
from backends.images.host_root import system_binds, write_root
from backends.singularity import SingularityBackend
from core.errors import MissingRuntime
from tests.backends.apptainer import singularity
from tests.backends.processes import gone, processes_with


@pytest.fixture
async def backend() -> AsyncIterator[SingularityBackend]:
    """The backend, where this machine runs apptainer."""
    async with singularity() as backend:
        try:
            await backend.probe()
        except MissingRuntime as missing:
            pytest.skip(f"singularity: {missing}")
        yield backend


@pytest.fixture
def root() -> Iterator[Path]:
    """A root directory without a program that everybody can reach, unlike pytest's own places."""
    with TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        directory = Path(place, "root")
        directory.mkdir()
        write_root(directory)
        yield directory


async def python_of(backend: SingularityBackend, spec: SandboxSpec) -> bytes:
    sandbox = await backend.create(spec)
    found = await sandbox.exec(["sh", "-c", "python3 -c 'print(6 * 7)'; cat /marked"], timeout_seconds=20)
    await sandbox.destroy()
    return found.stdout


async def test_probe_names_the_tier(backend: SingularityBackend):
    assert (await backend.probe()).tier is (Tier.CONTAINED if cgroups.hierarchies() else Tier.NAMESPACES)


async def test_an_unpacked_root_is_an_image(backend: SingularityBackend, root: Path):
    (root / "marked").write_text("by the image")
    spec = SandboxSpec(image=str(root), readonly=system_binds())
    assert await python_of(backend, spec) == b"42\nby the image"


async def test_an_image_file_is_unpacked_and_goes_with_the_backend(backend: SingularityBackend, root: Path):
    if shutil.which("mksquashfs") is None:
        pytest.skip("squashfs-tools: not installed, so that no .sif file can be made")
    (root / "marked").write_text("by the file")
    image = root.parent / "image.sif"
    subprocess.run(["apptainer", "build", str(image), str(root)], check=True, capture_output=True)
    spec = SandboxSpec(image=str(image), readonly=system_binds())
    assert [await python_of(backend, spec) for _ in range(2)] == [b"42\nby the file"] * 2
    await backend.aclose()
    assert not [path for path in Path("/proc/self/mounts").read_text().splitlines() if str(image) in path]


async def test_a_recipe_is_no_image(backend: SingularityBackend, root: Path):
    recipe = root.parent / "image.sif"
    recipe.write_text("Bootstrap: localimage\nFrom: /nowhere\n%setup\ntouch /tmp/followed\n")
    with pytest.raises(ImageError, match=r"image\.sif: is no \.sif file"):
        await backend.create(SandboxSpec(image=str(recipe)))


async def test_a_missing_image_is_named(backend: SingularityBackend):
    with pytest.raises(ImageError, match=r"/no/such/image: no such image; expected an unpacked root"):
        await backend.create(SandboxSpec(image="/no/such/image"))


async def test_an_image_without_python_is_refused(backend: SingularityBackend, root: Path):
    with pytest.raises(ImageError, match="expected an image with python3"):
        await backend.create(SandboxSpec(image=str(root)))


async def test_a_network_is_refused_and_the_backend_that_has_one_named(backend: SingularityBackend):
    with pytest.raises(CapabilityError, match="docker"):
        await backend.create(SandboxSpec(network=Network.OPEN))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root steps down")
async def test_root_steps_down(backend: SingularityBackend):
    sandbox = await backend.create(SandboxSpec())
    await sandbox.spawn(["sleep", "4321"])
    while not (found := processes_with("sleep\x004321")):
        assert await sandbox.alive()
    assert [Path(f"/proc/{pid}").stat().st_uid for pid in found] == [65534]
    await sandbox.destroy()
    assert await gone("sleep\x004321")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide a directory from the user that it steps down to")
async def test_a_path_below_a_private_directory_can_be_shown(backend: SingularityBackend, tmp_path: Path):
    tmp_path.chmod(0o700)
    given = tmp_path / "given, and=odd"
    given.mkdir()
    (given / "file").write_text("by the host")
    sandbox = await backend.create(SandboxSpec(readonly={str(given): "/opt/given"}))
    assert (await sandbox.exec(["cat", "/opt/given/file"], timeout_seconds=20)).stdout == b"by the host"


async def test_a_missing_apptainer_says_what_to_install():
    with pytest.raises(MissingRuntime, match="apt-get install apptainer"):
        await SingularityBackend("no-such-apptainer").create(SandboxSpec())


@pytest.mark.parametrize(
    ("complaint", "meaning"),
    [
        (
            "ERROR  : Failed to create user namespace: maximum number exceeded",
            "may not make user namespaces",
        ),
        ("FATAL: Couldn't determine user account information: user: unknown userid 54321", "users of /etc/passwd"),
        ("FATAL: --config requires to be root or an unprivileged installation", "apptainer-suid"),
    ],
)
async def test_what_keeps_apptainer_from_its_work_is_a_missing_runtime(root: Path, complaint: str, meaning: str):
    program = root.parent / "apptainer"
    program.write_text(f'#!/bin/sh\nprintf "\\033[91m{complaint}\\033[0m" >&2\nexit 255\n')
    program.chmod(0o755)
    backend = SingularityBackend(str(program))
    with pytest.raises(MissingRuntime, match=meaning) as missing:
        await backend.probe()
    assert "\x1b" not in str(missing.value)
    await backend.aclose()
