"""The directories of sandboxes without a file system of their own."""

import os
from pathlib import Path
from tempfile import mkdtemp

from backends.private_directory import Place

USER = 60999


def test_what_a_command_closed_goes_with_its_sandbox(tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir(0o500)
    place = Place(Path(mkdtemp(prefix="natgym-")))
    place.make(None)
    closed = Path(place.writable[0], "a", "closed")
    (closed / "within").mkdir(parents=True)
    (closed / "link").symlink_to(outside)
    for path in (closed / "within", closed, closed.parent, Path(place.writable[0])):
        path.chmod(0)
    assert removed_by_a_user(place)
    assert not place.directory.exists()
    assert outside.stat().st_mode & 0o777 == 0o500


def removed_by_a_user(place: Place) -> bool:
    """Modes mean nothing to root, so another process removes it."""
    if os.geteuid() != 0:
        place.remove()
        return True
    for parent, names, _ in os.walk(place.directory):
        for name in (".", *names):
            os.chown(Path(parent, name), USER, USER, follow_symlinks=False)
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresuid(USER, USER, USER)
            place.remove()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
