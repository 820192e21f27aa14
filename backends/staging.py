"""Root's way to hand paths to an unprivileged bubblewrap that it could not reach itself, below /root say.

In a mount namespace of its own, which ends with the sandbox and which nobody else sees, root binds them where
everybody can go, and then becomes the unprivileged user.
"""

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from core.errors import ConfigError

UNPRIVILEGED = 60999  # in no range that Debian, systemd or subordinate users hand out
PLACE = "/sys"  # is on every machine, and no sandbox is shown it
SCRIPT = f"""
set -e
count=$1
shift
mount -t tmpfs -o mode=755,size=1m natgym {PLACE}
number=0
while [ $number -lt $count ]; do
    if [ -d "$1" ]; then mkdir {PLACE}/$number; else : >{PLACE}/$number; fi
    mount --bind "$1" {PLACE}/$number
    number=$((number + 1))
    shift
done
exec "$@"
"""


class Staged(NamedTuple):
    """The words to put before a command line, and the paths under which it finds what it binds."""

    prefix: list[str]
    binds: dict[str, str]


def everybody_reaches(path: str) -> bool:
    """Whether any user of the machine can go to that path.

    Raises ConfigError where none but its owner may read it, which no stage mends.
    """
    resolved = Path(path).resolve()
    needed = stat.S_IROTH | (stat.S_IXOTH if resolved.is_dir() else 0)
    if resolved.stat().st_mode & needed != needed:
        raise ConfigError(f"sandbox path {path}: commands run as an unprivileged user; expected it readable by others")
    return all(directory.stat().st_mode & stat.S_IXOTH for directory in resolved.parents)


def step_down(user: int) -> list[str]:
    """The words that run a command line as `user`.

    A program of its own for that, because Python would have to copy itself (fork) to change its user, which costs more the
    larger the caller is; without it the kernel lends the caller's memory (vfork).
    """
    return ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups", "--inh-caps=-all", "--"]


def stage(binds: Mapping[str, str], user: int) -> Staged:
    """Bind the sources of `binds` (source -> path inside) in a reachable place, then run a command line as `user`."""
    prefix = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", SCRIPT, "sh", str(len(binds))]
    return Staged(
        [*prefix, *binds, *step_down(user)], {f"{PLACE}/{number}": inside for number, inside in enumerate(binds.values())}
    )
