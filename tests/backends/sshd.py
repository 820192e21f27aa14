"""A real sshd on loopback with keys of its own, for as long as a test needs it."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from backends.ssh_remote import SshConfig
from core.errors import MissingRuntime

START_SECONDS = 30.0
CONFIG = """\
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
UseDNS no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
LogLevel ERROR
{more}
"""


class Sshd:
    """A running sshd; `config` logs in there as the user of the tests."""

    def __init__(self, folder: Path, port: int, process: "subprocess.Popen[bytes]") -> None:
        self.folder, self.port, self.process = folder, port, process

    @property
    def config(self) -> SshConfig:
        return SshConfig(
            host="127.0.0.1",
            port=self.port,
            user=pwd.getpwuid(os.geteuid()).pw_name,
            known_hosts=self.folder / "known_hosts",
            client_keys=(self.folder / "user_key",),
            keep=str(self.folder / "kept"),
        )

    def cut(self) -> None:
        """Kill the processes that serve its connections, as a host does that loses its power."""
        for child in sessions_of(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


@contextmanager
def sshd(folder: Path, more: str = "") -> Iterator[Sshd]:
    """Start one. Raises MissingRuntime where sshd is not installed."""
    import asyncssh

    program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if program is None:
        raise MissingRuntime("sshd is not installed: apt-get install openssh-server")
    user = pwd.getpwuid(os.geteuid())
    if Path(user.pw_shell).name in ("nologin", "false"):
        raise MissingRuntime(f"{user.pw_name} may not log in: its shell is {user.pw_shell}")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    for name in ("host_key", "user_key"):
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(str(folder / name))
        key.write_public_key(str(folder / f"{name}.pub"))
        (folder / name).chmod(0o600)
    (folder / "authorized_keys").write_bytes((folder / "user_key.pub").read_bytes())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host_key.pub').read_text()}")
    (folder / "sshd_config").write_text(CONFIG.format(port=port, folder=folder, more=more))
    log = folder / "sshd.log"
    process = subprocess.Popen([program, "-D", "-E", str(log), "-f", str(folder / "sshd_config")])
    server = Sshd(folder, port, process)
    try:
        _wait_for(process, port, log)
        yield server
    finally:
        os.kill(process.pid, signal.SIGSTOP)  # no new sessions while those that are there are ended
        server.cut()
        process.kill()
        process.wait()


def sessions_of(pid: int) -> list[int]:
    """The descendants of an sshd that are sshd themselves, the deepest last."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name, _, rest = (entry / "stat").read_text().rpartition(")")
            except OSError:
                continue
            if int(rest.split()[1]) == pid and "sshd" in name:
                found += [int(entry.name), *sessions_of(int(entry.name))]
    return found


def _wait_for(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            raise AssertionError(f"sshd did not start: {log.read_text()}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                connection.settimeout(START_SECONDS)
                if connection.recv(8).startswith(b"SSH-"):
                    return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"sshd does not answer within {START_SECONDS:g} s")
