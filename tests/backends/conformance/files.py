"""Files that were laid out to harm who reads them."""

import asyncio
import os
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from backends.base import Limit, PathProblem, SandboxPathError, SandboxSpec
from tests.backends.conformance.cases import Cases, Place

case = Cases("files")

TRAPS = {
    "a link to a file": ("ln -s /etc/passwd trap", "trap"),
    "a link to a directory": ("ln -s /etc trap", "trap/passwd"),
    "a link to itself": ("ln -s trap trap", "trap"),
    "a dangling link": ("ln -s nowhere trap", "trap"),
    "a link inside": ("echo secret >real; ln -s real trap", "trap"),
    "a link to a device": ("ln -s /dev/zero trap", "trap"),
    "a FIFO": ("mkfifo trap", "trap"),
    "a socket": ("python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('trap')\"", "trap"),
    "a link up": ("ln -s .. trap", "trap/workspace/../../etc/passwd"),
}


@case(Limit.DISK, Limit.MEMORY, spec=SandboxSpec(disk_mib=128))  # in memory here: a busy disk or line takes a while for them
async def a_hundred_megabytes_go_there_and_back(place: Place):
    data = os.urandom(1 << 20) * 100
    await place.sandbox.write("large", data)
    assert (await place.text("sha256sum <large")).split()[0] == sha256(data).hexdigest()
    back = await place.sandbox.read("large", max_bytes=len(data))
    assert sha256(back).hexdigest() == sha256(data).hexdigest()
    with pytest.raises(SandboxPathError):
        await place.sandbox.read("large", max_bytes=len(data) - 1)


HALVES = ("a\ud800", "a\ud800/b", "/workspace/\udfff")


@case()
async def half_a_character_in_a_path_is_refused(place: Place):
    for path in HALVES:
        for attempt in (place.sandbox.read(path), place.sandbox.write(path, b""), place.sandbox.upload({path: b"", "b": b""})):
            with pytest.raises(SandboxPathError) as refused:
                await attempt
            assert str(refused.value).isascii()
    assert await place.sandbox.alive()


NOT_FILES = ("/dev/zero", "/dev/ptmx", "/proc/self/fd/1", "/proc/kmsg", "/dev/shm", "/proc/1/root/etc/passwd")


@case("hides_host")
async def devices_and_what_the_kernel_shows_are_not_read(place: Place):
    for path in NOT_FILES:
        with pytest.raises(SandboxPathError):
            await place.sandbox.read(path)
    assert await place.sandbox.alive()


@case.table("not read", {name: f"{command}\0{path}" for name, (command, path) in TRAPS.items()})
async def only_regular_files_are_read(place: Place, trap: str):
    command, _, path = trap.partition("\0")
    await place.text(command)
    with pytest.raises(SandboxPathError):
        await place.sandbox.read(path)


CLIMBS = ("..", "../a", "a/../../b", "/workspace/../etc/passwd", "", "/", "/workspace", "a\0b")


@case.table("refused", {repr(path): path for path in CLIMBS})
async def paths_that_climb_or_name_nothing(place: Place, path: str):
    for attempt in (place.sandbox.read(path), place.sandbox.write(path, b""), place.sandbox.upload({path: b""})):
        with pytest.raises(SandboxPathError):
            await attempt


@case()
async def a_climbing_path_says_that_it_escapes(place: Place):
    with pytest.raises(SandboxPathError) as refused:
        await place.sandbox.read("../../etc/passwd")
    assert refused.value.problem is PathProblem.ESCAPES


@case()
async def writing_to_a_link_replaces_the_link(place: Place):
    await place.text("echo untouched >real; ln -s real trap")
    await place.sandbox.write("trap", b"new")
    assert await place.text("cat real trap") == "untouched\nnew"


@case()
async def writing_through_a_linked_directory_is_refused(place: Place):
    await place.text("mkdir real; ln -s real trap")
    with pytest.raises(SandboxPathError):
        await place.sandbox.write("trap/a", b"new")


@case()
async def writing_to_a_hard_link_leaves_the_other_name_alone(place: Place):
    await place.text("echo untouched >real; ln real twin")
    await place.sandbox.write("twin", b"new")
    assert await place.text("cat real twin") == "untouched\nnew"


@case()
async def a_directory_swapped_for_a_link_is_never_followed(place: Place):
    await place.sandbox.write("real/name", b"inside")
    swapping = "mkdir other; echo outside >other/name; while :; do mv real r; ln -s other real; rm real; mv r real; done"
    racing = asyncio.create_task(place.sh(swapping, timeout_seconds=1))
    found = set[bytes]()
    while not racing.done():
        try:
            found.add(await place.sandbox.read("real/name"))
        except SandboxPathError:
            continue
    assert found <= {b"inside"}


@case()
async def a_sparse_giant_is_not_read(place: Place):
    await place.text("truncate -s 60M giant")
    with pytest.raises(SandboxPathError) as refused:
        await place.sandbox.read("giant", max_bytes=1000)
    assert refused.value.problem is PathProblem.TOO_LARGE


@case()
async def a_sparse_giant_is_no_larger_than_a_file_may_be(place: Place):
    assert (await place.sh("truncate -s 1T giant")).exit_code != 0
    await place.text("for i in 1 2 3 4; do truncate -s 60M bomb$i; done")
    with TemporaryDirectory() as directory, pytest.raises(SandboxPathError) as refused:
        await place.sandbox.download("/workspace", Path(directory), max_bytes=1 << 20)
    assert refused.value.problem is PathProblem.TOO_LARGE


@case()
async def a_name_with_a_newline_is_a_name(place: Place):
    await place.sandbox.write("a\nb \u00fc", b"1")
    assert await place.sandbox.read("a\nb \u00fc") == b"1"
    assert await place.sandbox.files() == ("a\nb \u00fc",)


@case()
async def the_list_holds_regular_files_only(place: Place):
    await place.text("mkdir -p d/e; touch b d/a d/e/z; ln -s /etc d/link; ln -s b link; mkfifo d/f")
    assert await place.sandbox.files() == ("b", "d/a", "d/e/z")


@case()
async def a_download_makes_no_link_and_follows_none(place: Place):
    await place.text(
        "mkdir -p out/d; echo 1 >out/d/a; ln -s /etc/passwd out/b; ln -s /etc out/c; mkfifo out/f; ln -s a out/d/l"
    )
    with TemporaryDirectory() as directory:
        names = await place.sandbox.download("out", Path(directory))
        made = sorted(str(path.relative_to(directory)) for path in Path(directory).rglob("*"))
    assert (names, made) == (("d/a",), ["d", "d/a"])


@case()
async def a_deep_tree_and_strange_names_do_not_break_the_list(place: Place):
    deep = "import os\nopen(b'\\xff', 'w').close()\nfor _ in range(300):\n    os.mkdir('d'); os.chdir('d')\n"
    await place.sandbox.write("make.py", f"{deep}open('end', 'w').close()".encode())
    await place.text("python3 make.py")
    assert await place.sandbox.files() == ("make.py",)


@case()
async def names_that_are_longer_together_than_the_host_allows_are_refused(place: Place):
    deep = "import os\nfor _ in range(30):\n    os.mkdir('d' * 200); os.chdir('d' * 200)\nopen('end', 'w').close()"
    await place.sandbox.exec(["python3", "-I", "-S", "-c", deep], timeout_seconds=30)
    assert len((await place.sandbox.files())[0]) > 6000
    with TemporaryDirectory() as directory, pytest.raises(SandboxPathError) as refused:
        await place.sandbox.download("/workspace", Path(directory))
    assert refused.value.problem is PathProblem.TOO_LARGE


@case()
async def directories_deeper_than_python_goes_are_measured_and_removed(place: Place):
    deep = "import os\nfor _ in range(3000):\n    os.mkdir('d'); os.chdir('d')"
    await place.sandbox.exec(["python3", "-I", "-S", "-c", deep], timeout_seconds=30)
    assert (await place.sandbox.stats()).disk_bytes >= 0
    await place.sandbox.reset()
    assert await place.text("ls") == ""
    await place.sandbox.exec(["python3", "-I", "-S", "-c", deep], timeout_seconds=30)
    await place.sandbox.destroy()


@case()
async def a_name_that_no_file_can_have_is_refused(place: Place):
    for attempt in (place.sandbox.write("x" * 300, b""), place.sandbox.write("x" * 300 + "/a", b"")):
        with pytest.raises(SandboxPathError):
            await attempt
    assert await place.sandbox.alive()


@case()
async def an_upload_goes_through_no_link_and_into_no_device(place: Place):
    await place.text("mkdir real; ln -s real linked; ln -s /dev/null null; mkfifo pipe; ln -s /etc/passwd passwd; ln -s / root")
    for path in ("linked/a", "root/tmp/a", "null/a", "pipe/a"):
        with pytest.raises(SandboxPathError):
            await place.sandbox.upload({path: b"new"})
    await place.sandbox.upload({"null": b"1", "pipe": b"2", "passwd": b"3"})
    assert await place.text("cat null pipe passwd; find . -type l -o -type p | sort") == "123./linked\n./root\n"


@case()
async def an_upload_cannot_be_led_astray_while_it_goes_on(place: Place):
    swapping = "mkdir other; while :; do mkdir -p real; rm -rf real; ln -s $PWD/other real; rm real; done 2>/dev/null"
    racing = asyncio.create_task(place.sh(swapping, timeout_seconds=1))
    while not racing.done():
        try:
            await place.sandbox.upload({"real/a": b"1", "real/d/b": b"2"})
        except SandboxPathError:
            continue
    assert await place.text("ls -A other") == ""


@case()
async def a_file_that_grows_while_it_is_read_is_bounded(place: Place):
    growing = asyncio.create_task(place.sh("while :; do echo more >>grows; done", timeout_seconds=1))
    while not growing.done():
        try:
            assert len(await place.sandbox.read("grows", max_bytes=200)) <= 200
        except SandboxPathError:
            await asyncio.sleep(0)


@case()
async def a_failed_write_leaves_nothing_behind(place: Place):
    await place.text("mkdir a")
    with pytest.raises(SandboxPathError):
        await place.sandbox.write("a", b"1")
    assert await place.text("ls -A") == "a\n"


@case("hides_host")
async def a_full_disk_is_the_paths_error(place: Place):
    with pytest.raises(SandboxPathError) as refused:
        await place.sandbox.write("big", os.urandom(1) * (80 << 20))
    assert refused.value.problem is PathProblem.NO_SPACE
    assert await place.sandbox.files() == ()


@case("hides_host")
async def system_directories_cannot_be_written(place: Place):
    with pytest.raises(SandboxPathError) as refused:
        await place.sandbox.write("/usr/bin/sh", b"")
    assert refused.value.problem is PathProblem.DENIED
