"""`natgym doctor`: what is installed here, what is missing, and how to get it."""

import argparse
import asyncio
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from core.errors import NatgymError
from core.settings import Settings
from core.types import Value

OLDEST_PYTHON = (3, 11)
PROBE_SECONDS = 60.0
ENOUGH_DISK_GIB = 2.0
PORTS = {"rollout API": 8000, "trainer": 8001}
STRONGER = {
    "landlock": "apt-get install bubblewrap, and a kernel that allows user namespaces",
    "namespaces": "run as root, or in a delegated control group (systemd-run --user --scope --property Delegate=yes natgym "
    "...), so that memory and CPU of a whole sandbox are bounded",
}
"""Tier -> how to get a better one on this machine."""


class Finding(Value):
    """One thing that was looked at. `needed`: without it natgym up does not run."""

    what: str
    ok: bool
    detail: str
    needed: bool = True


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Look, print one line a finding; 0 where everything that is needed is there."""
    checks: list[Callable[[], Finding]] = [
        _python,
        lambda: _sandboxes("local"),
        lambda: _nat_runtime(settings.nat_python),
        lambda: _package("torch"),
        lambda: _package("transformers"),
        _policy,
        _disk,
        *(lambda name=name, port=port: _port(name, port) for name, port in PORTS.items()),
    ]
    findings = [check() for check in checks]
    if arguments.json:
        print(json.dumps([finding.model_dump() for finding in findings]))
    else:
        for finding in findings:
            mark = "ok" if finding.ok else ("MISSING" if finding.needed else "note")
            print(f"{mark:<8}{finding.what:<14}{finding.detail}")
    return 0 if all(finding.ok for finding in findings if finding.needed) else 1


def _python() -> Finding:
    fits = sys.version_info >= OLDEST_PYTHON
    return Finding(what="python", ok=fits, detail=f"{platform.python_version()} ({sys.executable})")


def _sandboxes(name: str) -> Finding:
    from backends.base import BACKENDS

    try:
        found = asyncio.run(BACKENDS.load(name)().probe())
    except NatgymError as error:
        return Finding(what="sandboxes", ok=False, detail=str(error))
    better = f"; stronger: {STRONGER[found.tier]}" if found.tier in STRONGER else ""
    return Finding(what="sandboxes", ok=True, detail=f"{found.backend}, tier {found.tier}: {found.detail}{better}")


def _nat_runtime(python: Path) -> Finding:
    program = "from importlib.metadata import version; print(version('nvidia-nat-core'))"
    try:
        done = subprocess.run([str(python), "-I", "-c", program], capture_output=True, text=True, timeout=PROBE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(what="NAT runtime", ok=False, detail=f"{python}: {error}; `make nat` makes it")
    if done.returncode != 0:
        return Finding(what="NAT runtime", ok=False, detail=f"{python} has no nvidia-nat-core; `make nat` makes it")
    return Finding(what="NAT runtime", ok=True, detail=f"NAT {done.stdout.strip()} ({python})")


def _package(name: str) -> Finding:
    try:
        return Finding(what=name, ok=True, detail=version(name))
    except PackageNotFoundError:
        return Finding(what=name, ok=False, detail="not installed; `make setup` installs it")


def _policy() -> Finding:
    from services.policy_folder import SHIPPED_POLICY

    found = (SHIPPED_POLICY / "model.safetensors").is_file()
    return Finding(
        what="policy", ok=found, detail=f"{SHIPPED_POLICY}{'' if found else ': not there; `natgym policy` makes it'}"
    )


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Finding(what="disk", ok=free > ENOUGH_DISK_GIB, detail=f"{free:.1f} GiB free here", needed=False)


def _port(name: str, port: int) -> Finding:
    from services.bind import claim_socket

    try:
        claim_socket("127.0.0.1", port).close()
    except NatgymError as error:
        return Finding(what=name, ok=False, detail=f"{error}; natgym up picks another one", needed=False)
    return Finding(what=name, ok=True, detail=f"port {port} is free")
