"""What runs on the far side of ssh before the agent does: keeps files, says what is there, starts sandboxes, finds them.

Sent as text (backends/ssh_remote.py) and run by any Python from 3.9, so: standard library only. The first words on
standard output are a mark that the host chose, because a login shell may print before us. The order is then read from
standard input: four bytes of length and a JSON object. What comes after it belongs to the agent.
"""
# pathlib would cost every sandbox milliseconds
# ruff: noqa: PTH102, PTH103, PTH104, PTH110, PTH111, PTH114, PTH115, PTH118, PTH123, PTH208, S606

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time

OWNER = "NATGYM_OWNER"
CREATED = "NATGYM_CREATED"
STILL_SECONDS = 5.0


def read_order() -> dict:
    """The order on standard input."""
    size = int.from_bytes(_read(4), "big")
    return json.loads(_read(size))


def prepare(order: dict) -> dict:
    """Keep the files that are not kept yet, and say what is there."""
    import base64
    import shutil
    import tempfile

    folder = os.path.expanduser(order["keep"])
    os.makedirs(folder, 0o700, exist_ok=True)
    for digest, text in order["files"].items():
        handle, path = tempfile.mkstemp(dir=folder)
        with os.fdopen(handle, "wb") as file:
            file.write(base64.b64decode(text))
        os.rename(path, os.path.join(folder, digest))
    system = {path: os.readlink(path) if os.path.islink(path) else "" for path in order["system"] if os.path.exists(path)}
    return {
        "user": os.geteuid(),
        "machine": os.uname().machine,
        "system": system,
        "kept": sorted(set(order["wanted"]) & set(os.listdir(folder))),
        "bubblewrap": shutil.which("bwrap") or "",
        "python": os.path.realpath(sys.executable),
        "prefix": os.path.realpath(sys.base_prefix),
        "missing": [path for path in order["paths"] if not os.path.exists(path)],
    }


def launch(order: dict) -> None:
    """Become the program of the order, with kept files as descriptors, as another user where one is given."""
    for number, digest in order["files"]:
        opened = os.open(os.path.join(os.path.expanduser(order["keep"]), digest), os.O_RDONLY)
        os.dup2(opened, number)
        os.close(opened)
    if order["user"] is not None:
        os.setgroups([])
        os.setgid(order["user"])
        os.setuid(order["user"])
    os.chdir("/")
    os.execve(order["argv"][0], order["argv"], order["env"])


def launch_in_folder(order: dict) -> None:
    """Run the program of the order beside a folder of its own, which is removed afterwards."""
    os.mkdir(order["folder"], 0o700)
    for name in order["folders"]:
        os.mkdir(os.path.join(order["folder"], name), 0o700)
    pid = os.fork()
    if pid == 0:
        launch(order)
    for number in (0, 1):
        os.close(number)  # the agent's alone, or the host would not see it end
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    os.waitpid(pid, 0)
    remove_folder(order["folder"])


def remove_folder(folder: str) -> None:
    """Remove a folder in which a policy's commands have worked, and none works any more."""
    import shutil
    import subprocess

    with contextlib.suppress(RecursionError):  # it goes as deep into itself as the folders do
        shutil.rmtree(folder, ignore_errors=True)
    if os.path.lexists(folder):
        # what a command has closed is opened; only folders, because a file may have a name elsewhere too
        opened = 'find "$0" -type d ! -perm -700 -execdir chmod u+rwx {} ";"'
        subprocess.run(["/bin/sh", "-c", f'{opened}; rm -rf -- "$0"', folder], capture_output=True, check=False)


def find(order: dict) -> dict:
    """Sandboxes that were started here: pid, when that started in clock ticks, owner, and age in seconds."""
    return {"found": [found for found in map(_labelled, os.listdir("/proc")) if found]}


def end(order: dict) -> dict:
    """Kill those that `find` found, as long as they are still the same processes."""
    ended = []
    for pid, started in order["found"]:
        if _started(pid) == started:
            try:
                os.kill(int(pid), signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
            ended.append(pid)
    until = time.monotonic() + STILL_SECONDS
    while any(_started(pid) for pid in ended) and time.monotonic() < until:
        time.sleep(0.01)
    return {"ended": ended}


def main(operation: str, mark: str) -> None:
    """Say the mark, then obey."""
    os.write(1, mark.encode() + b"\n")
    order = read_order()
    answer = {"prepare": prepare, "launch": launch, "launch_in_folder": launch_in_folder, "find": find, "end": end}[operation](
        order
    )
    if answer is not None:
        sys.stdout.write(json.dumps(answer))


def _read(size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = os.read(0, size - len(data))
        if not part:
            sys.exit("the host is gone")
        data += part
    return data


def _labelled(pid: str) -> tuple[str, str, str, float] | None:
    if not pid.isdigit():
        return None
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            environ = dict(word.split("=", 1) for word in os.fsdecode(file.read()).split("\0") if "=" in word)
    except OSError:
        return None
    if OWNER not in environ or int(pid) == os.getpid():
        return None
    created = environ.get(CREATED, "")  # a command can write anything there
    return pid, _started(pid), environ[OWNER], time.time() - (int(created) if created.isdecimal() else 0)


def _started(pid: str) -> str:
    """Clock ticks from boot to the start of a process; empty where there is none, or only its status is left."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == b"Z" else fields[19].decode()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
