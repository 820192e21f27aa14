"""Runs setup_mcp.sh in a world where installing a package is a line in a log and a small real MCP server."""

import json
import os
import subprocess
import sys
from pathlib import Path

RUNTIME = Path(__file__).resolve().parent
INSTALLERS = ("npm", "npx", "smithery", "uvx", "uv", "pipx", "pip", "docker", "curl")
SECONDS = 10

INSTALLER = r"""#!/bin/sh
# Stands in for npm and its like: logs what it was asked for, and makes `npm install -g PACKAGE` work for known packages.
echo "$(basename "$0") $*" >>"$GYM_WORLD/log"
if [ "$(basename "$0")" != npm ]; then
    echo "$(basename "$0"): not available here" >&2
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

    def run(self, request: dict) -> dict:
        """Exit codes and what was installed after a first and a second run.

        request["servers"]: package -> {"tools": [...], "secret": hex}.
        """
        self._make_world(request["servers"])
        runs = []
        for _ in range(2):
            (self.world / "log").write_text("")
            done = subprocess.run(
                ["/bin/bash", "setup_mcp.sh"],
                cwd=self.workspace,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=SECONDS,
            )
            installed = sorted(path.name for path in (self.world / "bin").iterdir() if path.name not in INSTALLERS)
            problem = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or [""]
            runs.append({"status": done.returncode, "installed": installed, "problem": problem[0][:200]})
        return {"runs": runs}

    def _make_world(self, servers: dict) -> None:
        binaries = self.world / "bin"
        binaries.mkdir(parents=True)
        installer = self.world / "installer"
        installer.write_text(INSTALLER)
        installer.chmod(0o755)
        for name in INSTALLERS:
            (binaries / name).symlink_to(installer)
        for package, about in servers.items():
            (self.world / f"{package}.json").write_text(json.dumps(about))
        os.environ["PATH"] = f"{binaries}:{os.environ['PATH']}"
        os.environ["GYM_WORLD"] = str(self.world)
        os.environ["GYM_SERVER"] = f"{sys.executable} -ISE {RUNTIME / 'mini_mcp.py'}"
