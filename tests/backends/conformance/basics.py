"""What comes back from commands, programs, sessions and transfers."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from backends.base import ExecRefused, PathProblem, SandboxPathError, SandboxSpec, SessionKind
from tests.backends.conformance.cases import Cases, Place

case = Cases("basics")


@case()
async def exit_code_and_streams_come_back_apart(place: Place):
    result = await place.sh("echo out; echo err >&2; exit 3")
    assert (result.exit_code, result.signal, result.stdout, result.stderr) == (3, None, b"out\n", b"err\n")


@case()
async def one_stream_keeps_its_order(place: Place):
    assert await place.text("exec 2>&1; for i in 1 2 3; do echo $i; echo e$i >&2; done") == "1\ne1\n2\ne2\n3\ne3\n"


@case()
async def a_signal_is_named(place: Place):
    result = await place.sh("kill -SEGV $$")
    assert (result.exit_code, result.signal, result.timed_out) == (None, 11, False)


@case()
async def no_output_is_empty(place: Place):
    result = await place.sh("true")
    assert (result.exit_code, result.stdout, result.stderr, result.truncated) == (0, b"", b"", False)


@case()
async def any_bytes_pass_both_ways(place: Place):
    data = bytes(range(256)) * 20_480  # 5 MiB
    result = await place.sandbox.exec(["cat"], timeout_seconds=30, stdin=data, max_output=len(data))
    assert result.stdout == data


@case()
async def input_that_is_not_read_is_no_obstacle(place: Place):
    assert (await place.sandbox.exec(["true"], timeout_seconds=20, stdin=b"x" * (1 << 20))).exit_code == 0


@case()
async def a_long_command_line_arrives(place: Place):
    words = ["x" * 50_000] * 8
    result = await place.sandbox.exec(["bash", "-c", 'echo "$*" | wc -c', "-", *words], timeout_seconds=20)
    assert int(result.stdout) == 8 * 50_001


@case()
async def a_command_starts_in_the_workspace_or_where_it_is_told(place: Place):
    await place.sandbox.write("s\u00fcb dir/x", b"")
    here = await place.sandbox.exec(["bash", "-c", "ls"], timeout_seconds=20)
    there = await place.sandbox.exec(["bash", "-c", "ls"], timeout_seconds=20, cwd="s\u00fcb dir")
    absolute = await place.sandbox.exec(["bash", "-c", "ls"], timeout_seconds=20, cwd="/workspace/s\u00fcb dir")
    assert (here.stdout.decode(), there.stdout, absolute.stdout) == ("s\u00fcb dir\n", b"x\n", b"x\n")


@case()
async def a_command_gets_variables_of_its_own(place: Place):
    result = await place.sandbox.exec(["bash", "-c", "echo $A"], timeout_seconds=20, env={"A": "b c"})
    assert (result.stdout, await place.text("echo ${A-unset}")) == (b"b c\n", "unset\n")


@case(spec=SandboxSpec(env={"GIVEN": "yes"}))
async def the_environment_is_made_from_scratch(place: Place):
    names = {line.partition("=")[0] for line in (await place.text("env")).splitlines()}
    assert "GIVEN" in names
    assert names <= {"GIVEN", "PATH", "HOME", "TMPDIR", "LANG", "LC_CTYPE", "TERM", "PWD", "SHLVL", "_", "OLDPWD"}


@case()
async def a_missing_program_ends_as_in_a_shell(place: Place):
    result = await place.sandbox.exec(["no-such-program"], timeout_seconds=20)
    assert result.exit_code == 127
    assert b"no-such-program" in result.stderr


@case()
async def a_file_that_is_no_program_ends_as_in_a_shell(place: Place):
    await place.sandbox.write("plain", b"text")
    assert (await place.sandbox.exec(["./plain"], timeout_seconds=20)).exit_code == 126


@case()
async def a_missing_directory_is_named(place: Place):
    result = await place.sandbox.exec(["true"], timeout_seconds=20, cwd="nowhere")
    assert result.exit_code == 127
    assert b"nowhere" in result.stderr


@case()
async def what_no_program_can_be_given_is_refused(place: Place):
    for argv in ([], ["echo", "a\0b"]):
        with pytest.raises(ExecRefused):
            await place.sandbox.exec(argv, timeout_seconds=20)


@case()
async def commands_at_once_do_not_mix(place: Place):
    results = await asyncio.gather(*(place.sandbox.exec(["echo", str(n)], timeout_seconds=60) for n in range(32)))
    assert [result.stdout for result in results] == [f"{n}\n".encode() for n in range(32)]


@case()
async def output_over_the_cap_keeps_head_and_tail_and_is_counted(place: Place):
    result = await place.sh("echo first; seq 1 200000; echo last", max_output=1000)
    assert (result.truncated, len(result.stdout), result.exit_code) == (True, 1000, 0)
    assert result.stdout_total == len("first\nlast\n") + sum(len(f"{n}\n") for n in range(1, 200001))
    assert result.stdout.startswith(b"first\n1\n")
    assert result.stdout.endswith(b"\n200000\nlast\n")


@case()
async def output_at_the_cap_is_whole(place: Place):
    result = await place.sh("printf 12345", max_output=5)
    assert (result.stdout, result.truncated, result.stdout_total) == (b"12345", False, 5)


@case()
async def a_timeout_is_a_result_that_keeps_what_was_printed(place: Place):
    result = await place.sh("echo begun; sleep 4000", timeout_seconds=1)
    assert (result.exit_code, result.signal, result.timed_out, result.stdout) == (None, None, True, b"begun\n")


@case()
async def an_empty_and_a_large_file_come_back(place: Place):
    large = bytes(range(256)) * (1 << 17)  # 32 MiB
    await place.sandbox.write("empty", b"")
    await place.sandbox.write("large", large)
    assert await place.sandbox.read("empty") == b""
    assert await place.sandbox.read("large", max_bytes=len(large)) == large


@case()
async def one_byte_more_than_asked_for_is_too_large(place: Place):
    await place.sandbox.write("a", b"12345")
    assert await place.sandbox.read("a", max_bytes=5) == b"12345"
    with pytest.raises(SandboxPathError) as refused:
        await place.sandbox.read("a", max_bytes=4)
    assert refused.value.problem is PathProblem.TOO_LARGE


@case()
async def what_cannot_be_read_says_why(place: Place):
    await place.text("mkdir directory")
    for path, problem in {"directory": PathProblem.IS_A_DIRECTORY, "no/where": PathProblem.NOT_FOUND}.items():
        with pytest.raises(SandboxPathError, match=path) as refused:
            await place.sandbox.read(path)
        assert refused.value.problem is problem


@case("hides_host")
async def a_file_closed_to_its_owner_says_so(place: Place):
    await place.text("echo x >closed; chmod 0 closed")
    with pytest.raises(SandboxPathError) as refused:
        await place.sandbox.read("closed")
    assert refused.value.problem is PathProblem.DENIED


@case()
async def writing_again_replaces(place: Place):
    await place.sandbox.write("a/b", b"longer than the next")
    await place.sandbox.write("a/b", b"short")
    assert (await place.sandbox.read("a/b"), await place.sandbox.files()) == (b"short", ("a/b",))


@case()
async def the_executable_bit_is_set_where_asked(place: Place):
    await place.sandbox.write("run", b"#!/bin/sh\necho ran\n", mode=0o755)
    assert await place.text("./run") == "ran\n"


@case()
async def a_thousand_files_go_in_and_come_out(place: Place):
    files = {f"d{n % 10}/f{n}": str(n).encode() * 20 for n in range(1000)}
    await place.sandbox.upload(files)
    with TemporaryDirectory() as directory:
        names = await place.sandbox.download("/workspace", Path(directory))
        assert {name: (Path(directory) / name).read_bytes() for name in names} == files


@case()
async def a_file_of_the_host_is_uploaded_with_its_executable_bit(place: Place):
    with TemporaryDirectory() as directory:
        program = Path(directory, "program")
        program.write_text("#!/bin/sh\necho from the host\n")
        program.chmod(0o755)
        await place.sandbox.upload({"bin/program": program})
    assert await place.text("bin/program") == "from the host\n"


@case()
async def a_download_of_too_much_is_refused(place: Place):
    await place.sandbox.upload({f"f{n}": b"x" * 100 for n in range(5)})
    with TemporaryDirectory() as directory:
        for limits in ({"max_files": 4}, {"max_bytes": 450}):
            with pytest.raises(SandboxPathError) as refused:
                await place.sandbox.download("/workspace", Path(directory), **limits)
            assert refused.value.problem is PathProblem.TOO_LARGE
            for file in Path(directory).iterdir():
                file.unlink()


@case()
async def a_program_is_spoken_to(place: Place):
    program = await place.sandbox.spawn(["cat"])
    await program.send(b"hello")
    assert await program.receive() == b"hello"
    await program.kill()


@case()
async def a_bash_session_keeps_directory_variables_and_functions(place: Place):
    session = await place.sandbox.session()
    await session.run("cd /tmp; A=5; export B=6; f() { echo f$A; }", timeout_seconds=30)
    found = await session.run("f; echo $B; pwd; (exit 4)", timeout_seconds=30)
    assert (found.exit_code, found.stdout, found.cwd, found.ended) == (4, b"f5\n6\n/tmp\n", "/tmp", False)


@case()
async def a_python_session_keeps_variables_and_shows_values(place: Place):
    session = await place.sandbox.session(kind=SessionKind.PYTHON)
    first = await session.run("import os\nx = 20\nprint('set')", timeout_seconds=30)
    second = await session.run("x * 2 + len(os.sep)", timeout_seconds=30)
    assert (first.stdout, second.stdout, second.exit_code) == (b"set\n", b"41\n", 0)


@case()
async def an_exception_leaves_a_python_session_alive(place: Place):
    session = await place.sandbox.session(kind=SessionKind.PYTHON)
    failed = await session.run("y = 1\n1 / 0", timeout_seconds=30)
    assert (failed.exit_code, failed.ended) == (1, False)
    assert failed.stderr.startswith(b"Traceback")
    assert b"ZeroDivisionError" in failed.stderr
    assert (await session.run("y", timeout_seconds=30)).stdout == b"1\n"


@case()
async def a_session_that_exits_says_so_and_goes_on_where_it_was(place: Place):
    session = await place.sandbox.session()
    await session.run("mkdir sub; cd sub; A=1", timeout_seconds=30)
    left = await session.run("exit 7", timeout_seconds=30)
    again = await session.run("echo ${A-gone}", timeout_seconds=30)
    assert (left.exit_code, left.ended, again.stdout, again.cwd) == (7, True, b"gone\n", "/workspace/sub")


@case()
async def a_session_over_its_time_is_over(place: Place):
    session = await place.sandbox.session()
    found = await session.run("echo begun; while :; do :; done", timeout_seconds=1)
    assert (found.exit_code, found.timed_out, found.ended, found.stdout) == (None, True, True, b"begun\n")
    assert (await session.run("echo again", timeout_seconds=30)).stdout == b"again\n"


@case()
async def sessions_of_two_names_are_two(place: Place):
    one, other = await place.sandbox.session("one"), await place.sandbox.session("other")
    await one.run("A=1", timeout_seconds=30)
    assert (await other.run("echo ${A-unset}", timeout_seconds=30)).stdout == b"unset\n"


@case()
async def what_a_session_leaves_running_lives_until_the_restart(place: Place):
    session = await place.sandbox.session()
    await session.run("sleep 4000 & echo $! >pid", timeout_seconds=30)
    alive = "kill -0 $(cat pid) 2>/dev/null && echo yes || echo no"
    before = (await session.run(alive, timeout_seconds=30)).stdout
    await session.restart()
    assert (before, (await session.run(alive, timeout_seconds=30)).stdout) == (b"yes\n", b"no\n")


@case()
async def text_that_looks_like_a_status_is_output(place: Place):
    session = await place.sandbox.session()
    found = await session.run(r"printf '1\0/etc\0'; printf '\0\0\0\011\0\0\0\0{\"id\": 1}'", timeout_seconds=30)
    assert (found.exit_code, found.cwd, found.stdout) == (0, "/workspace", b'1\0/etc\0\0\0\0\t\0\0\0\0{"id": 1}')


@case()
async def usage_grows_with_use(place: Place):
    before = await place.sandbox.stats()
    await place.sandbox.write("a", b"x" * (4 << 20))
    program = await place.sandbox.spawn(["sleep", "4000"])
    after = await place.sandbox.stats()
    await program.kill()
    assert after.processes > before.processes
    assert after.disk_bytes - before.disk_bytes >= 4 << 20
    assert after.memory_bytes > before.memory_bytes > 0
