"""Files of sandboxes, and the ways in which a hostile one may try to reach out through them."""

import asyncio
import os

import pytest

from backends.agent_sandbox import AgentSandbox
from backends.base import SandboxError, SandboxPathError, SandboxSpec
from backends.local import LocalBackend


async def shell(sandbox: AgentSandbox, command: str) -> str:
    return (await sandbox.exec(["sh", "-c", command], timeout_seconds=20)).stdout.decode()


@pytest.mark.parametrize("path", ["a.txt", "/workspace/a.txt", "deep/er/b.txt", "täg \n.txt"])
async def test_what_was_written_is_read(sandbox: AgentSandbox, path: str):
    await sandbox.write(path, b"\x00\xff data")
    assert await sandbox.read(path) == b"\x00\xff data"


async def test_commands_see_what_was_written(sandbox: AgentSandbox):
    await sandbox.write("x/a.txt", b"hello")
    assert await shell(sandbox, "cat x/a.txt; stat -c %a x/a.txt") == "hello644\n"


async def test_writing_again_replaces_the_file(sandbox: AgentSandbox):
    await sandbox.write("a.txt", b"longer than the next")
    await sandbox.write("a.txt", b"short")
    assert await sandbox.read("a.txt") == b"short"


async def test_writing_leaves_no_other_file_behind(sandbox: AgentSandbox):
    await sandbox.write("a.txt", b"1")
    await asyncio.gather(*(sandbox.write("a.txt", str(n).encode()) for n in range(20)))
    assert await sandbox.files() == ("a.txt",)


async def test_a_failed_write_leaves_nothing_behind(sandbox: AgentSandbox):
    await shell(sandbox, "mkdir a.txt")
    with pytest.raises(SandboxPathError, match=r"a\.txt: Is a directory"):
        await sandbox.write("a.txt", b"1")
    assert await shell(sandbox, "ls -A") == "a.txt\n"


async def test_a_missing_file_is_named(sandbox: AgentSandbox):
    with pytest.raises(SandboxPathError, match="no/where: No such file or directory"):
        await sandbox.read("no/where")


async def test_a_file_over_the_limit_is_not_read(sandbox: AgentSandbox):
    await shell(sandbox, "truncate -s 40M sparse")
    with pytest.raises(SandboxPathError, match="holds 41943040 bytes, at most 100"):
        await sandbox.read("sparse", max_bytes=100)


async def test_a_file_of_the_limit_is_read(sandbox: AgentSandbox):
    await sandbox.write("a", b"x" * 100)
    assert await sandbox.read("a", max_bytes=100) == b"x" * 100


@pytest.mark.parametrize("path", ["..", "../a", "a/../../b", "/workspace/../etc/passwd", "", "/", "/workspace", "a\0b"])
async def test_a_path_that_climbs_or_names_nothing_is_refused(sandbox: AgentSandbox, path: str):
    with pytest.raises(SandboxPathError):
        await sandbox.read(path)
    with pytest.raises(SandboxPathError):
        await sandbox.write(path, b"")


TRAPS = {
    "link to a file": ("ln -s /etc/passwd trap", "trap"),
    "link to a directory": ("ln -s /etc trap", "trap/passwd"),
    "link to itself": ("ln -s trap trap", "trap"),
    "dangling link": ("ln -s nowhere trap", "trap"),
    "link inside": ("echo secret >real; ln -s real trap", "trap"),
    "FIFO": ("mkfifo trap", "trap"),
    "directory": ("mkdir trap", "trap"),
    "device": ("ln -s /dev/zero trap", "trap"),
    "socket": ("python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('trap')\"", "trap"),
}


@pytest.mark.parametrize("trap", TRAPS)
async def test_only_regular_files_are_read(sandbox: AgentSandbox, trap: str):
    command, path = TRAPS[trap]
    await shell(sandbox, command)
    with pytest.raises(SandboxPathError):
        await sandbox.read(path)


async def test_writing_to_a_link_replaces_the_link(sandbox: AgentSandbox):
    await shell(sandbox, "echo untouched >real; ln -s real trap")
    await sandbox.write("trap", b"new")
    assert await shell(sandbox, "cat real trap") == "untouched\nnew"


async def test_writing_through_a_linked_directory_is_refused(sandbox: AgentSandbox):
    await shell(sandbox, "mkdir real; ln -s real trap")
    with pytest.raises(SandboxPathError, match="trap/a: Not a directory"):
        await sandbox.write("trap/a", b"new")


async def test_a_directory_that_is_swapped_for_a_link_is_never_followed(sandbox: AgentSandbox):
    await sandbox.write("real/name", b"inside")
    swapping = "mkdir other; echo outside >other/name; while true; do mv real r; ln -s other real; rm real; mv r real; done"
    racing = asyncio.create_task(sandbox.exec(["sh", "-c", swapping], timeout_seconds=1))
    found = set()
    while not racing.done():
        try:
            found.add(await sandbox.read("real/name"))
        except SandboxPathError:
            continue
    assert found <= {b"inside"}


async def test_files_lists_regular_files_only(sandbox: AgentSandbox):
    await shell(sandbox, "mkdir -p d/e; touch b d/a d/e/z; ln -s /etc d/link; ln -s b link; mkfifo d/f")
    assert await sandbox.files() == ("b", "d/a", "d/e/z")


async def test_files_lists_no_more_than_asked(sandbox: AgentSandbox):
    await shell(sandbox, "mkdir d; touch d/$(seq -s ' d/' 1000 1999)")
    assert await sandbox.files(max_files=3) == ("d/1000", "d/1001", "d/1002")


async def test_a_deep_tree_and_strange_names_do_not_break_the_list(sandbox: AgentSandbox):
    deep = "import os\nopen(b'\\xff', 'w').close()\nfor _ in range(300):\n    os.mkdir('d'); os.chdir('d')\n"
    await sandbox.write("make.py", f"{deep}open('end', 'w').close()".encode())
    await shell(sandbox, "python3 make.py")
    assert await sandbox.files() == ("make.py",)


async def test_a_full_disk_is_the_paths_error(walled: AgentSandbox):
    with pytest.raises(SandboxPathError, match="No space left"):
        await walled.write("big", os.urandom(1) * (80 << 20))
    assert await walled.files() == ()


async def test_there_is_no_snapshot_of_more_files_than_an_agent_can_keep(local: LocalBackend):
    walled = await local.create(SandboxSpec(disk_mib=256))
    program = "import os\nopen('a', 'w').close()\nfor n in range(100_000): os.link('a', str(n))"
    made = await walled.exec(["python3", "-I", "-S", "-c", program], timeout_seconds=60)
    assert made.exit_code == 0
    with pytest.raises(SandboxError, match="more than 100000 files; no snapshot"):
        await walled.snapshot()
    assert await walled.alive()


async def test_absolute_paths_reach_the_other_directories_behind_walls(walled: AgentSandbox):
    await walled.write("/tmp/a", b"1")
    assert await shell(walled, "cat /tmp/a") == "1"


async def test_system_directories_cannot_be_written(walled: AgentSandbox):
    with pytest.raises(SandboxPathError, match="Read-only file system"):
        await walled.write("/usr/bin/sh", b"")
