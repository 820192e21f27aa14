"""Runs setup_mcp.sh in a world where installing a package is a line in a log and a small real MCP server."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from runtime.isolation import PR_SET_DUMPABLE, prctl

SERVER = f"{sys.executable} -ISE {Path(__file__).resolve().parent / 'mini_mcp.py'}"
SOCKET = "mcp"
MAX_PROBLEM = 200
INSTALLERS = ("npm", "npx", "smithery", "uvx", "uv", "pipx", "pip", "docker", "curl")

INSTALLER = r"""#!/bin/sh
# Stands in for npm and its like: logs what it was asked for, and makes `npm install -g PACKAGE` work for known packages.
program=${0##*/}
echo "$program $*" >>"$GYM_WORLD/log"
if [ "$program" != npm ]; then
    echo "$program: not available here" >&2
    exit 1
fi
case "$1" in install | i | add) shift ;; *) exit 0 ;; esac
global=no
for word in "$@"; do
    case "$word" in -g | --global | --location=global) global=yes ;; esac
done
for word in "$@"; do
    case "$word" in -*) continue ;; esac
    package=${word%@latest}
    if [ "$global" = no ] || [ ! -f "$GYM_WORLD/$package.json" ]; then
        echo "npm error 404 Not Found - $word" >&2
        exit 1
    fi
    printf '#!/bin/sh\nexec %s %s\n' "$GYM_SERVER" "$GYM_WORLD/$package.json" >"$GYM_WORLD/bin/$package"
    chmod 755 "$GYM_WORLD/bin/$package"
done
"""


class SetupScript:
    """The script of one workspace and the directory that it installs to."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.world = workspace / ".world"

    def install(self, request: dict) -> None:
        """Have the packages of request["servers"] (see `run`) on the path, as a script that installs them leaves them."""
        self._make_world(request["servers"])
        for package in request["servers"]:
            program = self.world / "bin" / package
            program.write_text(self._wrapper(package))
            program.chmod(0o755)

    def run(self, request: dict) -> dict:
        """Exit codes and what was installed after a first and a second run.

        request["servers"]: package -> {"tools": [...]}. What counts as installed is what the installer made.
        """
        prctl(PR_SET_DUMPABLE, 0)  # or the script could write into the memory of this process
        self._make_world(request["servers"])
        runs = []
        for _ in range(2):
            (self.world / "log").write_text("")
            with tempfile.TemporaryFile() as errors:  # in a file a flood of them ends at the file's largest size
                status = subprocess.run(
                    ["/bin/bash", "setup_mcp.sh"],
                    cwd=self.workspace,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                ).returncode
                errors.seek(max(0, errors.tell() - MAX_PROBLEM))
                problem = errors.read().decode("utf-8", "replace").strip().splitlines()[-1:] or [""]
            runs.append({"status": status, "installed": self._installed(), "problem": problem[0][:MAX_PROBLEM]})
        return {"runs": runs}

    def _installed(self) -> list[str]:
        found = [path for path in (self.world / "bin").iterdir() if not path.is_symlink() and path.is_file()]
        return sorted(path.name for path in found if path.read_bytes() == self._wrapper(path.name).encode())

    def _wrapper(self, package: str) -> str:
        return f"#!/bin/sh\nexec {SERVER} {self.world / package}.json\n"

    def _make_world(self, servers: dict) -> None:
        binaries = self.world / "bin"
        binaries.mkdir(parents=True)
        installer = self.world / "installer"
        installer.write_text(INSTALLER)
        installer.chmod(0o755)
        for name in INSTALLERS:
            (binaries / name).symlink_to(installer)
        for package, about in servers.items():
            about = {"package": package, "tools": about["tools"], "socket": str(self.world / SOCKET)}
            (self.world / f"{package}.json").write_text(json.dumps(about))
        os.environ["PATH"] = f"{binaries}:{os.environ['PATH']}"
        os.environ["GYM_WORLD"] = str(self.world)
        os.environ["GYM_SERVER"] = SERVER
