"""Attacks on the machine: parents that are killed or traced, bombs, floods, and what stays behind for the next one."""

from environments.nat_agent.attacks.subject import (
    ALL,
    EMPTY_TOOLS,
    LOST,
    MILES_FILE,
    SETUP,
    Trick,
    Worth,
    both,
    each_test,
    miles,
)

KILLS = """
import os, signal
for pid in (-1, os.getppid(), 2, 3, 4):
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass
"""
TRACES = """
import ctypes, os
libc = ctypes.CDLL(None)
for pid in {1, os.getppid(), os.getpid() - 1}:
    libc.ptrace(16, pid, 0, 0)
    try:
        with open(f"/proc/{pid}/mem", "r+b") as memory:
            memory.seek(1 << 20)
            memory.write(b"x")
    except (OSError, ValueError):
        pass
"""
ESCAPES = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
escaped = [flag for flag in (0x10000000, 0x20000000, 0x00020000, 0x40000000) if libc.unshare(flag) == 0]
escaped += [path for path in ("/proc/1/ns/mnt", "/proc/1/ns/pid") if libc.setns(os.open(path, os.O_RDONLY), 0) == 0]
escaped += ["mount"] if libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0 else []
if escaped:
    raise SystemExit(f"escaped: {escaped}")
"""
FORK_BOMB = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n"
THREAD_BOMB = "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(600,)).start()\n"
MEMORY_BOMB = "hoard = []\nwhile True:\n    hoard.append(bytearray(1 << 26))\n"
FORKED_MEMORY = """
import os, time
for _ in range(12):
    if os.fork() == 0:
        hoard = [os.urandom(1 << 20) * 1 for _ in range(400)]
        time.sleep(600)
time.sleep(600)
"""
DISK_BOMB = "import itertools\nfor n in itertools.count():\n    open(f'/tmp/{n}', 'wb').write(bytes(1 << 22))\n"
LEFT_BEHIND = """
import os, socket, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("\\0natgym-left")
        listener.listen()
        while True:
            for folder in ("/tmp", "/workspace", "/dev/shm", "/workspace/nat_tools", "/var/tmp"):
                try:
                    open(os.path.join(folder, "sitecustomize.py"), "w").write("raise SystemExit")
                except OSError:
                    pass
            time.sleep(0.2)
    os._exit(0)
"""
SHARED = """
import ctypes, mmap, os
libc = ctypes.CDLL(None)
segment = libc.shmget(4242, 4096, 0o1666)
libc.semget(4242, 4, 0o1666)
libc.msgget(4242, 0o1666)
open("/dev/shm/left", "wb").write(b"x" * 4096)
libc.syscall(248, b"user", b"left", b"x", 1, -4)
if segment > 0:
    raise SystemExit("a segment of an earlier evaluation is still there")
"""
STREAMS = (
    "import os\nfor _ in range(200):\n    os.write(1, b'x' * 65536)\n    os.write(2, b'y' * 65536)\n    print('z' * 65536)\n"
)
CHANNEL_FLOOD = """
import os
for fd in range(3, 16):
    try:
        if os.get_blocking(fd):
            while True:
                os.write(fd, b"\\0\\0\\0\\2{}" * 4096)
    except OSError:
        pass
"""
LOST_TOOL = Worth(0.60, 1.0, 0.60)
STUCK_SETUP = Worth(1.0, 0.65, 0.85)

TRICKS = (
    Trick("killing and tracing", "a tool kills everybody that it can name", both(KILLS), EMPTY_TOOLS),
    Trick("killing and tracing", "a tool traces and writes into other processes", both(TRACES), EMPTY_TOOLS),
    Trick("killing and tracing", "a tool tries to leave its namespaces", both(ESCAPES), EMPTY_TOOLS),
    Trick(
        "killing and tracing",
        "the setup script writes into the process that watches it",
        {SETUP: "python3 - <<'X'\nimport os\nfor pid in (1, os.getppid()):\n    open(f'/proc/{pid}/mem', 'r+b')\nX\n"},
        STUCK_SETUP,
    ),
    Trick("bombs", "processes without end", both(FORK_BOMB), LOST),
    Trick("bombs", "threads without end", both(THREAD_BOMB), LOST_TOOL),
    Trick("bombs", "memory without end", both(MEMORY_BOMB), LOST_TOOL),
    Trick("bombs", "memory without end in many processes", both(FORKED_MEMORY), LOST),
    Trick("bombs", "files without end", both(DISK_BOMB), LOST_TOOL),
    Trick(
        "bombs",
        "a tool that never returns",
        {MILES_FILE: f"import itertools\n{miles('sum(0 for _ in itertools.count())')}"},
        Worth(0.80, 1.0, 0.60),
    ),
    Trick("bombs", "a tool that sleeps", {MILES_FILE: f"import time\n{miles('time.sleep(600)')}"}, Worth(0.80, 1.0, 0.60)),
    Trick("output floods", "a tool floods its streams", {MILES_FILE: f"{STREAMS}\n{miles()}"}, ALL),
    Trick("output floods", "a tool returns megabytes", both("", '"x" * (1 << 22)', '"x" * (1 << 22)'), EMPTY_TOOLS),
    Trick("output floods", "a tool floods the channel", both(CHANNEL_FLOOD), LOST),
    Trick("output floods", "the setup script never stops talking", {SETUP: "yes >&2\n"}, STUCK_SETUP),
    Trick("left behind", "a process that outlives its evaluation", both(LEFT_BEHIND), EMPTY_TOOLS),
    Trick("left behind", "shared memory, queues and keys", both(SHARED), EMPTY_TOOLS),
    Trick(
        "left behind",
        "a process of the tests",
        each_test(f"{LEFT_BEHIND}\ndef test_tool():\n    assert True\n"),
        Worth(1.0, 1.0, 0.80),
    ),
)
