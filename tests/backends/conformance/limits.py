"""What a command may use up, and that the sandbox answers afterwards."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from backends.base import Feature, Limit, SandboxPathError, SandboxSpec
from tests.backends.conformance.cases import Cases, Place

case = Cases("limits")

FORK = """
import os, time
made = 0
try:
    for _ in range(400):
        if os.fork() == 0:
            time.sleep(60)
        made += 1
except OSError:
    pass
print(made)
"""
THREADS = """
import threading, time
made = 0
try:
    for _ in range(400):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        made += 1
except RuntimeError:
    pass
print(made, flush=True)
import os
os._exit(0)
"""


@case(Limit.PROCESSES, "private_pids", dangerous=True)
async def processes_are_bounded(place: Place):
    assert int((await place.python(FORK)).stdout) < 100
    assert await place.sandbox.alive()


@case(Limit.PROCESSES, "private_pids", dangerous=True)
async def threads_count_as_processes(place: Place):
    assert int((await place.python(THREADS)).stdout) < 100
    assert await place.sandbox.alive()


@case(Limit.PROCESSES, "private_pids", dangerous=True)
async def a_fork_bomb_is_gone_after_its_time(place: Place):
    await place.sh("bomb() { bomb | bomb & }; bomb; sleep 60", timeout_seconds=1)
    assert (await place.sandbox.stats()).processes <= 2
    assert (await place.sh("echo again")).stdout == b"again\n"


@case(spec=SandboxSpec(memory_mib=64))
async def the_address_space_of_one_process_is_bounded(place: Place):
    assert b"MemoryError" in (await place.python("bytearray(400 << 20)")).stderr


HOGS = """
import os, time
for _ in range(8):
    if os.fork() == 0:
        kept = b'x' * (60 << 20)
        time.sleep(2)
        os._exit(0)
raise SystemExit(sum(os.wait()[1] == 9 for _ in range(8)))
"""


@case(Limit.MEMORY, "private_pids", dangerous=True, spec=SandboxSpec(memory_mib=128, processes=64))
async def memory_is_bounded_for_all_processes_together(place: Place):
    result = await place.python(HOGS)
    assert result.exit_code != 0 or result.out_of_memory  # the exit code counts the killed
    assert await place.sandbox.alive()


ALONE = "kept = []\nwhile True:\n    kept.append(b'x' * (8 << 20))"


@case(Limit.MEMORY, "private_pids", dangerous=True, spec=SandboxSpec(memory_mib=64, disk_mib=16, processes=64))
async def a_process_that_takes_all_memory_is_ended(place: Place):
    result = await place.python(ALONE)
    assert result.out_of_memory or result.signal == 9 or b"MemoryError" in result.stderr
    assert await place.sandbox.alive()


MILLION = """
import os
open("source", "w").close()
try:
    for number in range(10**6):
        {make}
except OSError as error:
    print(error.strerror)
"""
NAMES = {"files": "os.mknod(str(number))", "links": "os.link('source', str(number))", "directories": "os.mkdir(str(number))"}
LITTLE = SandboxSpec(memory_mib=32, disk_mib=8)


@case.table("an end to", NAMES, Limit.DISK, Limit.MEMORY, "private_pids", dangerous=True, spec=LITTLE)
async def a_million_names_are_too_many(place: Place, make: str):
    result = await place.python(MILLION.format(make=make), timeout_seconds=60)
    assert result.stdout == b"No space left on device\n" or result.signal == 9
    await place.sandbox.reset()
    assert (await place.sh("echo again")).stdout == b"again\n"


HOARD = """
import ctypes, os, socket, time
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
message = ctypes.create_string_buffer(b"\\1", 8008)
kept = []
def fill(one, other):
    one.setblocking(False)
    kept.append((one, other))
    try:
        while True: one.send(bytes(1 << 16))
    except BlockingIOError: pass
def share(place):
    ctypes.memset(place, 1, 8 << 20)
    libc.shmdt(ctypes.c_void_p(place))
for _ in range(100_000):
    {more}
"""
HOARDERS = {
    "nameless files": "fd = os.memfd_create('f'); [os.write(fd, bytes(1 << 16)) for _ in range(99)]",
    "children": "os.fork() or (bytearray(b'x') * (4 << 20), time.sleep(60))\n    _ < 50 or os._exit(1)",
    "socket buffers": "fill(*socket.socketpair())",
    "shared segments": "share(libc.shmat(libc.shmget(0, 8 << 20, 0o1600), None, 0))",
    "queues": "queue = libc.msgget(0, 0o1600)\n    while libc.msgsnd(queue, message, 8000, 0o4000) == 0: pass",
}


@case.table("all memory taken by", HOARDERS, Limit.MEMORY, Limit.DISK, "private_pids", dangerous=True, spec=LITTLE)
async def who_hoards_memory_goes_before_the_agent(place: Place, more: str):
    found = await place.python(HOARD.format(more=more), timeout_seconds=30)
    assert found.signal == 9 or found.exit_code == 1  # killed, or it could make no more
    assert (await place.sh("echo again")).stdout == b"again\n"
    await place.sandbox.reset()
    assert (await place.sh("echo anew")).stdout == b"anew\n"


MANY = """
import os
open("source", "w").close()
for number in range(20_000):
    os.link("source", f"n{number}")
"""


@case(Feature.RESET, Limit.DISK)  # in memory: a real disk takes a minute for them
async def more_files_than_anybody_wants_to_know_of_are_counted_and_removed(place: Place):
    assert (await place.python(MANY, timeout_seconds=60)).exit_code == 0
    assert len(await place.sandbox.files(max_files=50)) == 50
    with TemporaryDirectory() as directory, pytest.raises(SandboxPathError):
        await place.sandbox.download("/workspace", Path(directory))
    await place.sandbox.reset()
    assert await place.sandbox.files() == ()


WRITABLE = {"workspace": "/workspace", "tmp": "/tmp", "shared memory": "/dev/shm"}


@case.table("a bound on", WRITABLE, Limit.DISK)
async def directories_are_bounded(place: Place, directory: str):
    result = await place.sh(f"for i in 1 2 3 4; do head -c 40000000 /dev/zero >{directory}/$i || exit 1; done")
    assert result.exit_code == 1
    assert b"No space left on device" in result.stderr
    assert await place.sandbox.alive()


@case(spec=SandboxSpec(disk_mib=4))
async def one_file_is_bounded(place: Place):
    result = await place.sh("head -c 6000000 /dev/zero >big; stat -c %s big")
    assert int(result.stdout) <= 4 << 20


@case("hides_host")
async def nothing_else_can_be_written(place: Place):
    for path in ("/a", "/usr/a", "/etc/a", "/dev/a", "/etc/passwd"):
        assert (await place.sh(f"echo x >{path}")).exit_code != 0, path


@case()
async def a_command_that_uses_up_its_descriptors_harms_only_itself(place: Place):
    result = await place.python("import os\nwhile True: os.dup(0)")
    assert b"Too many open files" in result.stderr
    assert await place.sandbox.alive()


@case()
async def a_gigabyte_of_output_is_counted_and_not_kept(place: Place):
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = resident_kib("VmRSS")
    result = await place.sh(
        "head -c 500000000 /dev/zero; head -c 500000000 /dev/zero >&2", timeout_seconds=100, max_output=1000
    )
    assert (len(result.stdout), len(result.stderr), result.truncated) == (1000, 1000, True)
    assert (result.stdout_total, result.stderr_total) == (500_000_000, 500_000_000)
    assert resident_kib("VmHWM") - before < 16 << 10


def resident_kib(field: str) -> int:
    """Memory of this process, as the kernel's status of it says under that name."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


@case()
async def a_line_without_end_is_cut(place: Place):
    result = await place.sh("yes | tr -d '\\n'", timeout_seconds=1, max_output=1000)
    assert (result.timed_out, len(result.stdout)) == (True, 1000)


@case()
async def no_core_is_dumped(place: Place):
    result = await place.sh("ulimit -c; kill -ABRT $$")
    assert (result.stdout, result.signal) == (b"0\n", 6)
    assert await place.sandbox.files() == ()


@case()
async def a_limit_cannot_be_raised(place: Place):
    assert (await place.sh("ulimit -c 100")).exit_code != 0 or (await place.sh("ulimit -c")).stdout == b"0\n"


@case(Limit.CPU, spec=SandboxSpec(cpus=0.5, processes=64))
async def eight_busy_loops_get_no_more_than_their_share(place: Place):
    before = (await place.sandbox.stats()).cpu_seconds
    result = await place.sh("for i in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done; sleep 4; times", timeout_seconds=30)
    used = (await place.sandbox.stats()).cpu_seconds - before
    assert used < 0.5 * result.seconds + 0.5


@case(Feature.RESET)
async def the_answer_to_a_full_disk_is_a_reset(place: Place):
    await place.sh("head -c 60000000 /dev/zero >full; head -c 60000000 /dev/zero >fuller")
    await place.sandbox.reset()
    await place.sandbox.write("a", b"room again")
    assert await place.sandbox.files() == ("a",)
