"""Children of the fork server: what they cannot do to it, to each other and to the host."""

import asyncio
import re
from pathlib import Path

import pytest

from backends.local import LocalBackend
from core.errors import MissingRuntime, RewardError
from core.types import JsonObject
from environments.nat_agent.fork_client import ChildLost, ChildMistake, ForkLimits
from environments.nat_agent.fork_server import ForkServer

pytestmark = [pytest.mark.nat, pytest.mark.asyncio(loop_scope="session")]


async def run_code(server: ForkServer, code: str, limits: ForkLimits | None = None) -> str:
    """Import `code` as a tool in a fresh child; the text of the exception that it ends with."""
    async with server.fork(limits) as fork:
        await fork.ask({"do": "files", "files": {"nat_tools/tool.py": code}})
        reports = await fork.ask({"do": "load", "names": ["tool"]})
        report = reports["tool"]
        assert isinstance(report, dict)
        return str(report["error"])


async def end_of(server: ForkServer, code: str, wall_seconds: float = 120) -> str:
    """How running `code` under tight limits ends: with an exception, or with the loss of the child."""
    try:
        return await run_code(server, code, ForkLimits(cpu_seconds=3, wall_seconds=wall_seconds))
    except ChildLost as lost:
        return f"lost: {lost}"


async def load(server: ForkServer) -> str:
    return await run_code(server, "raise ValueError('fine')")


async def test_a_runtime_that_is_not_there_names_the_make_target(tmp_path: Path):
    with pytest.raises(MissingRuntime, match="make nat"):
        ForkServer(LocalBackend(), tmp_path / "python")


async def test_a_child_is_the_first_process_and_sees_no_other(server: ForkServer):
    found = await run_code(
        server, "import os\nraise ValueError([os.getpid(), sorted(n for n in os.listdir('/proc') if n.isdigit())])"
    )
    assert found.startswith("ValueError: [1, ['1']]")


async def test_a_child_has_no_descriptor_but_its_own(server: ForkServer):
    code = (
        "import os\nfound = []\nfor fd in range(4096):\n"
        "    try: found.append(os.readlink(f'/proc/self/fd/{fd}').split(':')[0])\n"
        "    except OSError: pass\n"
        "raise ValueError(found)"
    )
    streams, event_loop, channel = ["/dev/null"] * 3, ["anon_inode", "socket", "socket"], ["socket"]
    assert str(streams + event_loop + channel) in await run_code(server, code)


async def test_a_child_has_no_capability_and_cannot_get_one(server: ForkServer):
    found = await run_code(
        server, "raise ValueError([l for l in open('/proc/self/status') if l[:3] == 'Cap' or 'NoNewPrivs' in l])"
    )
    assert found.count("0000000000000000") == 5
    assert "NoNewPrivs:\\t1" in found


async def test_a_child_reaches_no_network(server: ForkServer):
    found = await run_code(server, "import socket\nsocket.create_connection(('127.0.0.1', 22), 1)")
    assert "OSError" in found or "ConnectionRefused" in found


async def test_files_of_one_child_are_not_there_for_the_next(server: ForkServer):
    await run_code(server, "for place in ('.', '/tmp', '/dev/shm'):\n    open(f'{place}/left', 'w').close()\nraise ValueError")
    code = "import os\nraise ValueError([os.path.exists(f'{place}/left') for place in ('.', '/tmp', '/dev/shm')])"
    assert "[False, False, False]" in await run_code(server, code)


async def test_what_one_child_was_told_is_not_in_the_memory_of_the_next(server: ForkServer):
    needle = "needle-" + 32 * "a"
    assert needle in await run_code(server, f"raise ValueError({needle!r})")
    code = (
        "import re\nfound = set()\nfor line in open('/proc/self/maps'):\n"
        "    start, end = (int(one, 16) for one in line.split()[0].split('-'))\n"
        "    if ' rw' in line and '[v' not in line:\n"
        "        with open('/proc/self/mem', 'rb') as memory:\n"
        "            memory.seek(start)\n"
        "            found |= set(re.findall(rb'needle-[a-z]{32}', memory.read(end - start)))\n"
        "raise ValueError(sorted(found))"
    )
    assert (await run_code(server, code)).startswith("ValueError: []")


async def test_a_child_cannot_reach_its_parent(server: ForkServer):
    code = "import os\nassert os.getppid() == 0\nos.kill(-1, 9)\nos.listdir('/proc/1')\nos.waitpid(-1, 0)"
    assert "ProcessLookupError" in await run_code(server, code)
    assert "fine" in await load(server)


async def test_a_child_cannot_write_where_the_next_one_reads(server: ForkServer):
    code = "import os\nimport nat.plugin_api as api\nopen(api.__file__, 'a')"
    refusal = await run_code(server, code)
    assert "Read-only file system" in refusal or "PermissionError" in refusal


@pytest.mark.parametrize(
    ("code", "end"),
    [
        pytest.param("import os; os._exit(0)", "lost: ended", id="exits"),
        pytest.param("import os; os.abort()", "lost: ended", id="aborts"),
        pytest.param(
            "import os\nfor fd in range(3, 64): os.closerange(fd, fd + 1)\nwhile True: pass", "lost: ended", id="hangs up"
        ),
        pytest.param("while True: pass", "lost: (ended|cpu limit|wall clock limit)", id="never ends"),
        pytest.param("import os\nfor _ in range(3): os.fork()\nwhile True: pass", "lost: cpu limit", id="never ends eightfold"),
        pytest.param("import os\nwhile True: os.fork() or __import__('time').sleep(60)", "unavailable", id="fork bomb"),
        pytest.param("x = []\nwhile True: x.append(bytearray(1 << 26))", "MemoryError|lost", id="eats memory"),
        pytest.param(
            "import os, time\nfor _ in range(2): os.fork()\nx = bytearray(b'x') * (700 << 20)\ntime.sleep(60)",
            "lost: memory limit",
            id="eats memory fourfold",
        ),
        pytest.param("open('x', 'wb').write(bytes(1 << 26))", "File too large|No space left", id="fills the disk"),
    ],
)
async def test_a_child_gets_no_more_than_its_share_and_the_server_lives(server: ForkServer, code: str, end: str):
    assert re.search(end, await end_of(server, code))
    assert "fine" in await load(server)


async def test_a_child_that_sleeps_ends_at_the_wall_clock_limit(server: ForkServer):
    assert await end_of(server, "import time; time.sleep(600)", wall_seconds=2) == "lost: wall clock limit"
    assert "fine" in await load(server)


FORGERY = """
import json, os, socket, struct
for fd in range(3, 64):
    try:
        channel = socket.socket(fileno=os.dup(fd))
    except OSError:
        continue
    if os.get_blocking(fd):  # the event loop's own sockets are not
        {attack}
"""


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param("channel.sendall(struct.pack('>I', 1 << 31))", id="a frame too long"),
        pytest.param("channel.sendall(struct.pack('>I', 4) + b'nope')", id="no JSON"),
        pytest.param("channel.sendall(struct.pack('>I', 20000) + b'[' * 20000)", id="deep JSON"),
        pytest.param("channel.sendall(struct.pack('>I', 406) + b'{\"a\":' + b'[' * 200 + b']' * 200 + b'}')", id="nested JSON"),
        pytest.param("channel.sendall(struct.pack('>I', 2) + b'[]')", id="no object"),
    ],
)
async def test_a_child_that_breaks_the_protocol_is_lost(server: ForkServer, attack: str):
    assert (await end_of(server, FORGERY.format(attack=attack))).startswith("lost")
    assert "fine" in await load(server)


async def test_a_child_that_answers_what_nobody_asked_is_lost(server: ForkServer):
    code = FORGERY.format(attack="while True: channel.sendall(struct.pack('>I', 2) + b'{}')")
    async with server.fork() as fork:
        await fork.ask({"do": "files", "files": {"nat_tools/tool.py": code}})
        assert await fork.ask({"do": "load", "names": ["tool"]}) == {}

        async def ask_again() -> None:
            while True:  # until it has had the processor for a second word
                await fork.ask({"do": "load", "names": []})

        with pytest.raises(ChildLost, match="more than it was asked"):
            await asyncio.wait_for(ask_again(), 60)
    assert "fine" in await load(server)


async def test_a_series_is_answered_one_by_one_and_its_mistakes_stay_where_they_are(server: ForkServer):
    code = "from nat_tools.tool_seen import seen"
    asked: list[JsonObject] = [{"do": "load", "names": []}, {"do": "nothing of that kind"}, {"do": "load", "names": ["tool"]}]
    async with server.fork() as fork:
        await fork.ask({"do": "files", "files": {"nat_tools/tool.py": code}})
        first, second, third = await fork.ask_all(asked)
    assert first == {}
    assert isinstance(second, ChildMistake)
    assert isinstance(third, dict)
    assert "tool_seen" in str(third["tool"])


async def test_a_child_is_told_the_next_request_of_a_series_when_it_has_answered_the_one_before(server: ForkServer):
    code = (
        "import os, select, stat\n"
        "fds = [int(fd) for fd in os.listdir('/proc/self/fd')]\n"
        "def is_channel(fd):\n"
        "    try: return stat.S_ISSOCK(os.fstat(fd).st_mode) and os.get_blocking(fd)\n"
        "    except OSError: return False\n"
        "channels = list(filter(is_channel, fds))\n"
        "raise ValueError(len(channels), select.select(channels, [], [], 0.5)[0])"
    )
    async with server.fork() as fork:
        await fork.ask({"do": "files", "files": {"nat_tools/tool.py": code}})
        first, _ = await fork.ask_all([{"do": "load", "names": ["tool"]}, {"do": "load", "names": []}])
    assert isinstance(first, dict)
    assert "ValueError: (1, [])" in str(first["tool"])


async def test_what_a_child_started_dies_with_it(server: ForkServer):
    code = "import os\nif os.fork() == 0:\n    os.setsid()\n    import time\n    time.sleep(600)\nraise ValueError('started')"
    assert "started" in await run_code(server, code)


async def test_children_run_at_the_same_time(server: ForkServer):
    async with server.fork() as first, server.fork() as second:
        await first.ask({"do": "files", "files": {"nat_tools/a.py": "raise ValueError('first')"}})
        await second.ask({"do": "files", "files": {"nat_tools/a.py": "raise ValueError('second')"}})
        reports = [await fork.ask({"do": "load", "names": ["a"]}) for fork in (second, first)]
    assert ["second" in str(reports[0]), "first" in str(reports[1])] == [True, True]


async def test_a_request_that_fails_says_why_and_the_child_goes_on(server: ForkServer):
    async with server.fork() as fork:
        with pytest.raises(ChildMistake, match="KeyError"):
            await fork.ask({"do": "no such thing"})
        assert await fork.ask({"do": "load", "names": []}) == {}


async def test_a_dead_server_is_a_reward_error_and_the_next_fork_starts_another(nat_python: Path):
    backend = LocalBackend()
    server = ForkServer(backend, nat_python)
    try:
        await server.start()
        async with server.fork() as fork:
            waiting = asyncio.create_task(ask_forever(fork.ask))
            assert server._running is not None
            await server._running.sandbox.destroy()
            with pytest.raises(RewardError, match="fork server"):
                await waiting
        assert "fine" in await load(server)
    finally:
        await server.stop()
        await backend.aclose()


async def ask_forever(ask) -> JsonObject:
    """Keep a child busy until something breaks."""
    while True:
        await ask({"do": "load", "names": []})
