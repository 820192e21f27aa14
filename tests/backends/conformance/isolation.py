"""What hostile code finds when it looks for a way out. Nothing here sends a packet that could leave the machine."""

import os
import socket
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.backends.conformance.cases import SPEC, Cases, Place

case = Cases("isolation")


@case("hides_host")
async def a_file_of_the_host_is_not_there(place: Place):
    with TemporaryDirectory(dir="/var/tmp") as directory:
        secret = Path(directory, "secret")
        secret.write_text("of the host")
        Path(directory).chmod(0o755)
        found = await place.sh(f"cat {secret}; cat {Path.home()}/.bashrc /root/.bashrc; ls /proc/1/root{directory}")
    assert found.stdout == b""


@case("hides_host")
async def the_passwords_of_the_host_are_not_there(place: Place):
    assert (await place.sh("cat /etc/shadow /etc/gshadow /etc/sudoers /etc/ssh/ssh_host_*_key")).stdout == b""


@case("hides_host")
async def a_terminal_is_its_own_and_those_of_the_host_are_not_there(place: Place):
    listing = "import os; print(os.listdir('/dev/pts')); a, b = os.openpty(); print(os.ttyname(b))"
    assert (await place.python(listing)).stdout == b"['ptmx']\n/dev/pts/0\n"


@case("hides_host")
async def the_sockets_of_daemons_are_not_there(place: Place):
    found = await place.sh("ls -d /run/docker.sock /var/run/docker.sock /run/containerd /run/systemd/private 2>/dev/null")
    assert found.stdout == b""


@case()
async def a_variable_of_the_host_is_in_no_process(place: Place):
    os.environ["NATGYM_TEST_SECRET"] = "of-the-host"
    try:
        place.sandbox = await place.backend.create(SPEC)
    finally:
        del os.environ["NATGYM_TEST_SECRET"]
    mine = "env"
    everybody = "cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'"
    command = everybody if place.capabilities.private_pids else mine
    assert b"of-the-host" not in (await place.sh(f"{command}; :")).stdout


@case("private_pids")
async def the_processes_of_the_host_are_not_there(place: Place):
    assert int(await place.text("cat /proc/[0-9]*/stat | wc -l")) <= 6
    assert (await place.sh(f"kill -0 {os.getpid()}")).exit_code != 0 or os.getpid() < 10


@case("private_pids")
async def two_sandboxes_share_nothing(place: Place):
    await place.text("echo x | tee /workspace/a /tmp/a /dev/shm/a >/dev/null")
    program = await place.sandbox.spawn(["bash", "-c", "echo up; sleep 4000; :"])
    await program.receive()
    other = await place.backend.create(SPEC)
    found = await other.exec(
        ["bash", "-c", "ls /workspace/a /tmp/a /dev/shm/a 2>/dev/null; pgrep sleep; :"], timeout_seconds=30
    )
    assert found.stdout == b""


@case("private_pids")
async def two_sandboxes_share_no_system_v_memory(place: Place):
    make = "import ctypes; print(ctypes.CDLL(None).shmget(4711, 4096, 0o1666))"
    await place.python(make)
    other = await place.backend.create(SPEC)
    found = await other.exec(["cat", "/proc/sysvipc/shm"], timeout_seconds=30)
    assert len(found.stdout.splitlines()) == 1


@case("no_network")
async def a_port_of_one_sandbox_is_not_one_of_another(place: Place):
    listening = "import socket; s = socket.create_server(('127.0.0.1', 4711)); print('up', flush=True); s.accept()"
    program = await place.sandbox.spawn(["python3", "-I", "-S", "-c", listening])
    up = await program.receive()
    assert up == (b"up\n" if place.capabilities.private_pids else b"")  # without namespaces there is no socket at all
    other = await place.backend.create(SPEC)
    call = "import socket; socket.create_connection(('127.0.0.1', 4711), 5)"
    assert (await other.exec(["python3", "-I", "-S", "-c", call], timeout_seconds=30)).exit_code == 1


@case("no_network")
async def a_listener_of_the_host_cannot_be_reached(place: Place):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        found = await place.python(f"import socket; socket.create_connection(('127.0.0.1', {port}), 5)")
    assert found.exit_code == 1
    assert b"Error" in found.stderr


@case("no_network")
async def an_abstract_socket_of_the_host_cannot_be_reached(place: Place):
    name = f"natgym-test-{os.urandom(6).hex()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        found = await place.python(f"import socket; socket.socket(socket.AF_UNIX).connect('\\0{name}')")
    assert found.exit_code == 1


# 192.0.2.1 is for documentation: no packet for it would arrive anywhere; the other is where clouds keep their metadata
UNREACHABLE = {
    "UDP": "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9))",
    "TCP": "socket.create_connection(('192.0.2.1', 9), 3)",
    "the metadata service": "socket.create_connection(('169.254.169.254', 80), 3)",
    "raw packets": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    # of no network namespace: a virtual machine speaks to the one below it by AF_VSOCK
    "a socket to the machine below": "socket.socket(40, socket.SOCK_STREAM)",
    "a socket of the kernel's cryptography": "socket.socket(38, socket.SOCK_SEQPACKET)",
    "packets of the link": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)",
}


@case.table("no way out by", UNREACHABLE, "no_network")
async def nothing_can_be_reached(place: Place, statement: str):
    found = await place.python(f"import socket\ntry:\n    {statement}\nexcept OSError as error:\n    print('refused')")
    assert found.stdout == b"refused\n"


CALL = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")
"""
SYSCALLS = {
    "unshare a user namespace": "call(272, 0x10000000)",
    "unshare mounts": "call(272, 0x20000)",
    "mount": "call(165, b'none', b'/tmp', b'tmpfs', 0, None)",
    "pivot_root": "call(155, b'/', b'/')",
    "chroot": "os.chroot('/tmp')",
    "ptrace": "call(101, 16, os.getppid(), 0, 0)",
    "bpf": "call(321, 0, ctypes.create_string_buffer(128), 128)",
    "keyctl": "call(250, 0, -3, 0, 0, 0)",
    "add_key": "call(248, b'user', b'natgym', b'x', 1, -3)",
    "io_uring": "call(425, 1, ctypes.create_string_buffer(256))",
    "userfaultfd": "call(323, 1)",
    "perf_event_open": "call(298, ctypes.create_string_buffer(128), 0, -1, -1, 0)",
    "a device node": "os.mknod('device', 0o20666, os.makedev(1, 3))",
    "a root-owned file": "open('f', 'w'); os.chown('f', 0, 0)",
    "another user": "os.setuid(0)",
    "the host's name": "call(170, b'owned', 5)",
    "the clock": "import time; time.clock_settime(0, 0)",
    "kernel modules": "call(175, b'', 0, b'')",
    "reboot": "call(169, 0xfee1dead, 672274793, 0, 0)",
    "swap": "call(167, b'/workspace/f', 0)",
}


@case.table("refused", SYSCALLS, "hides_host")
async def ways_into_the_kernel_are_closed(place: Place, statement: str):
    if os.uname().machine != "x86_64" and "call(" in statement:
        pytest.skip("the numbers of the system calls are those of x86-64")
    found = await place.python(f"{CALL}\ntry:\n    {statement}\nexcept OSError as error:\n    print('refused')")
    assert found.stdout == b"refused\n"


@case("hides_host")
async def no_capability_and_no_new_privileges(place: Place):
    found = await place.text("grep -E '^(CapEff|CapPrm|CapBnd|CapAmb|NoNewPrivs)' /proc/self/status")
    values = dict(line.split(":\t") for line in found.splitlines())
    assert values.pop("NoNewPrivs") == "1"
    assert values.pop("CapBnd", "0" * 16) == "0" * 16 or int(await place.text("id -u")) != 0
    assert set(values.values()) == {"0" * 16}


SETTINGS = ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/vm/drop_caches", "/sys/kernel/mm/ksm/run")


@case.table("not written", {path: path for path in SETTINGS}, "hides_host")
async def the_kernel_cannot_be_set(place: Place, path: str):
    assert (await place.sh(f"echo 0 >{path}")).exit_code != 0


@case("hides_host")
async def a_terminal_of_the_host_cannot_be_typed_into(place: Place):
    program = (
        "import fcntl\nfor n in (0, 1, 2):\n    try: fcntl.ioctl(n, 0x5412, b'x'); print('typed')\n    except OSError: pass"
    )
    assert (await place.python(program)).stdout == b""
    assert (await place.sh("exec 3<>/dev/tty")).exit_code != 0


@case("hides_host")
async def a_setuid_program_gains_nothing(place: Place):
    await place.text("cp $(command -v id) own-id; chmod u+s own-id")
    mine, theirs = await place.text("id -u"), await place.text("./own-id -u")
    assert mine == theirs
    assert (await place.sh("su -c id root </dev/null || sudo -n id")).exit_code != 0


@case("hides_host")
async def memory_and_disks_of_the_machine_are_not_there(place: Place):
    assert (await place.sh("ls /dev/mem /dev/kmem /dev/sda /dev/vda /dev/kvm /dev/fuse 2>/dev/null")).stdout == b""
