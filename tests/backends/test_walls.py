"""What hostile code finds when it looks for a way out of a sandbox with walls."""

import os
import socket
from pathlib import Path

import pytest

from backends.agent_sandbox import AgentSandbox
from backends.base import ExecResult, SandboxSpec
from backends.local import LocalBackend
from core.errors import ConfigError


async def python(sandbox: AgentSandbox, program: str) -> ExecResult:
    return await sandbox.exec(["python3", "-I", "-S", "-c", program], timeout_seconds=30)


async def test_user_and_capabilities_are_nobodys(walled: AgentSandbox):
    found = await walled.exec(["sh", "-c", "id -u; grep -E '^(Cap(Eff|Bnd)|NoNewPrivs)' /proc/self/status"], timeout_seconds=9)
    assert found.stdout.split() == [b"1000", b"CapEff:", b"0" * 16, b"CapBnd:", b"0" * 16, b"NoNewPrivs:", b"1"]


@pytest.mark.parametrize("path", ["/root", "/home", "/etc/shadow", "/var", "/sys", "/opt", "/run/docker.sock", "/mnt"])
async def test_the_hosts_places_are_not_there(walled: AgentSandbox, path: str):
    assert (await walled.exec(["test", "-e", path], timeout_seconds=9)).exit_code == 1


async def test_the_hosts_environment_is_in_no_process(walled: AgentSandbox, monkeypatch: pytest.MonkeyPatch):
    found = await walled.exec(["sh", "-c", "cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'"], timeout_seconds=9)
    names = {line.partition(b"=")[0] for line in found.stdout.splitlines()}
    assert names <= {b"PATH", b"HOME", b"LANG", b"LC_CTYPE", b"TERM", b"PWD"}


async def test_the_hosts_processes_are_not_there(walled: AgentSandbox):
    found = await walled.exec(["sh", "-c", "cat /proc/[0-9]*/stat | wc -l"], timeout_seconds=9)
    assert int(found.stdout) <= 5  # agent, nanny, sh, cat, wc


@pytest.mark.parametrize("path", ["/a", "/usr/a", "/etc/a", "/dev/a", "/run/natgym-agent", "/etc/passwd"])
async def test_nothing_can_be_written_outside_the_sized_directories(walled: AgentSandbox, path: str):
    assert (await walled.exec(["sh", "-c", f"echo x >{path}"], timeout_seconds=9)).exit_code != 0


@pytest.mark.parametrize("path", ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/vm/drop_caches"])
async def test_the_kernel_cannot_be_set(walled: AgentSandbox, path: str):
    assert (await walled.exec(["test", "-w", path], timeout_seconds=9)).exit_code == 1


@pytest.mark.parametrize("directory", ["/workspace", "/tmp", "/dev/shm"])
async def test_memory_that_serves_as_disk_is_bounded(walled: AgentSandbox, directory: str):
    fill = f"for i in 1 2 3; do head -c 40000000 /dev/zero >{directory}/$i || exit 1; done"
    found = await walled.exec(["sh", "-c", fill], timeout_seconds=30)
    assert b"No space left on device" in found.stderr


async def test_a_listener_of_the_host_cannot_be_reached(walled: AgentSandbox):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        found = await python(walled, f"import socket; socket.create_connection(('127.0.0.1', {port}), 5)")
    assert b"refused" in found.stderr


async def test_no_address_beyond_the_machine_can_be_reached(walled: AgentSandbox):
    # 192.0.2.1 is for documentation: no packet for it would arrive anywhere
    found = await python(walled, "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9))")
    assert b"Network is unreachable" in found.stderr


async def test_an_abstract_socket_of_the_host_cannot_be_reached(walled: AgentSandbox):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0natgym-test-{os.getpid()}")
        listener.listen()
        found = await python(walled, f"import socket; socket.socket(socket.AF_UNIX).connect('\\0natgym-test-{os.getpid()}')")
    assert b"refused" in found.stderr


FORK_400 = """
import os, time
made = 0
try:
    for _ in range(400):
        if os.fork() == 0:
            time.sleep(60)
        made += 1
except BlockingIOError:
    pass
print(made)
"""


async def test_processes_are_bounded(walled: AgentSandbox):
    assert int((await python(walled, FORK_400)).stdout) < 100
    assert await walled.alive()


async def test_a_fork_bomb_is_gone_after_its_time(walled: AgentSandbox):
    await walled.exec(["bash", "-c", "bomb() { bomb | bomb & }; bomb; sleep 60"], timeout_seconds=1)
    found = await walled.exec(["sh", "-c", "cat /proc/[0-9]*/stat | wc -l"], timeout_seconds=9)
    assert int(found.stdout) <= 5


async def test_address_space_is_bounded(local: LocalBackend):
    sandbox = await local.create(SandboxSpec(memory_mib=64))
    assert b"MemoryError" in (await python(sandbox, "bytearray(400 << 20)")).stderr


@pytest.mark.parametrize("command", ["kill -9 -1", "kill -9 1", "kill -INT 1", "kill -STOP 1", "kill -9 $PPID"])
async def test_the_agent_survives_signals_from_inside(walled: AgentSandbox, command: str):
    await walled.exec(["sh", "-c", command], timeout_seconds=9)
    assert await walled.alive()


async def test_a_stopped_nanny_does_not_save_its_command(walled: AgentSandbox):
    found = await walled.exec(["sh", "-c", "kill -STOP $PPID; sleep 0.1"], timeout_seconds=1)
    assert found.timed_out
    left = await walled.exec(["sh", "-c", "cat /proc/[0-9]*/stat | wc -l"], timeout_seconds=9)
    assert int(left.stdout) <= 5


FORGERIES = {
    "descriptor": "import glob\nfor path in glob.glob('/proc/1/fd/*'): open(path, 'wb').write(b'forged')\nopen('/proc/1/fd/3')",
    "memory": "open('/proc/1/mem', 'rb+')",
    "environment": "open('/proc/1/environ').read()",
    "ptrace": "if libc.ptrace(16, 1, 0, 0): fail()",
    "pidfd_getfd": "import os\nfor n in range(3, 40):\n    if libc.syscall(438, os.pidfd_open(1), n, 0) < 0: fail()",
    "process_vm_readv": "if libc.syscall(310, 1, 0, 0, 0, 0, 0) < 0: fail()",
    "limits": "import resource; resource.prlimit(1, resource.RLIMIT_NOFILE, (3, 3))",
    "limits of its nanny": "import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
}
FAIL = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def fail():
    raise PermissionError(ctypes.get_errno(), 'refused') if ctypes.get_errno() in (1, 13) else SystemExit('let in')
"""


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_a_command_cannot_speak_for_the_agent_or_harm_it(walled: AgentSandbox, forgery: str):
    found = await python(walled, FAIL + FORGERIES[forgery])
    assert b"PermissionError" in found.stderr
    assert await walled.alive()


NEST = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def must(result, what):
    if result:
        raise OSError(ctypes.get_errno(), what)
user, group = os.getuid(), os.getgid()
NEW_USER, NEW_PID, NEW_NS, NEW_NET, NEW_IPC = 0x10000000, 0x20000000, 0x20000, 0x40000000, 0x8000000
must(libc.unshare(NEW_USER | NEW_PID | NEW_NS | NEW_NET | NEW_IPC), "unshare")
open("/proc/self/setgroups", "w").write("deny")
open("/proc/self/uid_map", "w").write(f"{user} {user} 1")
open("/proc/self/gid_map", "w").write(f"{group} {group} 1")
if (child := os.fork()) == 0:
    must(libc.mount(b"proc", b"/proc", b"proc", 0, None), "proc")
    must(libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, b"size=1m"), "tmpfs")
    print(os.getpid(), [name for name in os.listdir("/proc") if name.isdigit()], flush=True)
    os._exit(0)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


async def test_a_spec_can_allow_namespaces_inside_with_a_proc_of_their_own(local: LocalBackend):
    sandbox = await local.create(SandboxSpec(nested_namespaces=True))
    found = await python(sandbox, NEST)
    assert (found.exit_code, found.stdout, found.stderr) == (0, b"1 ['1']\n", b"")


async def test_namespaces_inside_are_forbidden_otherwise(walled: AgentSandbox):
    found = await python(walled, NEST)
    assert b"unshare" in found.stderr


async def test_two_sandboxes_share_nothing(local: LocalBackend):
    one, other = [await local.create(SandboxSpec()) for _ in range(2)]
    await one.exec(["sh", "-c", "echo x | tee /workspace/a /tmp/a /dev/shm/a"], timeout_seconds=9)
    found = await other.exec(["sh", "-c", "ls /workspace /tmp /dev/shm"], timeout_seconds=9)
    assert found.stdout.split() == [b"/dev/shm:", b"/tmp:", b"/workspace:"]


async def test_paths_of_the_spec_are_shown_and_cannot_be_written(local: LocalBackend, tmp_path: Path):
    (tmp_path / "given").write_text("by the host")
    tmp_path.chmod(0o755)  # pytest's directories above it stay root's alone when root runs the tests
    sandbox = await local.create(SandboxSpec(readonly={str(tmp_path): "/opt/given"}))
    assert (await sandbox.exec(["cat", "/opt/given/given"], timeout_seconds=9)).stdout == b"by the host"
    assert (await sandbox.exec(["sh", "-c", "echo x >/opt/given/new"], timeout_seconds=9)).exit_code != 0
    assert [path.name for path in tmp_path.iterdir()] == ["given"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root steps down")
async def test_a_path_that_only_root_may_read_is_refused(local: LocalBackend, tmp_path: Path):
    tmp_path.chmod(0o700)
    with pytest.raises(ConfigError, match="readable by others"):
        await local.create(SandboxSpec(readonly={str(tmp_path): "/opt/given"}))
