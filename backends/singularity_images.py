"""Image files of apptainer, unpacked once for all sandboxes of a backend: that costs less than mounting one each time."""

import asyncio
import os
import re
from collections.abc import Callable
from pathlib import Path

from backends.base import ImageError

EXPECTED = "expected an unpacked root directory or a .sif file of this machine"
SIF_START, SIF_MAGIC = 32, b"SIF_MAGIC"
COLOUR = re.compile(r"\x1b\[\d*m")


class ImageFiles:
    """`program` finds apptainer, `place` a directory of ours; `user` unpacks, where root runs us."""

    def __init__(self, program: Callable[[], str], place: Callable[[], Path], user: int | None) -> None:
        self._program, self._place, self._user = program, place, user
        self._unpacking = asyncio.Lock()

    async def root_of(self, image: Path) -> Path:
        """The directory to start in. Raises ImageError for what is no image."""
        root = self._unpacked(image)
        async with self._unpacking:
            if not root.exists():
                await self._unpack(image, root)
        return root

    def _unpacked(self, image: Path) -> Path:
        """Where the directory of an image is, or will be."""
        if image.is_dir():
            return image
        if not image.is_file():
            raise ImageError(f"{image}: no such image; {EXPECTED}")
        with image.open("rb") as file:
            head = file.read(SIF_START + len(SIF_MAGIC))
        if not head.endswith(SIF_MAGIC):  # apptainer would take it for a recipe, and follow it
            raise ImageError(f"{image}: is no .sif file; {EXPECTED}")
        place = self._place() / "images"
        if not place.exists():
            place.mkdir(mode=0o711)
            if self._user is not None:
                os.chown(place, self._user, self._user)
        status = image.stat()
        return place / f"{status.st_dev}-{status.st_ino}-{status.st_mtime_ns}"

    async def _unpack(self, image: Path, directory: Path) -> None:
        half = directory.with_suffix(".half")
        command = [
            self._program(),
            "--nocolor",
            "--silent",
            "build",
            "--force",
            "--fix-perms",
            "--sandbox",
            str(half),
            str(image),
        ]
        unpacking = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            cwd="/",
            user=self._user,
            group=self._user,
            extra_groups=None if self._user is None else [],
        )
        try:
            _, messages = await unpacking.communicate()
        except asyncio.CancelledError:
            unpacking.kill()
            await unpacking.wait()
            raise
        if unpacking.returncode != 0:
            raise ImageError(f"{image}: apptainer cannot unpack it: {plain(messages.decode('utf-8', 'replace'))[-1000:]}")
        half.rename(directory)


def plain(message: str) -> str:
    """Without the colours that apptainer writes, terminal or not."""
    return COLOUR.sub("", message).strip()
