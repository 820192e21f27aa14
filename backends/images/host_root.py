"""A root directory without a program in it: this machine's own system directories are shown in it, read only.

Docker and apptainer sandboxes are made of it where a spec names no image, so that they hold the same programs as those
of the backend `local`, and nothing has to be downloaded.
"""

import tarfile
from hashlib import sha256
from io import BytesIO
from pathlib import Path

from backends.bubblewrap import ETC, FILES, SYSTEM

DIRECTORIES = ("dev", "etc", "proc", "run", "sys", "tmp", "usr", "workspace")


def write_root(directory: Path) -> None:
    """Make the root in an existing, empty directory."""
    for name in DIRECTORIES:
        (directory / name).mkdir()
    for path in map(Path, SYSTEM):
        inside = directory / path.relative_to("/")
        if path.is_symlink():
            inside.symlink_to(path.readlink())
        elif path.is_dir():
            inside.mkdir(exist_ok=True)
    for name, text in FILES.items():
        file = directory / name.removeprefix("/")
        file.write_text(text, encoding="ascii")
        file.chmod(0o444)


def root_archive(directory: Path) -> bytes:
    """What `write_root` made there as an uncompressed tar file, the same bytes every time."""
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(directory.rglob("*")):
            archive.add(path, arcname=str(path.relative_to(directory)), recursive=False, filter=_anonymous)
    return buffer.getvalue()


def digest(archive: bytes) -> str:
    """The content of an archive in 16 characters, for the name of an image."""
    return sha256(archive).hexdigest()[:16]


def system_binds() -> dict[str, str]:
    """What has to be shown in the root for programs to run: host path -> path inside."""
    shown = [path for path in map(Path, SYSTEM) if path.is_dir() and not path.is_symlink()]
    return {str(path): str(path) for path in [*shown, *filter(Path.exists, map(Path, ETC))]}


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry
